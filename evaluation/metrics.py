"""Retrieval metrics per query: each is a few lines over the ranks of the relevant documents. Equal to trec_eval's and
BEIR's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log2

import numpy as np

from sharpen.evaluation.beir import Qrels, Run

METRICS = ("ndcg@10", "hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@100", "mrr@10", "map@10")
PRIMARY = "ndcg@10"

PerQuery = dict[str, dict[str, float]]
"""Metric to query ID to value, 0 to 1."""

Found = Sequence[tuple[int, int]]
"""Rank from 1 and grade of each relevant document within the depth, best first."""


def evaluate(qrels: Qrels, run: Run, metrics: Iterable[str] = METRICS) -> PerQuery:
    """Score a run: ``{metric: {query ID: value}}`` for every query that has a relevant document (a grade above 0).

    ``ndcg``: gain is the grade, as in trec_eval. ``hit_rate``: 1 if any relevant document is within the depth (TREC's
    success, HIT@k). ``mrr``: 1/rank of the first, as in MS MARCO. ``map``: over all relevant documents, those below the
    depth too (TREC's map_cut). ``precision``, ``recall``: as they are. Each takes a depth, as in ``ndcg@10``. A judged
    query that the run does not answer counts 0, where trec_eval would leave it out of the mean. Scores are compared in
    single precision and ties broken by document ID in descending order, as trec_eval does. Raises ``ValueError`` for a
    metric of another name.
    """
    wanted = {metric: parse_metric(metric) for metric in metrics}
    result: PerQuery = {metric: {} for metric in wanted}
    for query_id, grades in qrels.items():
        relevant = {doc_id: grade for doc_id, grade in grades.items() if grade > 0}
        if not relevant:
            continue
        found, ideal = _found(relevant, run.get(query_id, {})), sorted(relevant.values(), reverse=True)
        for metric, (value, depth) in wanted.items():
            result[metric][query_id] = value([f for f in found if f[0] <= depth], ideal, depth)
    return result


def parse_metric(metric: str) -> tuple[Callable[[Found, Sequence[int], int], float], int]:
    """The function and the depth of ``ndcg@10``. Raises ``ValueError`` for what is none."""
    kind, _, depth = metric.partition("@")
    if kind not in _METRICS or not depth.isdigit() or int(depth) == 0:
        raise ValueError(
            f"unknown metric {metric!r}; expected one of {', '.join(_METRICS)} with a depth, like {PRIMARY}"
        )
    return _METRICS[kind], int(depth)


def _found(relevant: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[int, int]]:
    """Only the relevant documents' ranks are counted: nothing is sorted, which would take most of the time."""
    present = [(doc_id, grade) for doc_id, grade in relevant.items() if doc_id in scores]
    if not present:
        return []
    values, ids = np.fromiter(scores.values(), dtype=np.float32, count=len(scores)), None
    found = []
    for doc_id, grade in present:
        own = np.float32(scores[doc_id])
        rank = 1 + int(np.count_nonzero(values > own))
        if np.count_nonzero(values == own) > 1:
            ids = ids or list(scores)
            rank += sum(ids[place] > doc_id for place in np.flatnonzero(values == own))
        found.append((rank, grade))
    return sorted(found)


def _ndcg(found: Found, ideal: Sequence[int], depth: int) -> float:
    best = sum(grade / log2(rank + 1) for rank, grade in enumerate(ideal[:depth], start=1))
    return sum(grade / log2(rank + 1) for rank, grade in found) / best


_METRICS: dict[str, Callable[[Found, Sequence[int], int], float]] = {
    "ndcg": _ndcg,
    "hit_rate": lambda found, ideal, depth: float(bool(found)),
    "recall": lambda found, ideal, depth: len(found) / len(ideal),
    "precision": lambda found, ideal, depth: len(found) / depth,
    "mrr": lambda found, ideal, depth: 1 / found[0][0] if found else 0.0,
    "map": lambda found, ideal, depth: sum(n / rank for n, (rank, _) in enumerate(found, start=1)) / len(ideal),
}
