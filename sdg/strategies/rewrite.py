"""Queries of earlier strategies, and labelled ones, said in other words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.sdg.answers import ParsedAnswer
from sharpen.sdg.strategies.base import Unit
from sharpen.sdg.strategies.few_shot import StrategySettings
from sharpen.sdg.strategies.pools import Example


class Paraphrase(StrategySettings):
    """The queries that there are already, in other words.

    >>> strategy = Paraphrase(pool=[{"document": "how long to boil an egg", "query": "egg cooking time"}]).resolve()
    >>> query = Query("q", "how are beans cooked", {"positives": ["d"]})
    >>> unit, = strategy.units([Document("d", "Beans are boiled for an hour.")], [query])
    >>> unit.key, unit.text, unit.positives
    ('paraphrase:q/0', 'how are beans cooked', ('d',))
    """

    kind: Literal["paraphrase"] = "paraphrase"

    default_task: ClassVar[str] = (
        "Each question stands with the same question as somebody else would type it, in other words."
    )
    label: ClassVar[str] = "Question"
    unused: ClassVar[tuple[str, ...]] = ("documents",)
    not_inherited: ClassVar[tuple[str, ...]] = ("task", "pool")
    rewrites: ClassVar[bool] = True

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        return _units(self, documents, queries, corpus)


class BackTranslation(StrategySettings):
    """The queries that there are already, translated and back. The pool has queries with their translation."""

    kind: Literal["back_translation"] = "back_translation"

    default_task: ClassVar[str] = "Each question stands with its translation."
    tokens_per_query: ClassVar[int] = 64
    label: ClassVar[str] = "Question"
    unused: ClassVar[tuple[str, ...]] = ("documents", "form")
    not_inherited: ClassVar[tuple[str, ...]] = ("task", "pool", "form", "max_tokens")
    rewrites: ClassVar[bool] = True

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if self.queries > 1:
            raise ValueError("back_translation brings one query for each; for more, say per_document")
        return self

    @cached_property
    def examples(self) -> Sequence[Example]:
        """Translations with the queries that they came from: what the second step is shown."""
        forward: Sequence[Example] = super().examples
        return [Example(query, (example.document,)) for example in forward for query in example.queries]

    @cached_property
    def first(self) -> Translation:
        """What asks for the translation."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Translation.model_construct(**values | {"name": "translation"})

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        return _units(self, documents, queries, corpus)

    def in_language(self, language: str) -> Self:
        """As it is: which languages there are, the pool says."""
        return self

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        return replace(unit, text=answer.queries[0].query)


class Translation(BackTranslation):
    """The first step: a query to its translation."""

    @cached_property
    def examples(self) -> Sequence[Example]:
        return super(BackTranslation, self).examples

    @property
    def first(self) -> None:
        return None


def _units(
    strategy: StrategySettings, documents: Sequence[Document], queries: Sequence[Query], corpus: Corpus | None
) -> Iterator[Unit]:
    known = {document.id: document for document in documents} if corpus is None else corpus
    for query in queries:
        positives = tuple(query.metadata["positives"])
        for sample in range(strategy.per_document):
            key = f"{strategy.prefix}{query.id}/{sample}"
            yield Unit(key, query.text, known[positives[0]], positives, {"of": query.id})
