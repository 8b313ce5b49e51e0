"""Texts that the documents carry anyway, as queries: no LLM is asked."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.beir import Corpus, Document, chunks_by_document
from sharpen.evaluation.languages import LANGUAGE, is_another_language, words
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.drawing import drawn
from sharpen.sdg.filters.text import HARVESTED, MAX_WORDS, query_key
from sharpen.sdg.harvesting import TEXT_KINDS, VERBATIM, TextKind, carried_texts, stands_in
from sharpen.sdg.languages import ENGLISH
from sharpen.sdg.rejections import Problem, RejectionReason
from sharpen.sdg.selecting import sample_documents
from sharpen.sdg.strategies.base import Unit


class Harvested(Settings):
    """Titles, headings, definitions, docstrings, captions, link texts and sentences of the documents, as queries.

    For training that learns a teacher's scores, which needs no label: the teacher says how relevant each document is,
    and a query has only to be about what the corpus is about. They are no substitute for questions where the label is
    learnt from, as the document of most is found by its words.

    Of each document, so many texts are drawn by the seed and its ID, so that neither its place in the corpus nor other
    documents change them, and a larger ``per_document`` begins with the same. The kinds are taken in turns, in an order
    drawn for each document. A text that is drawn from several documents is rejected for all of them, as it says of none
    what it is about. Counts add up as for other strategies: a text that is drawn is ``asked``, and kept or rejected.

    >>> corpus = {"d": Document("d", "A kiln is an oven for pottery. It takes nine hours to fire it.", "Firing pots")}
    >>> for unit in Harvested(per_document=3, kinds=("definition", "sentence")).resolve().harvest(corpus, seed=1):
    ...     unit.key, unit.text, unit.metadata
    ('harvested:d/definition/0', 'A kiln is an oven for pottery.', {'harvested': 'definition', 'verbatim': True})
    ('harvested:d/sentence/0', 'It takes nine hours to fire it.', {'harvested': 'sentence', 'verbatim': True})
    """

    kind: Literal["harvested"] = "harvested"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Stands in the queries' metadata. Default: the kind."
    )
    kinds: Annotated[tuple[TextKind, ...], Field(min_length=1)] = Field(
        TEXT_KINDS, description="Texts that are taken; a document that has none of a kind gives others."
    )
    per_document: Count = Field(4, description="Texts of a document (of a chunk, where it was cut) at most.")
    min_words: Annotated[int, Field(ge=1)] = Field(3, description='Of a text; "See also" is about nothing.')
    max_words: Annotated[int, Field(ge=1)] = Field(
        MAX_WORDS, description="Of a text. Default: as of queries that an LLM writes."
    )
    documents: Count | None = Field(
        None, description="Documents that are harvested, drawn by seed; null: all, whatever queries.documents says."
    )
    limit: Count | None = Field(None, description="Texts in all at most, drawn by seed; null: all.")
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = Field(
        None,
        description="Two-letter code; texts clearly in another one are dropped. Default: as of queries, if given.",
    )

    @field_validator("kinds")
    @classmethod
    def _in_one_order(cls, kinds: tuple[TextKind, ...]) -> tuple[TextKind, ...]:
        return tuple(kind for kind in TEXT_KINDS if kind in kinds)

    @model_validator(mode="after")
    def _some_length_is_left(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError("min_words must not be greater than max_words")
        return self

    def resolve(self, language: str | None = None) -> Self:
        """With the name filled in, and ``language`` where it has none."""
        return self.model_copy(update={"name": self.name or self.kind, "language": self.language or language})

    def harvest(self, corpus: Corpus, seed: int = 13) -> list[Unit]:
        """The texts that are drawn, as units: of documents of at least 5 words, no document's text twice."""
        openings = _openings(corpus)
        documents = sample_documents(list(corpus.values()), self.documents, seed)
        units = [unit for document in documents for unit in self._drawn(document, document.id in openings, seed)]
        if self.limit is None or len(units) <= self.limit:
            return units
        taken = {unit.key for unit in sorted(units, key=lambda unit: drawn(seed, unit.key))[: self.limit]}
        return [unit for unit in units if unit.key in taken]

    def problem_of(self, unit: Unit) -> Problem | None:
        """Why the text is no query, as far as it can be seen by itself."""
        if self.language and is_another_language(unit.text, self.language):
            return Problem(RejectionReason.WRONG_LANGUAGE, detail=self.language)
        return None

    def _drawn(self, document: Document, opens: bool, seed: int) -> Iterator[Unit]:
        texts = carried_texts(document, opens, document.metadata.get(LANGUAGE) or self.language or ENGLISH)
        rng = random.Random(f"{seed}/{document.id}")
        turns: list[tuple[int, int, TextKind, int]] = []
        for place, kind in enumerate(rng.sample(self.kinds, len(self.kinds))):
            usable = [n for n, t in enumerate(texts.get(kind, ())) if self.min_words <= len(words(t)) <= self.max_words]
            turns += [(turn, place, kind, n) for turn, n in enumerate(rng.sample(usable, len(usable)))]
        for _, _, kind, n in sorted(turns)[: self.per_document]:
            text = texts[kind][n]
            metadata = {HARVESTED: kind, VERBATIM: text in document.content or stands_in(text, document.content)}
            yield Unit(f"{self.name or self.kind}:{document.id}/{kind}/{n}", text, document, (document.id,), metadata)


def in_several_documents(units: Iterable[Unit]) -> set[str]:
    """Keys (``query_key``) of the texts that were drawn from more than one document; chunks of one are one.

    >>> units = [Unit(i, "How to start", Document(i, "text"), (i,)) for i in "ab"]
    >>> in_several_documents(units) == {query_key("how to start?")}
    True
    """
    first: dict[str, str] = {}
    return {
        key
        for unit in units
        if first.setdefault(key := query_key(unit.text), unit.document.doc_id) != unit.document.doc_id
    }


def _openings(corpus: Corpus) -> set[str]:
    """IDs of what stands at the beginning of its document: what was not cut, and the first chunk of what was."""

    def start(chunk: Document) -> int:
        value = chunk.metadata.get("start", 0)
        return value if isinstance(value, int) else 0

    return {min(chunks, key=lambda c: (start(c), c.id)).id for chunks in chunks_by_document(corpus).values()}
