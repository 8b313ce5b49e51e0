"""The strategies of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.custom import Custom
from sharpen.evaluation.settings import Count
from sharpen.sdg.strategies.base import Strategy
from sharpen.sdg.strategies.document import Document
from sharpen.sdg.strategies.few_shot import AskingSettings, StrategySettings
from sharpen.sdg.strategies.harvested import Harvested
from sharpen.sdg.strategies.metadata import Metadata
from sharpen.sdg.strategies.mixed import Mixed
from sharpen.sdg.strategies.multi_hop import MultiHop
from sharpen.sdg.strategies.pools import parse_example, parse_rows
from sharpen.sdg.strategies.question_answer import QuestionAnswer
from sharpen.sdg.strategies.rewrite import BackTranslation, Paraphrase
from sharpen.sdg.strategies.sentence import Sentence
from sharpen.sdg.strategies.simulated_user import SimulatedUser

LABELLED = "labelled"
"""Strategy of queries that people wrote."""

AnyStrategy = Annotated[
    Document
    | Mixed
    | Sentence
    | Metadata
    | QuestionAnswer
    | MultiHop
    | SimulatedUser
    | Paraphrase
    | BackTranslation
    | Harvested
    | Custom,
    Field(discriminator="kind"),
]


class QueriesSettings(AskingSettings):
    """What the LLM is asked for. Keys of asking hold for all strategies that do not say otherwise.

    >>> settings = QueriesSettings(pool="pool.yaml", temperature=0.5, strategies=[{"queries": 3}, {"kind": "sentence"}])
    >>> [(s.name, s.form, s.temperature, s.max_tokens) for s in settings.all_strategies()]
    [('document', 'list', 0.5, 144), ('sentence', 'line', 0.5, 48)]
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None,
        description=(
            "Draws documents, examples and sampling. Default: the recipe's; give it to repeat only what comes after"
            " with other seeds."
        ),
    )
    documents: Count | None = Field(
        None, description="Documents to have queries written for, chosen as select says; null: all."
    )
    select: Literal["random", "coverage"] = Field(
        "random",
        description=(
            "How documents are chosen. random: drawn by seed. coverage: from clusters of the base's vectors, in turns,"
            " so that they cover the corpus (as in DUQGen); the whole corpus is encoded for it."
        ),
    )
    strategies: Annotated[tuple[AnyStrategy, ...], Field(min_length=1)] = Field(
        (Document(),), description="What is asked for, one after the other."
    )

    @field_validator("pool", mode="before")
    @classmethod
    def _pool_rows(cls, pool: Any) -> Any:
        return parse_rows(pool, parse_example)

    @field_validator("strategies", mode="before")
    @classmethod
    def _default_kind(cls, strategies: Any) -> Any:
        if not isinstance(strategies, list | tuple):
            return strategies
        return [{"kind": "document"} | row if isinstance(row, dict) else row for row in strategies]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [name for strategy in self.strategies for name in strategy_names(strategy)]
        if len(set(names)) < len(names):
            raise ValueError(
                f"the strategies are named {', '.join(names)}; give those of the same kind different names"
            )
        if LABELLED in names:
            raise ValueError(f"no strategy can be named {LABELLED}: that is what real queries are marked with")
        if self.select == "coverage" and self.documents is None:
            raise ValueError("select: coverage chooses documents out of all; say how many in documents")
        without = [s for s in self.strategies if isinstance(s, StrategySettings) and s.needs_pool]
        if missing := [strategy_name(s) for s in without if "pool" not in s.not_inherited and not self.pool]:
            raise ValueError(
                f"no pool of examples for {', '.join(missing)}: give queries.pool, or pool in the strategy"
            )
        if missing := [strategy_name(s) for s in without if "pool" in s.not_inherited]:
            raise ValueError(
                f"no pool of examples for {', '.join(missing)}: give pool in the strategy; queries.pool has documents,"
                " and this kind needs others"
            )
        return self

    @property
    def needs_base(self) -> bool:
        """Whether a strategy looks at what the base encoder finds."""
        return any(isinstance(strategy, SimulatedUser) and strategy.needs_base for strategy in self.strategies)

    def all_strategies(self) -> list[Strategy | Harvested]:
        """The strategies with all defaults filled in. Raises ``InputError`` if a custom one cannot be made."""
        return [resolve_strategy(strategy, self) for strategy in self.strategies]

    def check(self) -> None:
        """Raise ``InputError`` for a pool or a strategy of one's own that is not there, or not as it should be."""
        super().check()
        for strategy in filter(asks_llm, self.all_strategies()):
            strategy.example_texts()  # reads the pool

    def fingerprint(self) -> Any:
        """What is asked for, with every default filled in: whether a key was said or is the default is the same."""
        filled = [s if isinstance(s, Custom) else resolve_strategy(s, self) for s in self.strategies]
        chosen = {"select": self.select} if self.select != "random" else {}
        return {
            "seed": self.seed,
            "documents": self.documents,
            **chosen,
            "strategies": [strategy.fingerprint() for strategy in filled],
        }


def asks_llm(strategy: StrategySettings | Harvested | Custom | Strategy) -> bool:
    """Whether an LLM is asked for the queries; a user's own strategy always asks."""
    return not isinstance(strategy, Harvested)


def strategy_name(strategy: StrategySettings | Harvested | Custom) -> str:
    """What stands in the queries' metadata; of a custom one the last part of its import string."""
    if isinstance(strategy, Custom):
        return strategy.use.rpartition(":")[2]
    return strategy.name or strategy.kind


def strategy_names(strategy: StrategySettings | Harvested | Custom) -> list[str]:
    """All that no other strategy may be called: a mixture's types have names of their own."""
    types = strategy.query_types if isinstance(strategy, Mixed) else ()
    return [strategy_name(strategy), *(strategy.member_name(query_type) for query_type in types)]


def resolve_strategy(
    strategy: StrategySettings | Harvested | Custom | Strategy, inherited: AskingSettings | None = None
) -> Strategy | Harvested:
    """What can be asked: settings with their defaults filled in, a custom strategy made, any other object as it is."""
    if isinstance(strategy, Harvested):
        return strategy.resolve(inherited.language if inherited else None)
    if isinstance(strategy, StrategySettings):
        return strategy.resolve(inherited)
    return strategy.make() if isinstance(strategy, Custom) else strategy
