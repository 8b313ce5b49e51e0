"""Which system to deploy: BM25, encoders, their fusions, reranked, quantised. Chosen on one set of queries, confirmed
on another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.metrics import PRIMARY, PerQuery, evaluate
from sharpen.evaluation.report.comparison import make_comparison
from sharpen.evaluation.report.systems import Cheaper, System, Systems, adjust, is_near
from sharpen.evaluation.retrievers.base import Retriever, search_task
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.candidates import WEIGHTS, JudgedCandidates, weight_curve
from sharpen.evaluation.retrievers.fused import CorpusScorer, Fused
from sharpen.evaluation.significance import Difference, estimate, paired_difference

BM25_NAME = "BM25"
TIMED_QUERIES = 20
"""Searched one by one, for the milliseconds that a query takes."""
TIMED_DEPTH = 10
"""Documents that somebody who searches is shown."""
TIMED_DOCUMENTS = 200
"""Indexed once more, for the documents that are indexed in a second."""
MOST_CHOOSING = 500
"""Queries to choose by, at most."""

Index = Callable[[Corpus, bool], CorpusScorer]
"""Makes the index of a corpus; whether it may stay in memory for others."""
Variant = Callable[[CorpusScorer], Retriever]
"""Makes of an index one of fewer bytes."""
Known = list[dict[tuple[str, str], float]]
"""Scores of pairs that a reranker has given before."""
Rerank = Callable[[Retriever, Corpus, Known | None], Retriever]
"""The best documents of a retriever in a new order; ``Known``: what several first stages share, None where it is timed
what a query takes."""


@dataclass(frozen=True)
class _Plan:
    """``weights``: of members, by name. ``variant``: what is made of the one member."""

    weights: dict[str, float]
    variant: Variant | None = None
    reranked: bool = False


@dataclass(frozen=True)
class Choosing:
    """``task``: the queries to choose by, in the corpus that is searched. ``what``: what they are, for people.
    ``copied``: they stand word for word in their documents, so that BM25 finds these at once."""

    task: Task
    what: str = "dev queries"
    copied: bool = False


def compare_systems(
    choosing: Choosing,
    test: Task,
    indexes: Mapping[str, Index],
    *,
    baseline: str,
    rerank: Rerank | None = None,
    variants: Mapping[str, Mapping[str, Variant]] | None = None,
    seed: int = 13,
) -> Systems:
    """Measure each of ``indexes`` (by the name of a retriever), each but BM25 fused with it, with ``rerank`` all of
    these reranked, and their ``variants``: name of a retriever to that of a variant to how it is made.

    The weight of BM25, the best system and a cheaper one that is as good are chosen on ``choosing``: the first one
    there, if it is clearly better than the baseline, p adjusted for the number of systems; and the cheapest that is not
    worse than that, by no more than ``NEAR``. Of ``test`` every system is measured once. ``baseline``: the retriever
    that the others are compared with. ``seed``: of intervals. Under ``accelerate launch`` every process must call this.
    """
    choosing = replace(choosing, task=choosing.task.sample(MOST_CHOOSING, seed))
    measured = _Measured(indexes, rerank, test)
    judged = JudgedCandidates(
        Fused(measured.members(choosing.task.corpus)).candidates(choosing.task.texts), choosing.task
    )
    weights, curves = _fusions(judged)
    plans = {name: _Plan(row) for name, row in weights.items()}
    if rerank:
        plans |= {f"{name}, reranked": _Plan(row, reranked=True) for name, row in weights.items()}
    for member, of_member in (variants or {}).items():
        plans |= {f"{member}, {name}": _Plan({member: 1.0}, variant) for name, variant in of_member.items()}
    chosen_by = {
        name: judged.by_query(plan.weights)
        if name in weights
        else _scores(choosing.task, measured.retriever(plan, choosing.task.corpus))[PRIMARY]
        for name, plan in plans.items()
    }
    scores: dict[str, PerQuery] = {}
    systems: list[System] = []
    for name, plan in sorted(plans.items(), key=lambda item: item[0] != baseline):
        scores[name] = _scores(test, measured.retriever(plan, test.corpus))
        values = scores[name][PRIMARY]
        systems.append(
            System(
                name=name,
                weights=plan.weights,
                reranked=plan.reranked,
                chosen_by=fmean(chosen_by[name].values()),
                test=estimate(values, seed, test.groups),
                difference=paired_difference(scores[baseline][PRIMARY], values, seed, test.groups),
                **measured.costs(plan),
            )
        )
    first, lead = _first(chosen_by, baseline, choosing.task, seed)
    best = first if lead.verdict == "better" else baseline
    comparison = make_comparison(
        scores[baseline],
        scores[best],
        seed=seed,
        queries_of=f"queries of {test.name}",
        groups=test.groups,
        names=(baseline, best),
    )
    return Systems(
        chosen_on=choosing.what,
        queries=len(choosing.task.qrels),
        systems=systems,
        first=first,
        lead=lead,
        best=best,
        comparison=comparison,
        curves=curves,
        cheaper=_cheaper(systems, best, (chosen_by, scores), (choosing.task, test), seed),
    )


class _Measured:
    """Indexes of the corpora that are searched, each made once, and what they cost. ``test``: whose corpus and queries
    the times are of."""

    def __init__(self, indexes: Mapping[str, Index], rerank: Rerank | None, test: Task) -> None:
        self._indexes, self._rerank, self._test = indexes, rerank, test
        self._made: dict[int, dict[str, CorpusScorer]] = {}
        self._known: Known = []
        self._rates: dict[str, float] = {}

    def members(self, corpus: Corpus) -> Mapping[str, CorpusScorer]:
        if id(corpus) not in self._made:
            keep = corpus is self._test.corpus
            self._made[id(corpus)] = {name: index(corpus, keep) for name, index in self._indexes.items()}
        return self._made[id(corpus)]

    def retriever(self, plan: _Plan, corpus: Corpus, is_timed: bool = False) -> Retriever:
        members = self.members(corpus)
        chosen = {name: members[name] for name in plan.weights}
        retriever: Retriever = next(iter(chosen.values())) if len(chosen) == 1 else Fused(chosen, plan.weights)
        if plan.variant:
            return plan.variant(retriever)
        return self._rerank(retriever, corpus, None if is_timed else self._known) if plan.reranked else retriever

    def costs(self, plan: _Plan) -> dict[str, object]:
        """What a ``System`` has of it."""
        corpus = self._test.corpus
        retriever = self.retriever(plan, corpus, is_timed=True)
        members = self.members(corpus)
        encoders = [name for name in plan.weights if not isinstance(members[name], BM25)]
        sizes = [retriever.nbytes] if plan.variant else [members[name].nbytes for name in plan.weights]
        parts = [
            f"encoder, {size / 1e6:,.1f} MB of vectors" if name in encoders else "inverted index"
            for name, size in zip(plan.weights, sizes, strict=True)
        ]
        rerankers = getattr(retriever, "models", 1) if plan.reranked else 0
        if plan.reranked:
            parts.append("cross-encoder" if rerankers == 1 else f"{rerankers} cross-encoders")
        return {
            "needs": ", ".join(parts),
            "milliseconds": _milliseconds(retriever, self._test),
            "models": len(encoders) + rerankers,
            "bytes_per_document": sum(sizes) / len(corpus),
            "documents_per_second": 1 / sum(1 / self._rate(name) for name in plan.weights),
        }

    def _rate(self, name: str) -> float:
        """Documents that are indexed in a second."""
        if name not in self._rates:
            corpus = self._test.corpus
            chosen = random.Random(0).sample(list(corpus), min(TIMED_DOCUMENTS, len(corpus)))
            sample = {i: corpus[i] for i in chosen}
            started = time.perf_counter()
            self._indexes[name](sample, False)
            self._rates[name] = len(sample) / (time.perf_counter() - started)
        return self._rates[name]


def _first(
    chosen_by: Mapping[str, Mapping[str, float]], baseline: str, task: Task, seed: int
) -> tuple[str, Difference]:
    """The system with the highest mean, and its difference to the baseline, adjusted for the number of systems."""
    first = max(chosen_by, key=lambda name: fmean(chosen_by[name].values()))
    others = [name for name in chosen_by if name != baseline]
    found = [paired_difference(chosen_by[baseline], chosen_by[name], seed, task.groups) for name in others]
    if first == baseline:
        return first, paired_difference(chosen_by[baseline], chosen_by[baseline], seed, task.groups)
    return first, adjust(found)[others.index(first)]


def _cheaper(
    systems: Sequence[System],
    best: str,
    scores: tuple[Mapping[str, Mapping[str, float]], Mapping[str, PerQuery]],
    tasks: tuple[Task, Task],
    seed: int,
) -> Cheaper | None:
    """The cheapest that is near the best on the queries that choose; of equally cheap ones the better."""
    (chosen_by, of_test), (choosing, test) = scores, tasks
    cost = next(s.cost for s in systems if s.name == best)
    for system in sorted(systems, key=lambda s: (s.cost, -s.chosen_by)):
        if system.cost < cost:
            found = paired_difference(chosen_by[best], chosen_by[system.name], seed, choosing.groups)
            if is_near(found):
                values = of_test[best][PRIMARY], of_test[system.name][PRIMARY]
                confirmed = paired_difference(*values, seed, test.groups)
                return Cheaper(name=system.name, chosen_by=found, test=confirmed)
    return None


def _fusions(judged: JudgedCandidates) -> tuple[dict[str, dict[str, float]], dict[str, dict[float, float]]]:
    """Name of a system to its weights, and the curves by which BM25's were chosen: of equally good ones the least."""
    weights = {name: {name: 1.0} for name in judged.scorers}
    curves = {}
    for name in judged.scorers:
        if name == BM25_NAME or BM25_NAME not in judged.scorers:
            continue
        curves[name] = weight_curve(judged, {name: 1.0}, BM25_NAME, WEIGHTS)
        best = max(curves[name].values())
        if weight := min(w for w, quality in curves[name].items() if quality == best):
            weights[f"{name} + {weight:g} {BM25_NAME}"] = {name: 1.0, BM25_NAME: weight}
    return weights, curves


def _scores(task: Task, retriever: Retriever) -> PerQuery:
    return evaluate(task.qrels, search_task(task, retriever))


def _milliseconds(retriever: Retriever, task: Task) -> float:
    """Median of single queries, after one that loads what is loaded once."""
    texts = list(task.texts.items())[: TIMED_QUERIES + 1]
    seconds = []
    for query_id, text in texts:
        started = time.perf_counter()
        retriever.search({query_id: text}, TIMED_DEPTH)
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds[1:] or seconds)
