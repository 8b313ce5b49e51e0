"""Approximate search of vectors, for many millions of them: by FAISS, in the cells of a k-means."""

from __future__ import annotations

import faiss
import numpy as np

CELLS_SEARCHED = 32
"""For each query."""
POINTS_PER_CELL = 32
"""That a cell is learnt from, at most."""
COMPRESSED_ABOVE = 4 * 2**30
"""Bytes of vectors above which product codes of them are held, a sixteenth to a thirty-second of their size."""
RESCORED = 4
"""Found by product codes for each document that is wanted."""
ADDED_AT_ONCE = 2**18


class Cells:
    """An index of vectors, float32 of shape (documents, dimension), which may be a mapped file.

    A query is compared with the vectors in those 32 of about 4 * sqrt(documents) cells that are nearest to it. Of
    vectors that take more than 4 GiB the index holds product codes alone (Jégou et al. 2011), and what they find is
    compared with the vectors themselves. The same vectors give the same cells.

    >>> eye = np.eye(3, dtype=np.float32)
    >>> Cells(eye).search(eye, k=1)[1].tolist()
    [[0], [1], [2]]
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors, self._is_compressed = vectors, vectors.nbytes > COMPRESSED_ABOVE
        self._index = _codes(vectors) if self._is_compressed else cell_index(vectors, CELLS_SEARCHED)
        for start in range(0, len(vectors), ADDED_AT_ONCE):
            self._index.add(np.ascontiguousarray(vectors[start : start + ADDED_AT_ONCE]))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` rows with the largest inner products, as of ``nearest``."""
        k = min(k, len(self._vectors))
        if not self._is_compressed:
            return self._index.search(queries, k)
        _, found = self._index.search(queries, min(RESCORED * k, len(self._vectors)))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for place, (query, candidates) in enumerate(zip(queries, found, strict=True)):
            candidates = candidates[candidates >= 0]
            products = self._vectors[candidates] @ query
            best = np.lexsort((candidates, -products))[:k]
            scores[place, : len(best)], rows[place, : len(best)] = products[best], candidates[best]
        return scores, rows


def cell_index(sample: np.ndarray, cells_searched: int) -> faiss.Index:
    """An empty index by inner product with cells learned from ``sample``, of which ``cells_searched`` are searched. The
    same vectors give the same cells."""
    count, dimension = sample.shape
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, _cells(count), faiss.METRIC_INNER_PRODUCT)
    return _learnt(index, sample, cells_searched)


def _codes(vectors: np.ndarray) -> faiss.Index:
    """Without the vectors themselves. A byte for four dimensions or more, as many as divide them."""
    count, dimension = vectors.shape
    codes = next(m for m in range(max(1, dimension // 4), 0, -1) if dimension % m == 0)
    flat, cells = faiss.IndexFlatIP(dimension), _cells(count)
    index = faiss.IndexIVFPQ(flat, dimension, cells, codes, 8, faiss.METRIC_INNER_PRODUCT)
    # as many as FAISS looks at, from all over the file, of which the rest is not read
    step = max(1, count // max(POINTS_PER_CELL * cells, 2**16))
    return _learnt(index, vectors[::step], CELLS_SEARCHED)


def _cells(count: int) -> int:
    return max(1, min(count, 4 * int(count**0.5)))


def _learnt(index: faiss.IndexIVF, sample: np.ndarray, cells_searched: int) -> faiss.Index:
    index.nprobe = cells_searched
    clustering = index.cp
    clustering.spherical, clustering.niter = True, 4
    clustering.max_points_per_centroid, clustering.min_points_per_centroid = POINTS_PER_CELL, 1
    index.train(np.ascontiguousarray(sample))
    return index
