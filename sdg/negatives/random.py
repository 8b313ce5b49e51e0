"""Negatives drawn at random, to compare the others with."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.negatives.candidates import Found


def mine(queries: Sequence[Query], corpus: Corpus, depth: int, seed: int = 0) -> Found:
    """``depth`` documents of each query in the order in which they were drawn; each query draws with its own seed."""
    ids = sorted(corpus)
    run = {}
    for query in queries:
        drawn = random.Random(f"{seed}/random/{query.id}").sample(ids, min(depth, len(ids)))
        run[query.id] = {i: 1.0 / rank for rank, i in enumerate(drawn, start=1)}
    return Found(run)
