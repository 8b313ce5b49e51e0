"""The verb that joins miners, filters and draw: hard negatives of queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpen.evaluation.beir import Corpus, Queries, Query, list_queries
from sharpen.sdg.llm.budget import Spending, spending_counts
from sharpen.sdg.negatives.base import FilteredRows, Miner, MinerSettings, MiningResult, NegativeFilter
from sharpen.sdg.negatives.bm25 import BM25Miner
from sharpen.sdg.negatives.candidates import candidates, depth_for
from sharpen.sdg.negatives.draw import Drawn, DrawOptions, TooFew, draw
from sharpen.sdg.negatives.filters.verdicts import (
    FilterCounts,
    ThresholdWarning,
    filter_counts,
    resolve_verdicts,
    threshold_warning,
)
from sharpen.sdg.negatives.record import FILL_REASONS, MinedRows, Negative, RejectedPassage
from sharpen.sdg.negatives.settings import NegativesSettings

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

DEFAULT_WEIGHT: float = MinerSettings.model_fields["weight"].default
DEFAULT_RANKS: tuple[int, int] = MinerSettings.model_fields["ranks"].default


@dataclass(frozen=True)
class FilterWarning:
    """A filter whose threshold looks wrong for the rows of ``miners``."""

    kind: str
    miners: tuple[str, ...]
    warning: ThresholdWarning

    @property
    def message(self) -> str:
        """For people."""
        return f"negatives.filters: {self.kind} takes {self.warning.message} ({', '.join(self.miners)})."


@dataclass(frozen=True)
class TooFewWarning:
    """``short`` of ``queries`` have fewer negatives than wanted, and get what ``too_few`` says.

    >>> print(TooFewWarning(short=3, queries=1200, too_few="random").message)
    negatives: 3 of 1,200 queries have fewer than wanted and got documents drawn at random instead (negatives.too_few).
    """

    short: int
    queries: int
    too_few: TooFew

    @property
    def message(self) -> str:
        """For people."""
        consequence = {
            "leave_out": "are left out of the training",
            "others": "got some of the other miners instead",
            "random": "got documents drawn at random instead",
        }[self.too_few]
        return (
            f"negatives: {self.short:,} of {self.queries:,} queries have fewer than wanted and {consequence}"
            " (negatives.too_few)."
        )


@dataclass(frozen=True)
class MinedNegatives:
    """Hard negatives. Iterating gives ``rows``, so a training takes it as it is.

    ``rows``: those of a query together, with their verdicts: ``kept`` are the negatives, in their order. ``written``:
    documents that an LLM wrote, which belong to the corpus from then on. ``rejected``: what it wrote that is of no use.
    ``counts``: for a manifest. ``warnings``: what a person should look at; each has a ``message``.
    """

    rows: list[Negative]
    written: Corpus = field(default_factory=dict)
    rejected: list[RejectedPassage] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: list[FilterWarning | TooFewWarning] = field(default_factory=list)

    def __iter__(self) -> Iterator[Negative]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kept(self) -> dict[str, list[Negative]]:
        """Query ID to its negatives, in their order."""
        kept: dict[str, list[Negative]] = {}
        for row in self.rows:
            if row.verdict == "kept":
                kept.setdefault(row.query_id, []).append(row)
        return kept


def mine_negatives(
    queries: Queries | Sequence[Query],
    corpus: Corpus,
    miners: Mapping[str, Miner] | Sequence[Miner] = (BM25Miner(),),
    filters: Sequence[NegativeFilter] = (),
    per_query: int = 4,
    *,
    resources: Resources | None = None,
    seed: int = 13,
) -> MinedNegatives:
    """Hard negatives of ``queries``, whose positives stand in ``query.metadata["positives"]``.

    ``miners``: by name, or a list of those that have one (default: their kind). One of your own needs a method ``mine``
    (see ``Miner``); without ``weight`` and ``ranks`` it gets 1 and (1, 20), the defaults of the others. ``filters``
    drop what is likely relevant. Each query gets ``per_query`` negatives of all miners by their weights, and fewer
    where there are no more. ``resources``: base encoder, LLM and progress (default: none). For held-out documents and
    other ways of drawing see ``mine_with_settings``.

    Never a negative: a positive, a copy of one, another chunk of its document; what is so of one of the documents in
    ``query.metadata["also_answers"]``; one of the documents in ``query.metadata["near_duplicates"]``. Raises
    ``InputError`` if a miner or a filter asks for a model or an LLM that is not there. Under ``accelerate launch`` all
    processes must call this.

    >>> from sharpen.evaluation.beir import Document, Query
    >>> corpus = {i: Document(i, text) for i, text in {"a": "river ice", "b": "ice cream", "c": "warm bread"}.items()}
    >>> mined = mine_negatives([Query("q", "ice on rivers", {"positives": ["a"]})], corpus, per_query=1)
    >>> [(n.doc_id, n.miner, n.rank, n.verdict, n.message) for n in mined]
    [('a', 'bm25', 1, 'dropped', 'positive'), ('b', 'bm25', 2, 'kept', '')]
    """
    named = _by_name(miners)
    options = DrawOptions({name: weight_of(miner) for name, miner in named.items()}, per_query, seed=seed)
    return _Mining(list_queries(queries), corpus, (), resources, seed).run(named, filters, options)


def mine_with_settings(
    queries: Queries | Sequence[Query],
    corpus: Corpus,
    settings: NegativesSettings,
    *,
    held_out: Collection[str] = (),
    more: int = 0,
    resources: Resources | None = None,
    seed: int = 13,
) -> MinedNegatives:
    """``mine_negatives`` with everything that a recipe can say about it.

    ``held_out``: IDs of documents that are never negatives, nor are copies of them. ``more``: negatives of each query
    beyond ``settings.per_query``, which do not change which the first are.
    """
    named = settings.by_name()
    options = DrawOptions(
        {name: miner.weight for name, miner in named.items()},
        settings.per_query,
        settings.mix,
        settings.too_few,
        more,
        seed,
    )
    return _Mining(list_queries(queries), corpus, held_out, resources, seed).run(named, settings.filters, options)


def weight_of(miner: Any) -> float:
    """A miner's weight; one of a user may lack it."""
    return getattr(miner, "weight", DEFAULT_WEIGHT)


def _by_name(miners: Mapping[str, Miner] | Sequence[Miner]) -> dict[str, Miner]:
    if isinstance(miners, Mapping):
        return dict(miners)
    names = [getattr(m, "name", None) or getattr(m, "kind", type(m).__name__) for m in miners]
    if len(set(names)) < len(names):
        raise ValueError(f"the miners are named {', '.join(names)}; give them different names, or a dict by name")
    return dict(zip(names, miners, strict=True))


class _Mining:
    """What the steps of one mining have in common, and what they add up."""

    def __init__(
        self,
        queries: list[Query],
        corpus: Corpus,
        held_out: Collection[str],
        resources: Resources | None,
        seed: int,
    ) -> None:
        if resources is None:
            from sharpen.sdg.resources import Resources  # loads torch

            resources = Resources()
        self.queries, self.corpus, self.held_out = queries, corpus, frozenset(held_out)
        self.resources, self.seed = resources, seed
        self.written: Corpus = {}
        self.rejected: list[RejectedPassage] = []
        self.spending: list[Spending] = []
        self.filter_counts: dict[str, dict[str, int]] = {}
        self.warnings: list[FilterWarning | TooFewWarning] = []

    def run(
        self, miners: Mapping[str, Miner], filters: Sequence[NegativeFilter], options: DrawOptions
    ) -> MinedNegatives:
        rows: MinedRows = {}
        if options.per_query + options.more:
            rows = {name: self.mine(name, miner) for name, miner in miners.items()}
        for number, each in enumerate(filters, start=1):
            rows = self.filter(number, each, rows)
        rows = resolve_verdicts(rows, self.corpus | self.written)
        drawn = draw(self.queries, rows, options, self.corpus, sorted(self.held_out))
        if drawn.too_few:
            self.warn(TooFewWarning(drawn.too_few, len(self.queries), options.too_few))
        counts = self.counts(drawn, len(miners))
        return MinedNegatives(drawn.rows, self.written, self.rejected, counts, self.warnings)

    def mine(self, name: str, miner: Miner) -> dict[str, list[Negative]]:
        """What one miner ranks, without what may not be a negative."""
        if isinstance(miner, MinerSettings):  # an LLM's passages are named after their miner
            miner = miner.model_copy(update={"name": name})
        ranks = getattr(miner, "ranks", DEFAULT_RANKS)
        depth = depth_for(ranks[1], len(self.corpus))
        result = miner.mine(self.queries, self.corpus, depth, self.resources, self.seed)
        result = result if isinstance(result, MiningResult) else MiningResult(result)
        self.written |= result.written
        self.rejected += result.rejected
        if result.spending is not None:
            self.spending.append(result.spending)
        corpus = self.corpus | result.written
        return candidates(self.queries, result.run, corpus, self.held_out, name, ranks, self.seed)

    def filter(self, number: int, each: NegativeFilter, before: MinedRows) -> MinedRows:
        """Every miner's rows behind one filter."""
        queries = {q.id: q for q in self.queries}
        result = each.apply(before, queries, self.corpus | self.written, self.resources, self.seed)
        result = result if isinstance(result, FilteredRows) else FilteredRows(result)
        if result.spending is not None:
            self.spending.append(result.spending)
        kind = getattr(each, "kind", type(each).__name__)
        counts = {miner: filter_counts(before[miner], result.rows[miner]) for miner in before}
        self.filter_counts[f"filter {number}, {kind}"] = {
            f"{miner}: {key}": n for miner, of_miner in counts.items() for key, n in of_miner.to_dict().items()
        }
        if getattr(each, "has_threshold", True):
            self.warn_of_thresholds(kind, counts)
        return result.rows

    def warn_of_thresholds(self, kind: str, counts: Mapping[str, FilterCounts]) -> None:
        """One warning for all miners of which it says the same."""
        by_message: dict[str, list[tuple[str, ThresholdWarning]]] = {}
        for miner, of_miner in counts.items():
            if warning := threshold_warning(of_miner):
                by_message.setdefault(warning.message, []).append((miner, warning))
        for warned in by_message.values():
            self.warn(FilterWarning(kind, tuple(miner for miner, _ in warned), warned[0][1]))

    def warn(self, warning: FilterWarning | TooFewWarning) -> None:
        self.warnings.append(warning)
        self.resources.warn(warning.message)

    def counts(self, drawn: Drawn, miners: int) -> dict[str, Any]:
        """For the manifest."""
        kept = [n for n in drawn.rows if n.verdict == "kept"]
        counts: dict[str, Any] = {"queries": len(self.queries)} | self.filter_counts
        counts["negatives"] = len(kept)
        counts["queries_with_too_few"] = drawn.too_few
        counts["dropped"] = _tally(n.message for n in drawn.rows if n.verdict == "dropped")
        if miners > 1:
            counts["by_miner"] = _tally(n.miner for n in kept)
        # by_miner counts these for the miner whose place they take
        if filled := _tally(n.message for n in kept if n.reason in FILL_REASONS):
            counts["filled"] = filled
        if relabelled := sum(n.verdict == "relabelled" for n in drawn.rows):
            counts["relabelled"] = relabelled
        counts |= spending_counts(self.spending)
        if self.rejected:
            counts["rejected"] = _tally(row.message for row in self.rejected)
        return counts


def _tally(values: Iterator[str]) -> dict[str, int]:
    """Value to its number, the most frequent first."""
    return dict(Counter(values).most_common())
