"""Retrieval metrics by query: each is a few lines over the ranks of the relevant documents.

The values are those of trec_eval and BEIR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log2
from statistics import fmean

import numpy as np

from sharpen.evaluation.beir import Qrels, Run
from sharpen.evaluation.files import InputError

METRICS = ("ndcg@10", "hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@100", "mrr@10", "map@10")
PRIMARY = "ndcg@10"

PerQuery = dict[str, dict[str, float]]
"""Metric to query ID to value, 0 to 1."""

RelevantRanks = Sequence[tuple[int, int]]
"""Rank from 1 and grade of each relevant document within the depth, best first."""


def evaluate(qrels: Qrels, run: Run, metrics: Iterable[str] = METRICS) -> PerQuery:
    """Score a run: ``{metric: {query ID: value}}`` for every query that has a relevant document (a grade above 0).

    ``ndcg``: gain is the grade, as in trec_eval. ``hit_rate``: 1 if any relevant document is within the depth (TREC's
    success, HIT@k). ``mrr``: 1/rank of the first, as in MS MARCO. ``map``: over all relevant documents, those below the
    depth too (TREC's map_cut). ``precision``, ``recall``: as they are. Each takes a depth, as in ``ndcg@10``. A judged
    query that the run does not answer counts 0, where trec_eval would leave it out of the mean. Scores are compared in
    single precision and ties broken by document ID in descending order, as trec_eval does. Raises ``ValueError`` for a
    metric of another name, and ``InputError`` for a run that has none of the queries or a score that is not finite.

    >>> evaluate({"q1": {"a": 1}}, {"q1": {"b": 2.0, "a": 1.0}}, ["mrr@10"])
    {'mrr@10': {'q1': 0.5}}
    """
    wanted = {metric: parse_metric(metric) for metric in metrics}
    if qrels and run.keys().isdisjoint(qrels) and any(run.values()):
        raise InputError(
            f"the run and the judgments have no query in common: {next(iter(run))!r} is searched for, and"
            f" {next(iter(qrels))!r} is judged"
        )
    result: PerQuery = {metric: {} for metric in wanted}
    for query_id, grades in qrels.items():
        relevant = {doc_id: grade for doc_id, grade in grades.items() if grade > 0}
        if not relevant:
            continue
        ranks, ideal = _relevant_ranks(relevant, run.get(query_id, {})), sorted(relevant.values(), reverse=True)
        for metric, (value, depth) in wanted.items():
            result[metric][query_id] = value([r for r in ranks if r[0] <= depth], ideal, depth)
    return result


def mean_primary(qrels: Qrels, run: Run) -> float:
    """Mean nDCG@10 over the queries, 0 to 1.

    >>> mean_primary({"q1": {"a": 1}, "q2": {"b": 1}}, {"q1": {"a": 1.0}})
    0.5
    """
    return fmean(evaluate(qrels, run, (PRIMARY,))[PRIMARY].values())


def parse_metric(metric: str) -> tuple[Callable[[RelevantRanks, Sequence[int], int], float], int]:
    """The function and the depth of ``ndcg@10``. Raises ``ValueError`` for what is none."""
    kind, _, depth = metric.partition("@")
    if kind not in _METRICS or not depth.isdigit() or int(depth) == 0:
        raise ValueError(
            f"unknown metric {metric!r}; expected one of {', '.join(_METRICS)} with a depth, like {PRIMARY}"
        )
    return _METRICS[kind], int(depth)


def _relevant_ranks(relevant: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[int, int]]:
    """Ranks by counting higher scores: sorting all documents would take most of the time."""
    present = [(doc_id, grade) for doc_id, grade in relevant.items() if doc_id in scores]
    if not present:
        return []
    values, ids = np.fromiter(scores.values(), dtype=np.float32, count=len(scores)), None
    if not np.isfinite(values).all():
        wrong = next(doc_id for doc_id, value in scores.items() if not np.isfinite(np.float32(value)))
        raise InputError(f"the run's score of {wrong!r} is not a finite number, so nothing can be ranked by it")
    ranks = []
    for doc_id, grade in present:
        score = np.float32(scores[doc_id])
        rank = 1 + int(np.count_nonzero(values > score))
        if np.count_nonzero(values == score) > 1:
            ids = ids or list(scores)
            rank += sum(ids[row] > doc_id for row in np.flatnonzero(values == score))
        ranks.append((rank, grade))
    return sorted(ranks)


def _ndcg(ranks: RelevantRanks, ideal: Sequence[int], depth: int) -> float:
    best = sum(grade / log2(rank + 1) for rank, grade in enumerate(ideal[:depth], start=1))
    return sum(grade / log2(rank + 1) for rank, grade in ranks) / best


_METRICS: dict[str, Callable[[RelevantRanks, Sequence[int], int], float]] = {
    "ndcg": _ndcg,
    "hit_rate": lambda ranks, ideal, depth: float(bool(ranks)),
    "recall": lambda ranks, ideal, depth: len(ranks) / len(ideal),
    "precision": lambda ranks, ideal, depth: len(ranks) / depth,
    "mrr": lambda ranks, ideal, depth: 1 / ranks[0][0] if ranks else 0.0,
    "map": lambda ranks, ideal, depth: sum(n / rank for n, (rank, _) in enumerate(ranks, start=1)) / len(ideal),
}
