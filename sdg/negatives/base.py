"""What a miner and a filter of negatives are, and what all miners' settings have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.beir import Corpus, Queries, Query, Run
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.negatives.record import MinedRows, RejectedPassage

if TYPE_CHECKING:  # loads torch, which reading a recipe does without
    from sharpen.sdg.resources import Resources


@dataclass(frozen=True)
class MiningResult:
    """What a miner ranks for each query: ``run``, query ID to document ID to score.

    ``written``: documents in ``run`` that are not in the corpus, as the miner wrote them itself. ``rejected``: what it
    wrote that is of no use. ``spending``: tokens and money of its LLM.
    """

    run: Run
    written: Corpus = field(default_factory=dict)
    rejected: Sequence[RejectedPassage] = ()
    spending: Spending | None = None


class Miner(Protocol):
    """Ranks documents that may be hard negatives.

    ``name`` stands with its negatives, ``weight`` is its part of a query's negatives against the other miners', and
    ``ranks`` are the first and last rank to draw from (counted from 1, over the documents that may be negatives).
    """

    @property
    def name(self) -> str | None: ...

    @property
    def weight(self) -> float: ...

    @property
    def ranks(self) -> tuple[int, int]: ...

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult | Run:
        """At least ``depth`` documents of each query, where there are so many.

        The same input and ``seed`` give the same result. Under ``accelerate launch`` every process calls this, and all
        must get the same.
        """


@dataclass(frozen=True)
class FilteredRows:
    """The rows behind a filter: the same rows in the same order, some of them with another verdict and a reason."""

    rows: MinedRows
    spending: Spending | None = None


class NegativeFilter(Protocol):
    """Decides which candidates are likely relevant, and so no negatives."""

    def apply(
        self, rows: MinedRows, queries: Queries, corpus: Corpus, resources: Resources, seed: int
    ) -> FilteredRows | MinedRows:
        """The rows, some of them dropped or relabelled. ``corpus``: all documents in them, written ones, too.

        Under ``accelerate launch`` every process calls this, and all must get the same.
        """


class MinerSettings(Settings):
    """What all miners take. Each kind has its ``mine`` as in the protocol ``Miner``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Stands with its negatives. Default: the kind."
    )
    weight: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Of a query's negatives, as against the weights of the other miners."
    )
    ranks: tuple[Count, Count] = Field(
        (1, 20), description="First and last rank, counted over the allowed documents, to draw from."
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "share" in values:
            raise ValueError("share of a miner is called weight now")
        return values

    @field_validator("ranks")
    @classmethod
    def _in_order(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if ranks[0] > ranks[1]:
            raise ValueError("the first rank must not be greater than the last")
        return ranks

    def needs_base(self) -> bool:
        """Whether it uses the base encoder, whose fingerprint is then a part of the result's."""
        return False
