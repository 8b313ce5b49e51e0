"""Queries for single sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.languages import language_of, n_words
from sharpen.evaluation.settings import Count
from sharpen.sdg.harvesting import split_sentences
from sharpen.sdg.strategies.base import MIN_WORDS, Unit
from sharpen.sdg.strategies.few_shot import StrategySettings


class Sentence(StrategySettings):
    """Each sentence alone, as in Wen et al. 2025 (3.3.1): queries about a detail and not about the whole.

    >>> strategy = Sentence(pool=[{"document": "x", "query": "y"}], sentences=1).resolve()
    >>> unit, = strategy.units([Document("d", "Beans are soaked in water overnight. Then they are boiled.")])
    >>> unit.key, unit.text
    ('sentence:d/0', 'Beans are soaked in water overnight.')
    """

    kind: Literal["sentence"] = "sentence"
    sentences: Count = Field(3, description="At most so many of a document, spread over it.")

    worded: ClassVar[bool] = True
    default_task: ClassVar[str] = (
        "Each sentence stands with a question that somebody typed into a search box and that the sentence answers. "
        "The questions are about its detail and name what it is about, as nobody sees the sentence with them."
    )
    label: ClassVar[str] = "Sentence"

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        for document in documents[: self.documents]:
            sentences = enumerate(split_sentences(document.text, language_of(document)))
            long_enough = [(n, s) for n, s in sentences if n_words(s) >= MIN_WORDS]
            # spread over the text: the first ones of every document are its introduction
            step = max(1, len(long_enough) // self.sentences)
            for number, sentence in long_enough[::step][: self.sentences]:
                for sample in range(self.per_document):
                    key = f"{self.prefix}{document.id}/{number}" + (f"/{sample}" if sample else "")
                    yield Unit(key, sentence, document, (document.id,), {"sentence": number})
