"""Queries that name some of their document's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import words
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery
from sharpen.sdg.rejections import Problem, RejectionReason
from sharpen.sdg.strategies.base import Unit
from sharpen.sdg.strategies.few_shot import StrategySettings


class Metadata(StrategySettings):
    """Documents under their metadata, of which a query has to name some (Wen et al. 2025, 3.3.2).

    >>> strategy = Metadata(fields=["author"], pool=[{"document": "x", "query": "y"}]).resolve()
    >>> unit, = strategy.units([Document("d", "Glaze needs a second firing.", metadata={"author": "M. Ito"})])
    >>> unit.text
    '[author: M. Ito] Glaze needs a second firing.'
    """

    kind: Literal["metadata"] = "metadata"
    fields: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Names of the metadata of which a query must name one."
    )

    default_task: ClassVar[str] = (
        "Each document stands below its metadata in brackets, and with a question that somebody typed into a search"
        " box, that the document answers and that names one of the metadata, to find just this document."
    )

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
            if not named:
                continue
            any_unit = True
            text = "".join(f"[{name}: {value}] " for name, value in named.items()) + document.text
            for sample in range(self.per_document):
                key = f"{self.prefix}{document.id}/{sample}"
                yield Unit(key, text, document, (document.id,), {"constraints": named})
        if not any_unit:
            raise InputError(
                f"queries: no document has any of the metadata fields {', '.join(self.fields)}; those that there are:"
                f" {', '.join(sorted(known)) or 'none'}"
            )

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


def named_metadata(text: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Those of the metadata whose value the text has, in these words or all but one of them.

    >>> named_metadata("what does Ito say on firing", {"author": "M. Ito", "year": "1998"})
    {}
    >>> named_metadata("firing in 1998", {"author": "M. Ito", "year": "1998"})
    {'year': '1998'}
    """
    text_words = set(words(text))
    return {
        name: value
        for name, value in metadata.items()
        if (wanted := set(words(value))) and len(wanted - text_words) <= (len(wanted) > 2)
    }
