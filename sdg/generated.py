"""What came of asking for queries: those kept, those rejected, and counts by strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sharpen.evaluation.beir import ALSO_ANSWERS, Query
from sharpen.sdg.rejections import Rejection


def also_answered(query: Query, doc_ids: Iterable[str]) -> Query:
    """The query, with those of ``doc_ids`` that are no positives of it under ``also_answers``.

    >>> also_answered(Query("q", "how to fire a kiln", {"positives": ["a"]}), ["a", "b"]).metadata["also_answers"]
    ['b']
    """
    known = query.metadata.get(ALSO_ANSWERS, [])
    new = [i for i in dict.fromkeys(doc_ids) if i not in known and i not in query.metadata["positives"]]
    return replace(query, metadata=query.metadata | {ALSO_ANSWERS: [*known, *new]}) if new else query


@dataclass
class StrategyStats:
    """What became of the queries asked for by one strategy: ``asked`` is ``kept`` and all of ``rejected`` by reason.

    ``parsed``: queries that could be read from the answers, usable or not; ``repaired``: answers that could be read at
    the second attempt only; ``shortened``: prompts whose text was halved until the LLM had room for it; ``tokens``:
    prompt, cached, completion.
    """

    prompts: int = 0
    asked: int = 0
    parsed: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    shortened: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"rejected": dict(self.rejected), "tokens": dict(self.tokens)}


@dataclass
class GeneratedQueries:
    """Queries that an LLM wrote or that were harvested; looping over them is looping over ``kept``.

    ``kept``: with metadata ``positives`` (IDs of the documents that answer) and ``strategy``; ``model`` and
    ``prompt_hash`` where an LLM wrote them, ``harvested`` and ``verbatim`` where none did; ``also_answers`` (IDs) where
    the same was asked for other documents. ``rejected``: with their reasons. ``stats``: by strategy. ``first_steps``:
    what first steps brought (artifacts, translations), by unit. ``refused_parameters``: what the LLM's server did not
    take, with what became of it. ``also_answers``: of labelled queries, by ID.
    """

    kept: list[Query] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    stats: dict[str, StrategyStats] = field(default_factory=dict)
    first_steps: list[dict[str, Any]] = field(default_factory=list)
    refused_parameters: dict[str, str] = field(default_factory=dict)
    also_answers: dict[str, list[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Query]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def counts(self) -> dict[str, Any]:
        """All strategies together."""
        stats = self.stats.values()
        tokens = sum((s.tokens for s in stats), Counter())
        total = {
            "asked": sum(s.asked for s in stats),
            "kept": sum(s.kept for s in stats),
            "rejected": dict(sum((s.rejected for s in stats), Counter()).most_common()),
        }
        if repaired := sum(s.repaired for s in stats):
            total["repaired"] = repaired
        if shortened := sum(s.shortened for s in stats):
            total["shortened"] = shortened
        if self.refused_parameters:
            total["refused_parameters"] = self.refused_parameters
        return total | {f"{kind}_tokens": n for kind, n in tokens.items()}
