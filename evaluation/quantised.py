"""Search in vectors of fewer bytes: 8 bits a number by FAISS, one bit a number and rescoring by
sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import faiss
import numpy as np

from sharpen.evaluation.beir import Run
from sharpen.evaluation.retrievers.dense import Dense, nearest

VectorFormat = Literal["float32", "int8", "binary"]
RESCORED = 4
"""Of binary vectors: so many times as many documents as are asked for are found by their bits, and put in order by the
query's own numbers."""
BYTES: dict[VectorFormat, Callable[[int], int]] = {
    "float32": lambda dimension: 4 * dimension,
    "int8": lambda dimension: dimension,
    "binary": lambda dimension: -(-dimension // 8),
}
"""Of a document with so many dimensions."""


def nearest_quantised(
    queries: np.ndarray, vectors: np.ndarray, k: int, kind: VectorFormat
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the ``k`` nearest of ``vectors`` to each query, best first; all are unit vectors in float32,
    and ``vectors`` are searched as ``kind`` has them. Queries are not quantised, but for finding by bits.

    >>> nearest_quantised(np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32), 1, "int8")[1].ravel().tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    k = min(k, len(vectors))
    if kind == "float32":
        return nearest(queries, vectors, k)
    if kind == "int8":
        index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        return index.search(queries, k)
    return _by_bits(queries, vectors, k)


def _by_bits(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

    bits = quantize_embeddings(vectors, precision="ubinary")
    found, _ = semantic_search_faiss(
        queries, bits, corpus_precision="ubinary", top_k=k, rescore=True, rescore_multiplier=RESCORED
    )
    scores, rows = np.full((len(queries), k), -np.inf, dtype=np.float32), np.full((len(queries), k), -1)
    for n, hits in enumerate(found):
        scores[n, : len(hits)] = [hit["score"] for hit in hits]
        rows[n, : len(hits)] = [hit["corpus_id"] for hit in hits]
    return scores, rows


class QuantisedDense:
    """A dense index, searched as ``kind`` has its vectors."""

    name = "dense"

    def __init__(self, dense: Dense, kind: VectorFormat) -> None:
        self._dense, self._kind = dense, kind

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The ``k`` best documents of each query."""
        vectors = self._dense.encode_queries(list(queries.values()))
        scores, rows = nearest_quantised(vectors, self._dense.vectors, k, self._kind)
        found = zip(queries, rows.tolist(), scores.tolist(), strict=True)
        return {q: {self._dense.ids[r]: s for r, s in zip(row, of, strict=True) if r >= 0} for q, row, of in found}
