"""Hard negatives that a cross-encoder puts first among those that another miner found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.runs import ranking
from sharpen.sdg.negatives.candidates import Found, Miner


def mine(
    queries: Sequence[Query],
    corpus: Corpus,
    depth: int,
    seed: int = 0,
    *,
    score: Callable[[Sequence[tuple[str, str]]], Mapping[tuple[str, str], float]],
    of: Miner,
) -> Found:
    """The ``depth`` best documents that the miner ``of`` finds for each query, with the scores that ``score`` gives
    pairs of query ID and document ID."""
    first = of(queries, corpus, depth, seed).run
    scores = score([(q.id, i) for q in queries for i in ranking(first[q.id])[:depth]])
    run: Run = {q.id: {} for q in queries}
    for (q, i), value in scores.items():
        run[q][i] = value
    return Found(run)
