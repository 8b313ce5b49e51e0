"""Retrieval: a corpus is indexed once, then queries give a run. All have the same two verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Protocol

import faiss
import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from evaluation.bm25 import Progress
from evaluation.data import Corpus, Run
from evaluation.datasets import Task
from evaluation.models import encode, score_pairs
from evaluation.runs import fuse, ranking, to_documents

RUN_DEPTH = 100
CELLS_LOOKED_AT = 32
"""Of an approximate index, for each query."""


class Retriever(Protocol):
    """What gives a run; ``queries`` are ID to text."""

    def search(self, queries: Mapping[str, str], k: int) -> Run: ...


def search_task(task: Task, retriever: Retriever, depth: int = RUN_DEPTH) -> Run:
    """The ``depth`` best documents of each of the task's queries, without a document of the query's own ID, as in BEIR: of
    ArguAna and Quora the queries stand in the corpus, too."""
    cut = task.by_document and any(d.doc_id != i for i, d in task.corpus.items())
    # the chunks of a hundred documents may be many, and a hit of the query's own ID is none: search deeper, cut after
    run = retriever.search(task.texts, depth * 10 if cut else depth + 1)
    if cut:
        run = to_documents(run, task.corpus)
    return {q: {d: scores[d] for d in [d for d in ranking(scores) if d != q][:depth]} for q, scores in run.items()}


class Dense:
    """Search by cosine with a bi-encoder. The corpus is encoded when the index is made.

    ``query_prompt`` and ``document_prompt`` are put before the texts; None takes the model's own prompts of the names
    ``query`` and ``document``, where it has them. ``approximate``: by FAISS, among the documents of the cells of a k-means that
    are nearest to the query, for corpora of many millions; else all are compared, in blocks.
    """

    name = "dense"

    def __init__(
        self,
        corpus: Corpus,
        model: SentenceTransformer,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        progress: Progress | None = None,
        approximate: bool = False,
    ) -> None:
        self.ids = list(corpus)
        self._model, self._dimensions, self._approximate = model, None, approximate
        self._query_prompt = _prompt(model, "query", query_prompt)
        self.vectors = encode(model, [d.content for d in corpus.values()], prompt=_prompt(model, "document", document_prompt), progress=progress)

    def search(self, queries: Mapping[str, str], k: int, progress: Progress | None = None) -> Run:
        """Return the ``k`` best documents of each query."""
        scores, rows = nearest(self.encode_queries(list(queries.values()), progress), self.vectors, k, self._approximate)
        return {q: {self.ids[r]: s for r, s in zip(row, score, strict=True) if r >= 0} for q, row, score in zip(queries, rows.tolist(), scores.tolist(), strict=True)}

    def cut(self, dimensions: int) -> Dense:
        """The same index with the first ``dimensions`` of each embedding, of documents and queries alike."""
        other = copy(self)
        other._dimensions = dimensions
        other.vectors = _cut(self.vectors, dimensions)
        return other

    def encode_queries(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """Unit vectors of queries: float32 of shape (len(texts), dimension)."""
        return _cut(encode(self._model, texts, prompt=self._query_prompt, progress=progress), self._dimensions)


class Hybrid:
    """Several retrievers' best ``depth`` documents by reciprocal rank fusion."""

    name = "hybrid"

    def __init__(self, *retrievers: Retriever, depth: int = 1000) -> None:
        self._retrievers, self._depth = retrievers, depth

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the ``k`` best documents of each query."""
        fused = fuse([r.search(queries, max(k, self._depth)) for r in self._retrievers])
        return {q: {d: own[d] for d in ranking(own)[:k]} for q, own in fused.items()}


class Reranked:
    """The best ``depth`` documents of another retriever, put in order by a cross-encoder; those below follow as they were.

    ``first_share``: part that the first retriever's scores have in the new ones, both with mean 0 and deviation 1 over a
    query's documents; 0: the cross-encoder's alone.
    """

    name = "reranked"

    def __init__(self, first: Retriever, corpus: Corpus, model: CrossEncoder, depth: int = 100, progress: Progress | None = None, first_share: float = 0.0) -> None:
        self._first, self._corpus, self._model, self._depth, self._progress, self._share = first, corpus, model, depth, progress, first_share

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return ``k`` documents of each query."""
        first = self._first.search(queries, max(k, self._depth))
        found = {q: ranking(scores) for q, scores in first.items()}
        best = {q: [d for d in ranked if d != q][: self._depth] for q, ranked in found.items()}
        pairs = [(q, doc_id) for q, chosen in best.items() for doc_id in chosen]
        scores = dict(zip(pairs, score_pairs(self._model, [(queries[q], self._corpus[d].content) for q, d in pairs], self._progress), strict=True))
        run: Run = {}
        for q, ranked in found.items():
            chosen = best[q]
            own = np.array([scores[q, d] for d in chosen])
            if self._share:
                own = (1 - self._share) * standardized(own) + self._share * standardized(np.array([first[q][d] for d in chosen]))
            run[q] = dict(zip(chosen, own.tolist(), strict=True))
            lowest = min(run[q].values(), default=0.0)
            run[q] |= {d: lowest - rank for rank, d in enumerate([d for d in ranked if d not in run[q]], start=1)}
        return {q: {d: own[d] for d in ranking(own)[:k]} for q, own in run.items()}


def standardized(values: np.ndarray) -> np.ndarray:
    """With mean 0 and deviation 1; all 0 where they are the same."""
    return (values - values.mean()) / (values.std() or 1.0) if len(values) else values


def similarities(
    model: SentenceTransformer, pairs: Sequence[tuple[str, str]], query_prompt: str | None = None, document_prompt: str | None = None, progress: Progress | None = None
) -> list[float]:
    """Cosine of each (query, document); the prompts are as in ``Dense``."""
    queries, documents = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    sides = (("query", query_prompt, queries), ("document", document_prompt, documents))
    vectors = [encode(model, texts, prompt=_prompt(model, name, given), progress=progress) for name, given, texts in sides]
    rows = [{text: row for row, text in enumerate(texts)} for texts in (queries, documents)]
    return [float(vectors[0][rows[0][q]] @ vectors[1][rows[1][d]]) for q, d in pairs]


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int, approximate: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows of ``vectors`` with the largest inner products with each query, by FAISS.

    Both float32 of shape (rows, dimension); returns products and places of shape (len(queries), k), best first, -1 where
    there are no more. Exact, in blocks, so that no matrix of all products is in memory; or ``approximate``, where of some 4
    times the root of so many cells, 32 are looked at.
    """
    k = min(k, len(vectors))
    if not approximate:
        return faiss.knn(np.ascontiguousarray(queries), np.ascontiguousarray(vectors), k, faiss.METRIC_INNER_PRODUCT)
    cells = cell_index(vectors, CELLS_LOOKED_AT)
    cells.add(vectors)
    return cells.search(queries, k)


def cell_index(sample: np.ndarray, looked_at: int) -> faiss.Index:
    """An empty index by inner product with cells learned from ``sample``, of which ``looked_at`` are searched. The same
    vectors give the same cells."""
    _, dimension = sample.shape
    flat = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(flat, dimension, max(1, 4 * int(len(sample) ** 0.5)), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = looked_at
    learning = index.cp
    learning.spherical, learning.niter, learning.max_points_per_centroid, learning.min_points_per_centroid = True, 4, 32, 1
    index.train(np.ascontiguousarray(sample))
    return index


def _cut(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first ``dimensions`` (None: all), brought to length 1 again."""
    if dimensions is None:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _prompt(model: SentenceTransformer, name: str, given: str | None) -> str:
    return (model.prompts or {}).get(name, "") or "" if given is None else given
