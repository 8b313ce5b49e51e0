"""Search by a vector for each token: late interaction, or MaxSim (ColBERT; Khattab and Zaharia 2020)."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from sentence_transformers import MultiVectorEncoder

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.encoders.batching import report_lengths, rows_of_process, run_batches
from sharpen.evaluation.encoders.families import WHAT, OneSide, load_family, probe_family
from sharpen.evaluation.encoders.precision import in_precision
from sharpen.evaluation.encoders.routes import Side, prompt_of
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.encoders.soundness import check_finite
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Advance
from sharpen.evaluation.retrievers.blocks import search_blocks
from sharpen.evaluation.truncation import Truncation, collect_truncations

DOCUMENT_TOKENS = 16_384
QUERY_TOKENS = 1024
"""That are compared at once: 64 MB of similarities, and with 128 dimensions 8 MB of documents in float32."""

Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows of texts, the tokens of each, and the vectors of all these tokens, float16 of shape (tokens, dimension)."""


class MultiVector:
    """Search by MaxSim: for each token of the query the most similar token of the document, summed over the query.

    ``model``, prompts and ``precision`` as ``Dense`` has them, for a ``MultiVectorEncoder``. The tokens' vectors of the
    documents lie in float16 in a file without a name in the temporary folder (``TMPDIR``), which goes with the index:
    256 bytes a token of 128 dimensions, some 50 KB an abstract. All documents are compared, exactly, in blocks, so that
    searching takes about 100 MB and 32 MB for the scores, however large the corpus. Raises ``InputError`` if the model
    cannot be loaded, and if there is no room for the file.

    >>> from sharpen.evaluation.beir import Document
    >>> corpus = {"a": Document("a", "Bake the bread."), "b": Document("b", "Ice flows downhill.")}
    >>> _ = torch.manual_seed(0)  # of the projection that this encoder lacks
    >>> list(MultiVector(corpus, "packaged:all-MiniLM-L6-v2").search({"q": "how ice flows"}, k=1)["q"])
    ['b']
    """

    name = "multi_vector"
    truncations: list[Truncation]

    def __init__(
        self,
        corpus: Corpus,
        model: MultiVectorEncoder | str,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: Precision = "auto",
        progress: Advance | None = None,
    ) -> None:
        if isinstance(model, str):
            name, model = model, load_family(model, "multi_vector")
            probe_family(model, name)
        self.ids = list(corpus)
        self._model, self._precision = model, precision
        self._query_prompt = prompt_of(model, "query", query_prompt)
        prompt = prompt_of(model, "document", document_prompt)
        texts = [document.content for document in corpus.values()]
        with collect_truncations() as found:
            self._vectors = encode_tokens(model, texts, "document", prompt, precision, progress)
        self.truncations = found.all()

    @property
    def nbytes(self) -> int:
        """Of the documents' vectors, in float16."""
        return self._vectors.nbytes

    def search(self, queries: Mapping[str, str], k: int, progress: Advance | None = None) -> Run:
        """Return the ``k`` best documents of each query. Those without a token that counts are left out."""
        return search_blocks(self, queries, k, never=self._vectors.without_token, progress=progress)

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """Scores of all documents, for at most ``rows`` queries at a time: float32 of shape (queries, documents); 0 for
        a document without a token that counts."""
        queries = encode_tokens(self._model, list(texts), "query", self._query_prompt, self._precision)
        mean = self._model.similarity_fn_name == "meanmaxsim"
        for start in range(0, len(texts), rows):
            block = np.zeros((len(texts[start : start + rows]), len(self.ids)), dtype=np.float32)
            for first, of_queries, lengths in queries.padded(range(start, start + len(block)), QUERY_TOKENS):
                of_queries = of_queries.to(self._model.device)
                for columns, of_documents, _ in self._vectors.blocks(DOCUMENT_TOKENS):
                    scores = maxsim(of_queries, of_documents.to(self._model.device)).cpu().numpy()
                    at = np.arange(first - start, first - start + len(scores))
                    block[np.ix_(at, columns)] = scores / lengths[:, None] if mean else scores
            yield block


def maxsim(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """float32 of shape (queries, documents), of vectors of shape (texts, tokens, dimension).

    Queries are padded with zeros, which add nothing, and documents with one of their own vectors, which changes no
    maximum: no mask is needed.

    >>> query, same, other = torch.eye(2)[None], torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    >>> maxsim(query, torch.cat([same, other])).tolist()
    [[2.0, 1.0]]
    """
    similarities = queries.flatten(0, 1) @ documents.flatten(0, 1).T
    best = similarities.view(len(queries) * queries.shape[1], len(documents), documents.shape[1]).amax(dim=2)
    return best.view(len(queries), queries.shape[1], len(documents)).sum(dim=1)


class TokenVectors:
    """The tokens' vectors of many texts, float16, in a file in the order in which they came."""

    def __init__(self, texts: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="sharpen-", suffix=".tokens")  # noqa: SIM115 - as long as this
        weakref.finalize(self, self._file.close)
        self._lock = Lock()
        self._lengths, self._starts = np.zeros(texts, dtype=np.int64), np.zeros(texts, dtype=np.int64)
        self._tokens, self._dimension = 0, 1

    def add(self, rows: np.ndarray, lengths: np.ndarray, vectors: np.ndarray) -> None:
        """A ``Part``. Raises ``InputError`` if the disk is full."""
        with self._lock:
            self._lengths[rows] = lengths
            self._starts[rows] = self._tokens + np.cumsum(lengths) - lengths
            self._tokens, self._dimension = self._tokens + len(vectors), vectors.shape[1]
            try:
                self._file.write(np.ascontiguousarray(vectors, dtype=np.float16).data)
            except OSError as error:
                raise InputError(
                    f"{tempfile.gettempdir()}: the tokens' vectors of the documents cannot be written ({error}); set"
                    " TMPDIR to a folder with more room"
                ) from error

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return 2 * self._tokens * self._dimension

    @property
    def without_token(self) -> list[int]:
        """Rows of the texts that have none."""
        return np.flatnonzero(self._lengths == 0).tolist()

    def blocks(self, most: int) -> Iterator[tuple[np.ndarray, torch.Tensor, np.ndarray]]:
        """Row numbers, vectors of shape (texts, tokens, dimension) and numbers of tokens of texts of like length, at
        most ``most`` tokens at a time. A text with fewer tokens than the longest is filled up with its last one."""
        order = np.argsort(self._starts, kind="stable")
        order = order[self._lengths[order] > 0]  # as they lie in the file
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, most)]
            widest = np.maximum.accumulate(self._lengths[rows])
            fits = int(np.searchsorted(widest * np.arange(1, len(rows) + 1), most, side="right"))
            rows = rows[: max(1, fits)]
            yield rows, self._of(rows), self._lengths[rows]
            start += len(rows)

    def padded(self, rows: range, most: int) -> Iterator[tuple[int, torch.Tensor, np.ndarray]]:
        """The first row of some consecutive ones, their vectors padded with zeros, and their numbers of tokens."""
        width = int(max(1, self._lengths[rows.start : rows.stop].max(initial=1)))
        step = max(1, most // width)
        for start in range(rows.start, rows.stop, step):
            some = np.arange(start, min(start + step, rows.stop))
            lengths = self._lengths[some]
            vectors = self._of(some)
            vectors[torch.arange(vectors.shape[1])[None] >= torch.from_numpy(lengths)[:, None]] = 0
            yield start, vectors, np.maximum(lengths, 1)

    def _of(self, rows: np.ndarray) -> torch.Tensor:
        lengths = np.maximum(self._lengths[rows], 1)
        places = self._starts[rows][:, None] + np.minimum(np.arange(lengths.max())[None], lengths[:, None] - 1)
        if not self._tokens:
            return torch.zeros(*places.shape, self._dimension)
        self._file.flush()
        mapped = np.memmap(self._file, dtype=np.float16, mode="r", shape=(self._tokens, self._dimension))
        return torch.from_numpy(mapped[np.minimum(places, self._tokens - 1)]).float()


def encode_tokens(
    model: MultiVectorEncoder,
    texts: Sequence[str],
    side: Side,
    prompt: str = "",
    precision: Precision = "auto",
    progress: Advance | None = None,
) -> TokenVectors:
    """The tokens' vectors of the texts of a side, without those that the model leaves out. Otherwise as ``encode``."""
    one, vectors, parts = OneSide(model, side), TokenVectors(len(texts)), []
    alone = process_state().num_processes == 1

    def compute(rows: np.ndarray, features: dict[str, Any]) -> None:
        output = one.forward(features)
        mask, of_tokens = output["attention_mask"].bool(), output["token_embeddings"].float()
        sums = torch.where(mask[..., None], of_tokens, 0).sum(dim=(1, 2)).cpu().numpy()
        check_finite(sums, [texts[row] for row in rows])
        part = rows, mask.sum(dim=1).cpu().numpy(), of_tokens[mask].cpu().numpy().astype(np.float16)
        vectors.add(*part) if alone else parts.append(part)

    one.eval()
    with in_precision(model, precision):
        truncated = run_batches(one, texts, rows_of_process(texts), compute, None, progress, prompt)
    for part in [] if alone else gather_object(parts):
        vectors.add(*part)
    report_lengths(WHAT[side], len(texts), truncated, one.max_seq_length)
    return vectors
