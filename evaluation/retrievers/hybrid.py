"""Several retrievers as one."""

from __future__ import annotations

from collections.abc import Mapping

from sharpen.evaluation.beir import Run
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.runs import fuse, ranking


class Hybrid:
    """Several retrievers' best ``depth`` documents by reciprocal rank fusion."""

    name = "hybrid"

    def __init__(self, *retrievers: Retriever, depth: int = 1000) -> None:
        self._retrievers, self._depth = retrievers, depth

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the ``k`` best documents of each query."""
        fused = fuse([r.search(queries, max(k, self._depth)) for r in self._retrievers])
        return {q: {d: own[d] for d in ranking(own)[:k]} for q, own in fused.items()}
