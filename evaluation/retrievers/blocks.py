"""The best documents of each query, where all of them are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sharpen.evaluation.beir import Run
from sharpen.evaluation.retrievers.base import Advance
from sharpen.evaluation.retrievers.fused import MOST_SCORES, CorpusScorer, best_columns


def search_blocks(
    scorer: CorpusScorer,
    queries: Mapping[str, str],
    k: int,
    above: float = -np.inf,
    never: Sequence[int] = (),
    progress: Advance | None = None,
) -> Run:
    """The ``k`` best documents of each query, block of queries after block, so that 32 MB of scores are in memory.

    ``above``: documents with this score or a lower one are not found. ``never``: columns of those that never are.
    """
    names, run = list(queries), {}
    if not scorer.ids:
        return {query: {} for query in names}
    for block in scorer.score_blocks(list(queries.values()), max(1, MOST_SCORES // len(scorer.ids))):
        of_block = names[len(run) : len(run) + len(block)]
        block[:, list(never)] = -np.inf
        for row, query, best in zip(block, of_block, best_columns(block, k), strict=True):
            run[query] = {scorer.ids[d]: float(row[d]) for d in best if row[d] > above}
        if progress:
            progress(len(block))
    return run
