"""Retrieval metrics per query, by ``pytrec_eval`` as BEIR does."""

from __future__ import annotations

from collections.abc import Mapping

import pytrec_eval

from evaluation.data import Qrels, Run

METRICS = ("ndcg@10", "hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@100", "mrr@10")
PRIMARY = "ndcg@10"
_TREC_NAMES = {"ndcg": "ndcg_cut", "hit_rate": "success", "recall": "recall", "mrr": "recip_rank"}

PerQuery = dict[str, dict[str, float]]
"""Metric to query ID to value, 0 to 1."""


def evaluate(qrels: Qrels, run: Run, metrics: tuple[str, ...] = METRICS) -> PerQuery:
    """Score a run: ``{metric: {query ID: value}}`` for every query that has a relevant document.

    ``hit_rate@k``: 1 if any relevant document is among the first k (TREC's success). ``mrr@k``: 1/rank of the first
    relevant one within k, as in MS MARCO. A judged query that the run does not answer counts 0, where trec_eval would
    leave it out of the mean. Ties in score are broken as trec_eval does, by document ID in descending order.
    Raises ``ValueError`` for a metric of another name.
    """
    judged = {q: {d: int(g) for d, g in grades.items()} for q, grades in qrels.items() if any(g > 0 for g in grades.values())}
    answered = {q: run[q] for q in judged if run.get(q)}
    return {metric: dict.fromkeys(judged, 0.0) | _evaluate_one(judged, answered, metric) for metric in metrics}


def _evaluate_one(qrels: Qrels, run: Run, metric: str) -> Mapping[str, float]:
    kind, _, depth = metric.partition("@")
    if kind not in _TREC_NAMES or not depth.isdigit():
        raise ValueError(f"unknown metric {metric!r}; expected one of {', '.join(_TREC_NAMES)} with a depth, like {PRIMARY}")
    if kind == "mrr":  # recip_rank has no depth in trec_eval: cut the run instead, ties broken as trec_eval breaks them
        run = {q: dict(sorted(s.items(), key=lambda item: (item[1], item[0]), reverse=True)[: int(depth)]) for q, s in run.items()}
        measure = key = "recip_rank"
    else:
        measure, key = f"{_TREC_NAMES[kind]}.{depth}", f"{_TREC_NAMES[kind]}_{depth}"
    scores = pytrec_eval.RelevanceEvaluator(qrels, {measure}).evaluate(run)
    return {query_id: values[key] for query_id, values in scores.items()}
