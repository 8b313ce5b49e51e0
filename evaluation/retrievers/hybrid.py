"""Several retrievers as one."""

from __future__ import annotations

from collections.abc import Mapping

from sharpen.evaluation.beir import Run
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.runs import first, fuse


class Hybrid:
    """Several retrievers' best ``depth`` documents by reciprocal rank fusion, as ``fuse`` computes it.

    >>> class Fixed:
    ...     def __init__(self, **scores):
    ...         self.scores = scores
    ...     def search(self, queries, k):
    ...         return {q: self.scores for q in queries}
    >>> list(Hybrid(Fixed(a=9.0, b=8.0), Fixed(b=0.2, c=0.1)).search({"q": "text"}, k=2)["q"])
    ['b', 'a']
    """

    name = "hybrid"

    def __init__(self, *retrievers: Retriever, depth: int = 1000) -> None:
        self._retrievers, self._depth = retrievers, depth

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the ``k`` best documents of each query."""
        return first(fuse([r.search(queries, max(k, self._depth)) for r in self._retrievers]), k)
