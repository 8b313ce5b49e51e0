"""First-stage retrieval: a corpus is indexed once, then queries give a run. BM25 and dense have the same two verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import bm25s
import numpy as np
import Stemmer
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from evaluation.data import Corpus, Run
from evaluation.models import encode, score_pairs

Progress = Callable[[int], None]


class BM25:
    """BM25 (Lucene's variant) by ``bm25s``, over title and text.

    ``k1`` 0.9 and ``b`` 0.4 are Anserini's, which BEIR's published BM25 uses. ``language``: a Snowball stemmer's name,
    or None for no stemming; English also loses its stop words.
    """

    name = "bm25"

    def __init__(self, corpus: Corpus, k1: float = 0.9, b: float = 0.4, language: str | None = "english") -> None:
        self._stemmer = Stemmer.Stemmer(language) if language else None
        self._stop_words = "english" if language == "english" else None
        self.ids = list(corpus)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        tokens = self._tokenize([d.content for d in corpus.values()])
        self._empty = not tokens.vocab  # stop words and signs only; bm25s would raise
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Mapping[str, str], k: int, progress: Progress | None = None) -> Run:
        """Return the ``k`` best documents of each query. Documents that share no word with the query are left out."""
        if self._empty:
            return {query_id: {} for query_id in queries}
        k = min(k, len(self.ids))
        tokens = self._tokenize(list(queries.values()))
        rows, scores = self._index.retrieve(tokens, k=k, sorted=True, show_progress=False)
        if progress:
            progress(len(queries))
        return {
            query_id: {self.ids[row]: float(score) for row, score in zip(rows[i], scores[i], strict=True) if score > 0}
            for i, query_id in enumerate(queries)
        }

    def _tokenize(self, texts: list[str]):
        return bm25s.tokenize(texts, stopwords=self._stop_words or [], stemmer=self._stemmer, show_progress=False)


class Dense:
    """Exact search by cosine with a bi-encoder. The corpus is encoded when the index is made.

    ``query_prompt`` and ``document_prompt`` are put before the texts; None takes the model's own prompts of the names
    ``query`` and ``document``, where it has them.
    """

    name = "dense"

    def __init__(
        self,
        corpus: Corpus,
        model: SentenceTransformer,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.ids = list(corpus)
        self._model, self._dimensions = model, None
        self._query_prompt = _prompt(model, "query", query_prompt)
        self._vectors = encode(model, [d.content for d in corpus.values()], prompt=_prompt(model, "document", document_prompt), progress=progress)

    def search(self, queries: Mapping[str, str], k: int, progress: Progress | None = None, block: int = 512) -> Run:
        """Return the ``k`` best documents of each query. ``block`` queries are scored against the corpus at a time."""
        vectors = self.encode_queries(list(queries.values()), progress)
        corpus = torch.from_numpy(self._vectors)
        run: Run = {}
        for start in range(0, len(vectors), block):
            scores, rows = torch.topk(torch.from_numpy(vectors[start : start + block]) @ corpus.T, min(k, len(self.ids)), dim=1)
            for query_id, row, score in zip(list(queries)[start : start + block], rows.tolist(), scores.tolist(), strict=True):
                run[query_id] = {self.ids[r]: s for r, s in zip(row, score, strict=True)}
        return run

    def cut(self, dimensions: int) -> Dense:
        """The same index with the first ``dimensions`` of each embedding, of documents and queries alike."""
        other = copy(self)
        other._dimensions = dimensions
        other._vectors = _cut(self._vectors, dimensions)
        return other

    def encode_queries(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """Unit vectors of queries: float32 of shape (len(texts), dimension)."""
        return _cut(encode(self._model, texts, prompt=self._query_prompt, progress=progress), self._dimensions)


class Reranked:
    """The best ``depth`` documents of another retriever, put in order by a cross-encoder; those below follow as they were."""

    name = "reranked"

    def __init__(self, first: BM25 | Dense, corpus: Corpus, model: CrossEncoder, depth: int = 100, progress: Progress | None = None) -> None:
        self._first, self._corpus, self._model, self._depth, self._progress = first, corpus, model, depth, progress

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return ``k`` documents of each query."""
        found = {q: ranking(scores) for q, scores in self._first.search(queries, max(k, self._depth)).items()}
        pairs = [(q, doc_id) for q, ranked in found.items() for doc_id in [d for d in ranked if d != q][: self._depth]]
        scores = score_pairs(self._model, [(queries[q], self._corpus[d].content) for q, d in pairs], self._progress)
        run: Run = {q: {} for q in queries}
        for (q, doc_id), score in zip(pairs, scores, strict=True):
            run[q][doc_id] = score
        for q, ranked in found.items():
            lowest = min(run[q].values(), default=0.0)
            run[q] |= {d: lowest - rank for rank, d in enumerate([d for d in ranked if d not in run[q]], start=1)}
        return {q: {d: own[d] for d in ranking(own)[:k]} for q, own in run.items()}


def similarities(
    model: SentenceTransformer, pairs: Sequence[tuple[str, str]], query_prompt: str | None = None, document_prompt: str | None = None, progress: Progress | None = None
) -> list[float]:
    """Cosine of each (query, document); the prompts are as in ``Dense``."""
    queries, documents = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    sides = (("query", query_prompt, queries), ("document", document_prompt, documents))
    vectors = [encode(model, texts, prompt=_prompt(model, name, given), progress=progress) for name, given, texts in sides]
    rows = [{text: row for row, text in enumerate(texts)} for texts in (queries, documents)]
    return [float(vectors[0][rows[0][q]] @ vectors[1][rows[1][d]]) for q, d in pairs]


def fuse(runs: Sequence[Run], k: int = 60) -> Run:
    """Reciprocal rank fusion (Cormack et al. 2009): a document scores the sum of 1 / (``k`` + rank) over the runs."""
    fused: Run = {}
    for run in runs:
        for query_id, scores in run.items():
            target = fused.setdefault(query_id, {})
            for rank, doc_id in enumerate(ranking(scores), start=1):
                target[doc_id] = target.get(doc_id, 0.0) + 1 / (k + rank)
    return fused


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Document IDs, best first; equal scores by ID, so that the order is a function of the scores."""
    return sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))


def to_documents(run: Run, corpus: Corpus) -> Run:
    """Rank documents by their best chunk (MaxP); where nothing was cut the run stays as it is."""
    by_document: Run = {}
    for query_id, scores in run.items():
        best = by_document.setdefault(query_id, {})
        for chunk_id, score in scores.items():
            doc_id = corpus[chunk_id].doc_id
            best[doc_id] = max(score, best.get(doc_id, -np.inf))
    return by_document


def _cut(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first ``dimensions`` (None: all), brought to length 1 again."""
    if dimensions is None:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _prompt(model: SentenceTransformer, name: str, given: str | None) -> str:
    return (model.prompts or {}).get(name, "") or "" if given is None else given
