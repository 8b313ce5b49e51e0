"""Negatives drawn at random, to compare the others with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.sdg.negatives.base import MinerSettings, MiningResult

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class RandomMiner(MinerSettings):
    """Documents drawn at random.

    >>> from sharpen.evaluation.beir import Document, Query
    >>> corpus = {i: Document(i, "text") for i in "abc"}
    >>> RandomMiner().mine([Query("q", "x")], corpus, depth=2, resources=None, seed=0).run
    {'q': {'b': 1.0, 'c': 0.5}}
    """

    kind: Literal["random"] = "random"

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """``depth`` documents of each query in the order in which they were drawn, the n-th with score 1 / n.

        Each query draws with its own seed, so it does not matter which others there are.
        """
        ids = sorted(corpus)
        run: Run = {}
        for query in queries:
            drawn = random.Random(f"{seed}/random/{query.id}").sample(ids, min(depth, len(ids)))
            run[query.id] = {i: 1.0 / rank for rank, i in enumerate(drawn, start=1)}
        return MiningResult(run)
