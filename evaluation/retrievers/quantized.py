"""Search by embeddings of documents in fewer bytes: each number in 8 bits, or in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import faiss
import numpy as np
import torch
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from sharpen.evaluation.beir import Run
from sharpen.evaluation.retrievers.dense import Dense, nearest_by_torch

Bits = Literal["int8", "binary"]
RESCORED = 4
"""Of binary embeddings: so many times as many documents as are asked for are found by their bits, and put in order by
the query's own numbers."""
RESCORED_NUMBERS = 2**24
"""Of binary embeddings that are rescored at once, in 8 bytes each: 128 MB."""


class Quantized:
    """A dense index with its documents' vectors in fewer bytes; queries stay as they are.

    ``int8``: each number is one of 256 steps between the least and the largest that its dimension has in the corpus, a
    quarter of the bytes of float32. ``binary``: its sign, a 32nd of them, with rescoring by the query's own numbers.
    Both are sentence-transformers' own, so that what is measured here is what its users have.

    >>> from sharpen.evaluation.beir import Document
    >>> corpus = {"a": Document("a", "Bake the bread."), "b": Document("b", "Ice flows downhill.")}
    >>> index = Quantized(Dense(corpus, "packaged:tiny-bert"), "binary")
    >>> index.nbytes, len(index.search({"q": "ice"}, k=2)["q"])
    (32, 2)
    """

    def __init__(self, dense: Dense, bits: Bits) -> None:
        self._dense, self._bits = dense, bits
        self.ids, vectors = dense.ids, dense.vectors
        if bits == "binary":
            self._codes = quantize_embeddings(vectors, "ubinary")
            self._index = faiss.IndexBinaryFlat(8 * self._codes.shape[1])
            self._index.add(self._codes)
        else:
            ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
            self._codes = quantize_embeddings(vectors, "int8", ranges=ranges)
            self._steps = np.where(ranges[1] > ranges[0], (ranges[1] - ranges[0]) / 255, 1).astype(np.float32)
            self._start = (ranges[0] + 128 * self._steps).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Of the documents' vectors."""
        return self._codes.nbytes

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the ``k`` best documents of each query."""
        vectors = self._dense.encode_queries(list(queries.values()))
        nearest = self._by_bits if self._bits == "binary" else self._by_steps
        return self._dense.as_run(list(queries), vectors, nearest(vectors, self._dense.depth(k)), k)

    def _by_steps(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """By the products with what the steps stand for, without ever having all of that."""
        scores, rows = nearest_by_torch(vectors * self._steps, self._codes, k, torch.device("cpu"))
        return scores + (vectors @ self._start)[:, None], rows

    def _by_bits(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, len(self.ids))
        scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        at_once = max(1, RESCORED_NUMBERS // max(1, RESCORED * k * vectors.shape[1]))
        for start in range(0, len(vectors), at_once):
            found, _ = semantic_search_faiss(
                vectors[start : start + at_once],
                corpus_index=self._index,
                corpus_precision="ubinary",
                top_k=k,
                rescore_multiplier=RESCORED,
            )
            for n, hits in enumerate(found, start=start):
                rows[n, : len(hits)] = [hit["corpus_id"] for hit in hits]
                scores[n, : len(hits)] = [hit["score"] for hit in hits]
        return scores, rows
