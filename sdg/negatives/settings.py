"""What can be chosen about hard negatives: the part ``negatives`` of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sharpen.evaluation.settings import Settings
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives.bm25 import BM25Miner
from sharpen.sdg.negatives.cross_encoder import CrossEncoderMiner
from sharpen.sdg.negatives.custom import CustomMiner
from sharpen.sdg.negatives.dense import DenseMiner
from sharpen.sdg.negatives.draw import Mix, TooFew
from sharpen.sdg.negatives.filters.custom import CustomNegativeFilter
from sharpen.sdg.negatives.filters.judge import JudgeNegatives
from sharpen.sdg.negatives.filters.scores import (
    Absolute,
    CrossEncoderLimit,
    Guide,
    Margin,
    Percentage,
    ScoreFilter,
)
from sharpen.sdg.negatives.given import GivenMiner
from sharpen.sdg.negatives.hybrid import HybridMiner
from sharpen.sdg.negatives.llm import LLMMiner, NegativePrompt
from sharpen.sdg.negatives.random import RandomMiner

AnyMiner = Annotated[
    BM25Miner | DenseMiner | HybridMiner | CrossEncoderMiner | LLMMiner | RandomMiner | GivenMiner | CustomMiner,
    Field(discriminator="kind"),
]
AnyNegativeFilter = Annotated[
    Absolute | Margin | Percentage | CrossEncoderLimit | Guide | JudgeNegatives | CustomNegativeFilter,
    Field(discriminator="kind"),
]


class NegativesSettings(Settings):
    """Where hard negatives come from, which are left out, and how many a query gets.

    >>> settings = NegativesSettings(per_query=4, miners=[BM25Miner(), {"kind": "dense", "weight": 2}])
    >>> list(settings.by_name()), settings.needs_base()
    (['bm25', 'dense'], True)
    """

    per_query: Annotated[int, Field(ge=0)] = Field(1, description="Hard negatives a query; 0: in-batch negatives only.")
    miners: Annotated[tuple[AnyMiner, ...], Field(min_length=1)] = Field(
        (BM25Miner(),), description="Where negatives come from."
    )
    mix: Mix = Field(
        "instance",
        description=(
            "Of several miners. instance: each query has negatives of all, by their weights. concatenation: each query"
            " stands in the training once for each miner, with per_query of its negatives."
        ),
    )
    filters: tuple[AnyNegativeFilter, ...] = Field(
        (),
        description=(
            "What is likely relevant and so no negative, one filter after the other, on every miner's candidates."
        ),
    )
    refresh: bool = Field(
        False,
        description=(
            "Before each epoch but the first, mine again with the model as it is then (ANCE): dense and hybrid miners"
            " without a model of their own, and filters by base. Each epoch then has a constant learning rate."
        ),
    )
    too_few: TooFew = Field(
        "leave_out",
        description=(
            "Where a miner has fewer for a query: leave_out of the training, fill from the others, or with random"
            " documents."
        ),
    )

    @model_validator(mode="after")
    def _names_differ(self):
        names = [m.name or m.kind for m in self.miners]
        if len(set(names)) < len(names):
            raise ValueError(f"the miners are named {', '.join(names)}; give those of the same kind different names")
        return self

    @model_validator(mode="after")
    def _miners_fit(self):
        if self.refresh and not any(isinstance(m, DenseMiner | HybridMiner) and m.model is None for m in self.miners):
            raise ValueError(
                "refresh: it takes a dense or hybrid miner without a model of its own, which is the one that changes"
            )
        if self.too_few == "others" and len(self.miners) == 1:
            raise ValueError("too_few: others are there only with several miners; say leave_out or random")
        return self

    def by_name(self) -> dict[str, AnyMiner]:
        """Miner's name, or its kind where it has none, to the miner."""
        return {m.name or m.kind: m for m in self.miners}

    def needs_base(self) -> bool:
        """Whether a miner or a filter uses the base encoder, which the fingerprint must then have, too."""
        return any(part.needs_base() for part in (*self.miners, *self.filters))

    def scorers(self) -> list[str]:
        """Whom the filters ask for scores, each once."""
        return list(dict.fromkeys(f.scored_by() for f in self.filters if isinstance(f, ScoreFilter)))

    def llm_parts(self) -> list[LLMMiner | JudgeNegatives]:
        """The miners and filters that ask an LLM; those whose ``llm`` is None ask the recipe's."""
        return [part for part in (*self.miners, *self.filters) if isinstance(part, LLMMiner | JudgeNegatives)]

    def prompts(self, llm: LLMSettings | None = None) -> dict[str, NegativePrompt]:
        """Miner's name to how its LLM (``llm`` where it has none) is asked, with the pool read.

        Raises ``InputError`` for a bad pool, and for one that is missing where it is needed: call it before anything is
        paid for.
        """
        miners = {name: m for name, m in self.by_name().items() if isinstance(m, LLMMiner)}
        return {
            name: m.model_copy(update={"name": name}).prompt(m.llm or llm) for name, m in miners.items() if m.llm or llm
        }

    def with_llm_seed(self, seed: int) -> NegativesSettings:
        """The same, with ``seed`` for the LLM miners that have none: what an LLM writes is then the same for other
        seeds of the mining."""
        miners = tuple(
            m.model_copy(update={"seed": seed}) if isinstance(m, LLMMiner) and m.seed is None else m
            for m in self.miners
        )
        return self.model_copy(update={"miners": miners})
