"""Search by embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Self

import faiss
import numpy as np
import torch
from accelerate.utils import gather_object
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.routes import prompt_of, route_of
from sharpen.evaluation.encoders.settings import Encoder, Precision
from sharpen.evaluation.encoders.soundness import check_vectors, probe
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.approximate import Cells
from sharpen.evaluation.retrievers.base import Advance
from sharpen.evaluation.truncation import Truncation, collect_truncations

QUERIES_AT_ONCE = 512
"""On a GPU: with a block of 262,144 vectors, 0.5 GiB of products."""


class Dense:
    """Search by cosine with a bi-encoder. The corpus is encoded when the index is made.

    ``model``: a folder, a hub name, ``packaged:<name>`` or a loaded model. ``query_prompt`` and ``document_prompt`` are
    put before the texts; None takes the model's prompts of the names ``query`` and ``document``, where it has them. A
    model with a route for each side encodes each by its own.
    ``precision``: what the model computes in, for documents and queries alike. ``approximate``: by FAISS, among the
    documents in the 32 cells of a k-means that are nearest to the query, for corpora of many millions; else all are
    compared, in blocks.

    A text of which no token is left (empty, for most tokenizers that add none) has a vector of zeros: as a document it
    is not found, as a query it finds nothing, and a warning counts such documents. Raises ``InputError`` if the model
    cannot be loaded, gives vectors that are not finite, or only zeros.
    """

    name = "dense"
    truncations: list[Truncation]
    """Of documents that are longer than the model reads; empty where none is."""

    def __init__(
        self,
        corpus: Corpus,
        model: SentenceTransformer | str,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: Precision = "auto",
        progress: Advance | None = None,
        approximate: bool = False,
    ) -> None:
        if isinstance(model, str):
            name, model = model, load_encoder(model)
            probe(model, name)
        with collect_truncations() as found:
            vectors = encode(
                route_of(model, "document"),
                [d.content for d in corpus.values()],
                prompt=prompt_of(model, "document", document_prompt),
                precision=precision,
                progress=progress,
                what="documents",
            )
        self._open(corpus, vectors, model, query_prompt, precision, approximate)
        self.truncations = found.all()

    @classmethod
    def of_vectors(
        cls, corpus: Corpus, vectors: np.ndarray, model: SentenceTransformer, encoder: Encoder, approximate: bool
    ) -> Self:
        """The index of a corpus of which the vectors are there, in its order: float32 of shape (documents, dimension).

        ``model``: of the queries, with the prompt and the precision of ``encoder``.
        """
        index = cls.__new__(cls)
        index._open(corpus, vectors, model, encoder.query_prompt, encoder.precision, approximate)
        index.truncations = []
        return index

    def _open(
        self,
        corpus: Corpus,
        vectors: np.ndarray,
        model: SentenceTransformer,
        query_prompt: str | None,
        precision: Precision,
        approximate: bool,
    ) -> None:
        self.ids, self.vectors = list(corpus), vectors
        self._model, self._dimensions, self._approximate = route_of(model, "query"), None, approximate
        self._cells: Cells | None = None
        self._precision = precision
        self._query_prompt = prompt_of(model, "query", query_prompt)
        self._without_token = set(np.flatnonzero(~self.vectors.any(axis=1)).tolist())
        self._warn(corpus)

    @property
    def nbytes(self) -> int:
        """Of the documents' vectors."""
        return self.vectors.nbytes

    def search(self, queries: Mapping[str, str], k: int, progress: Advance | None = None) -> Run:
        """Return the ``k`` best documents of each query."""
        vectors = self.encode_queries(list(queries.values()), progress)
        return self.as_run(list(queries), vectors, self._nearest(vectors, self.depth(k)), k)

    def depth(self, k: int) -> int:
        """How many documents have to be found so that ``k`` are left without those that have no token."""
        return k + len(self._without_token)

    def as_run(
        self, query_ids: Sequence[str], vectors: np.ndarray, found: tuple[np.ndarray, np.ndarray], k: int
    ) -> Run:
        """What was found for queries of these vectors, as scores and rows of shape (queries, ``depth(k)``); row -1:
        there are no more."""
        has_token, left_out = vectors.any(axis=1).tolist(), self._without_token
        return {
            q: dict([(self.ids[r], s) for r, s in zip(row, score, strict=True) if r >= 0 and r not in left_out][:k])
            if has
            else {}
            for q, score, row, has in zip(query_ids, *(side.tolist() for side in found), has_token, strict=True)
        }

    def _nearest(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """``nearest``, of which every process of ``accelerate launch`` searches with a part of the queries."""
        state = process_state()
        shape = (len(vectors), min(k, len(self.vectors)))
        here = np.arange(len(vectors))[state.process_index :: state.num_processes]
        scores, rows = self._search(vectors[here], k)
        if state.num_processes == 1:
            return scores, rows
        all_scores, all_rows = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        for other, *found in gather_object([(here, scores, rows)]):
            all_scores[other], all_rows[other] = found
        return all_scores, all_rows

    def _search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if not self._approximate:
            return nearest(vectors, self.vectors, k)
        if self._cells is None:
            self._cells = Cells(self.vectors)
        return self._cells.search(vectors, k)

    def _warn(self, corpus: Corpus) -> None:
        if not self._without_token:
            return
        if len(self._without_token) == len(self.ids):
            check_vectors(self.vectors, [d.content for d in corpus.values()])
        warnings.warn(
            f"{len(self._without_token):,} of {len(self.ids):,} documents, as {self.ids[min(self._without_token)]!r},"
            " have no token for this encoder, so no query finds them",
            stacklevel=4,
        )

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """Cosines of all documents, for at most ``rows`` queries at a time: float32 of shape (queries, documents)."""
        vectors = self.encode_queries(texts)
        for start in range(0, len(vectors), rows):
            yield vectors[start : start + rows] @ self.vectors.T

    def cut(self, dimensions: int) -> Dense:
        """The same index with the first ``dimensions`` of each embedding, of documents and queries alike."""
        other = copy(self)
        other._dimensions = dimensions
        other.vectors, other._cells = _cut(self.vectors, dimensions), None
        return other

    def with_query_encoder(self, model: SentenceTransformer) -> Dense:
        """The same vectors of documents, searched with queries that another model encodes."""
        other = copy(self)
        other._model = route_of(model, "query")
        return other

    def encode_queries(self, texts: Sequence[str], progress: Advance | None = None) -> np.ndarray:
        """Unit vectors of queries: float32 of shape (len(texts), dimension)."""
        options = {"precision": self._precision, "progress": progress, "what": "queries"}
        vectors = encode(self._model, texts, prompt=self._query_prompt, **options)
        return _cut(vectors, self._dimensions)


def similarities(
    model: SentenceTransformer,
    pairs: Sequence[tuple[str, str]],
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    precision: Precision = "auto",
    progress: Advance | None = None,
) -> list[float]:
    """Cosine of each (query, document); the prompts are as in ``Dense``."""
    queries, documents = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    sides = (("query", "queries", query_prompt, queries), ("document", "documents", document_prompt, documents))
    options = {"precision": precision, "progress": progress}
    vectors = [
        encode(route_of(model, name), texts, prompt=prompt_of(model, name, given), what=what, **options)
        for name, what, given, texts in sides
    ]
    rows = [{text: row for row, text in enumerate(texts)} for texts in (queries, documents)]
    return [float(vectors[0][rows[0][q]] @ vectors[1][rows[1][d]]) for q, d in pairs]


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows of ``vectors`` with the largest inner products with each query.

    Both are float32 of shape (rows, dimension), and may be mapped files. Returns products and row numbers of shape
    (len(queries), k), best first, -1 where there are no more. Exact, in blocks, so that no matrix of all products is in
    memory: on all cores by FAISS, on a GPU by torch where there is one.

    >>> nearest(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), k=1)[1].tolist()
    [[0], [1]]
    """
    k = min(k, len(vectors))
    if (device := process_state().device).type == "cuda":
        return nearest_by_torch(queries, vectors, k, device)
    return faiss.knn(np.ascontiguousarray(queries), np.ascontiguousarray(vectors), k, faiss.METRIC_INNER_PRODUCT)


def nearest_by_torch(
    queries: np.ndarray, vectors: np.ndarray, k: int, device: torch.device, block: int = 2**18
) -> tuple[np.ndarray, np.ndarray]:
    """``nearest`` on a device, which holds ``block`` of the vectors at once and the best of all before them.

    >>> eye = np.eye(3, dtype=np.float32)
    >>> nearest_by_torch(eye, eye, 1, torch.device("cpu"), block=2)[1].tolist()
    [[0], [1], [2]]
    """
    asked = torch.from_numpy(np.ascontiguousarray(queries)).to(device)
    best = torch.empty(len(queries), 0, device=device), torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(vectors), block):
        part = torch.from_numpy(np.array(vectors[start : start + block], dtype=np.float32)).to(device)
        found = [_top(of_block @ part.T, k) for of_block in asked.split(QUERIES_AT_ONCE)]
        scores, rows = (torch.cat(columns) for columns in zip(*found, strict=True))
        both = torch.cat([best[0], scores], dim=1), torch.cat([best[1], rows + start], dim=1)
        scores, places = _top(both[0], k)
        best = scores, both[1].gather(1, places)
    return best[0].cpu().numpy(), best[1].cpu().numpy()


def _top(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(scores.topk(min(k, scores.shape[1])))


def _cut(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first ``dimensions`` (None: all), brought to length 1 again."""
    if dimensions is None:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
