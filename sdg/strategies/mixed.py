"""Queries of several types, each document's drawn by the types' weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import Field, field_validator

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import Fraction
from sharpen.sdg.strategies.base import Unit
from sharpen.sdg.strategies.few_shot import StrategySettings
from sharpen.sdg.strategies.pools import Example, parse_example

T = TypeVar("T")

TypeName = Literal["question", "claim", "keywords", "title", "any", "as_typed"]
TYPE_NAMES: tuple[TypeName, ...] = get_args(TypeName)

_TASKS: dict[TypeName, str] = {
    "question": (
        "Each document stands with a question that somebody asks who has not read it and that it answers: a whole"
        " sentence, with a question mark, in everyday words."
    ),
    "claim": (
        "Each document stands with a claim that somebody wants checked and that it supports or refutes: a short"
        " statement, and no question."
    ),
    "keywords": (
        "Each document stands with the keywords that somebody searches for it with: two to six words that say what is"
        " looked for, and no sentence."
    ),
    "title": (
        "Each document stands with a title that a text which has what it says could have: a short heading in other"
        " words than its own."
    ),
    "any": (
        "Each document stands with what somebody typed into a search box who needs it and has not read it, in whatever"
        " form: a question, keywords, a statement, a request or the account of a problem."
    ),
    "as_typed": (
        "Each document stands with what somebody in a hurry typed into a search box to find it: in lower case, without"
        " punctuation, cut short or abbreviated, at times the fragment of a sentence."
    ),
}
"""What the LLM is told, by type."""


@dataclass(frozen=True)
class MixedExample:
    """A document with queries of some types, ``{type: queries}``."""

    document: str
    queries: Mapping[str, tuple[str, ...]]


def parse_mixed_example(row: Any) -> MixedExample:
    """An example of a pool: ``{document, question, claim, ...}``, a query (or a list) for each of some types. Raises
    ``ValueError`` with what is wrong.

    >>> parse_mixed_example({"document": "Boil eggs for six minutes.", "keywords": "egg boiling time"}).queries
    {'keywords': ('egg boiling time',)}
    """
    if not isinstance(row, dict) or not {"document"} < set(row) <= {"document", *TYPE_NAMES}:
        raise ValueError(f"an example has the key document and a query for one or more of {', '.join(TYPE_NAMES)}")
    parsed = {
        name: parse_example({"document": row["document"], "queries": row[name]}) for name in TYPE_NAMES if name in row
    }
    document = next(iter(parsed.values())).document
    return MixedExample(document, {name: example.queries for name, example in parsed.items()})


class Mixed(StrategySettings):
    """Queries for a whole document, of six types: question, claim, keywords, title, whatever form, or as typed in a
    hurry. Training on a mix of types makes a retriever that is good at more than questions (CADET, arXiv 2505.19274).

    Each prompt is for one type, with the task and the examples of that type alone. Which one is drawn by the seed and
    the document's ID, so that other documents change nothing. A query has its type in ``metadata["query_type"]``, and
    its strategy is named after both (``mixed-claim``), so that all that counts by strategy counts by type.

    >>> pool = [{"document": "Boil eggs for six minutes.", "question": "How long do eggs boil?", "claim": "Eggs boil."}]
    >>> strategy = Mixed(query_types={"question": 3, "claim": 1}, pool=pool).resolve()
    >>> corpus = [Document(f"d{n}", "Soak beans overnight.") for n in range(1000)]
    >>> [(member.name, len(list(member.units(corpus)))) for member in strategy.members(seed=1)]
    [('mixed-question', 747), ('mixed-claim', 253)]
    """

    kind: Literal["mixed"] = "mixed"
    query_types: dict[TypeName, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {"question": 3, "claim": 1, "keywords": 2, "title": 1, "any": 1, "as_typed": 2},
        description=(
            f"Of {', '.join(TYPE_NAMES)}, those that are wanted, each with its weight: 3 is drawn three times as often"
            " as 1."
        ),
    )
    typos: Fraction | None = Field(
        None, description="Fraction of the as_typed queries that get a typing error; the others get none. Default 0."
    )

    pool_keys: ClassVar[str] = "document and a query for some query types"
    unused: ClassVar[tuple[str, ...]] = ("task",)
    not_inherited: ClassVar[tuple[str, ...]] = ("task", "pool")

    @field_validator("query_types")
    @classmethod
    def _some_are_wanted(cls, weights: dict[TypeName, float]) -> dict[TypeName, float]:
        if not sum(weights.values()) > 0:
            raise ValueError("give one type or more a weight above 0")
        return {name: weights[name] for name in TYPE_NAMES if weights.get(name)}

    @classmethod
    def parse_example(cls, row: Any) -> MixedExample:
        return parse_mixed_example(row)

    @property
    def prefix(self) -> str:
        return f"{self.name}:"

    def members(self, seed: int = 13) -> list[OfOneType]:
        """A strategy for each type, of what is drawn for it; of a strategy that was resolved."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return [
            OfOneType.model_construct(
                **values
                | {
                    "name": self.member_name(name),
                    "task": _TASKS[name],
                    "typos": self.typos if name == "as_typed" else 0.0,
                    "mixture": self,
                    "query_type": name,
                    "seed": seed,
                }
            )
            for name in self.query_types
        ]

    def member_name(self, query_type: TypeName) -> str:
        """What stands as the strategy in the metadata of queries of this type."""
        return f"{self.name or self.kind}-{query_type}"

    def drawn_type(self, key: str, seed: int) -> TypeName:
        """The type of the query with this key."""
        names = list(self.query_types)
        return random.Random(f"{seed}/{key}/query_type").choices(names, list(self.query_types.values()))[0]

    def example_texts(self) -> list[str]:
        return [text for member in self.members() for text in member.example_texts()]

    def example_answers(self) -> list[tuple[str, int]]:
        return [answer for member in self.members() for answer in member.example_answers()]


class OfOneType(StrategySettings):
    """The queries of one type."""

    mixture: Mixed
    query_type: str
    seed: int

    @cached_property
    def examples(self) -> Sequence[Example]:
        """Raises ``InputError`` if the pool has none of the type."""
        rows: Sequence[MixedExample] = self.mixture.examples
        examples = [
            Example(row.document, row.queries[self.query_type]) for row in rows if self.query_type in row.queries
        ]
        if not examples:
            place = self.pool if isinstance(self.pool, str) else "pool"
            raise InputError(
                f"{place}: no example has a query of type {self.query_type}, which {self.mixture.name} asks for; give"
                " some, or leave the type out of query_types"
            )
        return examples

    @property
    def prefix(self) -> str:
        return self.mixture.prefix

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        for unit in super().units(documents, queries, corpus):
            if self.mixture.drawn_type(unit.key, self.seed) == self.query_type:
                yield replace(unit, metadata={"query_type": self.query_type})


def members_of(strategy: T, seed: int) -> list[T]:
    """What is asked of a strategy: of a mixture a strategy for each type, else the strategy itself."""
    return strategy.members(seed) if isinstance(strategy, Mixed) else [strategy]


def mixture_name(metadata: Mapping[str, Any]) -> str | None:
    """The name of the mixture that a query is of, by the query's metadata; None for all others.

    >>> mixture_name({"strategy": "mixed-claim", "query_type": "claim"}), mixture_name({"strategy": "document"})
    ('mixed', None)
    """
    strategy, suffix = str(metadata.get("strategy", "")), f"-{metadata.get('query_type')}"
    return strategy.removesuffix(suffix) if strategy.endswith(suffix) else None
