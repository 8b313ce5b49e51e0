"""Queries that name some of their document's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery
from sharpen.sdg.rejections import Problem, RejectionReason
from sharpen.sdg.strategies.base import Unit, titled
from sharpen.sdg.strategies.extraction import Extraction, constraint_pool, named_metadata, with_constraints
from sharpen.sdg.strategies.few_shot import AskingSettings, StrategySettings


class Metadata(StrategySettings):
    """Documents under their metadata, of which a query has to name some (Wen et al. 2025, 3.3.2).

    ``extract``: attributes that the LLM is first asked to read out of each document, for those that no field has (there
    topic and location of news); they stand beside the fields in the queries' ``constraints``.

    >>> strategy = Metadata(fields=["author"], pool=[{"document": "x", "query": "y"}]).resolve()
    >>> unit, = strategy.units([Document("d", "Glaze needs a second firing.", metadata={"author": "M. Ito"})])
    >>> unit.text
    '[author: M. Ito] Glaze needs a second firing.'
    """

    LATER: ClassVar[tuple[str, ...]] = ("extract",)

    kind: Literal["metadata"] = "metadata"
    fields: tuple[str, ...] = Field((), description="Names of the metadata of which a query must name one.")
    extract: tuple[Annotated[str, Field(pattern=r"\w")], ...] = Field(
        (),
        description=(
            "Names of attributes that the LLM is first asked to extract from the text (topic, location), which then"
            " count as metadata. The pool has a default with these."
        ),
    )

    default_task: ClassVar[str] = (
        "Each document stands below its metadata in brackets, and with a question that somebody typed into a search"
        " box, that the document answers and that names one of the metadata, to find just this document."
    )

    @model_validator(mode="after")
    def _has_something_to_name(self) -> Self:
        if not (self.fields or self.extract):
            raise ValueError("metadata: give fields, of the documents' metadata, or extract, to be read from the text")
        if twice := [name for name in self.extract if name in self.fields]:
            raise ValueError(f"metadata: {twice[0]} is in fields and in extract; leave it in one of them")
        return self

    @property
    def needs_pool(self) -> bool:
        return not self.extract and super().needs_pool

    def resolve(self, inherited: AskingSettings | None = None) -> Self:
        if not self.extract or self.pool is not None:
            return super().resolve(inherited)
        # not a pool of queries.pool: its documents have no brackets
        return super(Metadata, self.model_copy(update={"pool": constraint_pool(self.extract)})).resolve(inherited)

    @cached_property
    def first(self) -> Extraction | None:
        """What asks for the attributes."""
        return Extraction.of(self, self.extract) if self.extract else None

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        """Raises ``InputError`` if no document has any of the fields."""
        known: set[str] = set()
        any_unit = False
        for document in documents[: self.documents]:
            metadata = document.metadata | ({"title": document.title} if document.title else {})
            known |= metadata.keys()
            named = {name: str(metadata[name]) for name in self.fields if metadata.get(name) not in (None, "", [], {})}
            if not (named or self.extract):
                continue
            any_unit = True
            # what is extracted is read from the text alone, and the brackets come then
            text = titled(document) if self.extract else with_constraints(document.text, named)
            for sample in range(self.per_document):
                key = f"{self.prefix}{document.id}/{sample}"
                yield Unit(key, text, document, (document.id,), {"constraints": named})
        if not any_unit:
            raise InputError(
                f"queries: no document has any of the metadata fields {', '.join(self.fields)}; those that there are:"
                f" {', '.join(sorted(known)) or 'none'}"
            )

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        """The text below its metadata and what was extracted."""
        named = unit.metadata["constraints"] | json.loads(answer.queries[0].query)
        text = with_constraints(unit.document.text or unit.document.title, named)
        return replace(unit, text=text, metadata=unit.metadata | {"constraints": named})

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        """The queries with those of the metadata that they name, under ``constraints``."""
        answer = super().parse(text, unit)
        return replace(
            answer,
            queries=tuple(
                replace(query, metadata={"constraints": named_metadata(query.query, unit.metadata["constraints"])})
                for query in answer.queries
            ),
        )

    def problem_of(self, query: ParsedQuery, unit: Unit) -> Problem | None:
        return None if query.metadata["constraints"] else Problem(RejectionReason.NO_METADATA)
