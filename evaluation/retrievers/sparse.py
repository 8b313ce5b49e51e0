"""Search by sparse vectors: a number for each word of the vocabulary, most of them zero (SPLADE; Formal 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from scipy.sparse import csr_array, vstack
from sentence_transformers import SparseEncoder
from sentence_transformers.util import select_max_active_dims

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.encoders.batching import report_lengths, rows_of_process, run_batches
from sharpen.evaluation.encoders.families import WHAT, OneSide, load_family, probe_family
from sharpen.evaluation.encoders.precision import in_precision
from sharpen.evaluation.encoders.routes import Side, prompt_of
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.encoders.soundness import check_finite, embed
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Advance
from sharpen.evaluation.retrievers.blocks import search_blocks
from sharpen.evaluation.truncation import Truncation, collect_truncations

TEXTS_AT_ONCE = {"cpu": 8, "cuda": 32}
"""Each token has a number for each word before they are pooled: 8 texts of 256 tokens take 0.25 GB for 30,522 words."""
SIMILARITIES = ("dot", "cosine")


class Sparse:
    """Search by the inner product of sparse vectors. The corpus is encoded when the index is made.

    ``model``, prompts and ``precision`` as ``Dense`` has them, for a ``SparseEncoder`` or a masked language model.
    All documents are scored, exactly, by a product of sparse matrices; one with the score 0, which shares no word with
    the query, is not found. ``vectors``: float32 of shape (documents, words), CSR. Raises ``InputError`` if the model
    cannot be loaded, or compares by anything but inner product and cosine.

    >>> from sharpen.evaluation.beir import Document
    >>> corpus = {"a": Document("a", "Bake the bread."), "b": Document("b", "Ice flows downhill.")}
    >>> list(Sparse(corpus, "packaged:tiny-bert").search({"q": "how ice flows"}, k=1)["q"])
    ['b']
    """

    name = "sparse"
    truncations: list[Truncation]

    def __init__(
        self,
        corpus: Corpus,
        model: SparseEncoder | str,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: Precision = "auto",
        progress: Advance | None = None,
    ) -> None:
        if isinstance(model, str):
            name, model = model, load_family(model, "sparse")
            probe_family(model, name)
        if model.similarity_fn_name not in SIMILARITIES:
            raise InputError(f"the sparse encoder compares by {model.similarity_fn_name}; dot and cosine are known")
        self.ids = list(corpus)
        self._model, self._precision = model, precision
        self._query_prompt = prompt_of(model, "query", query_prompt)
        prompt = prompt_of(model, "document", document_prompt)
        texts = [document.content for document in corpus.values()]
        with collect_truncations() as found:
            self.vectors = self._encode(texts, "document", prompt, progress)
        self.truncations = found.all()
        self._by_word = self.vectors.T.tocsr()

    @property
    def nbytes(self) -> int:
        """Of the documents' numbers and the places of these, as an inverted index has them."""
        return self.vectors.data.nbytes + self.vectors.indices.nbytes

    def search(self, queries: Mapping[str, str], k: int, progress: Advance | None = None) -> Run:
        """Return the ``k`` best documents of each query. Those that share no word with the query are left out."""
        return search_blocks(self, queries, k, above=0.0, progress=progress)

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """Scores of all documents, for at most ``rows`` queries at a time: float32 of shape (queries, documents)."""
        vectors = self.encode_queries(texts)
        for start in range(0, vectors.shape[0], rows):
            yield (vectors[start : start + rows] @ self._by_word).toarray()

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """float32 of shape (len(texts), words)."""
        return self._encode(list(texts), "query", self._query_prompt, None)

    def _encode(self, texts: list[str], side: Side, prompt: str, progress: Advance | None) -> csr_array:
        vectors = encode_sparse(self._model, texts, side, prompt, self._precision, progress)
        if self._model.similarity_fn_name == "cosine":
            lengths = np.sqrt(vectors.multiply(vectors).sum(axis=1))
            vectors = vectors.multiply(1 / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]).tocsr()
        return vectors


def encode_sparse(
    model: SparseEncoder,
    texts: Sequence[str],
    side: Side,
    prompt: str = "",
    precision: Precision = "auto",
    progress: Advance | None = None,
) -> csr_array:
    """Texts of a side as sparse vectors: float32 of shape (len(texts), words). Otherwise as ``encode`` has it."""
    one, words = OneSide(model, side), _words(model)
    parts: list[tuple[np.ndarray, csr_array]] = []

    def compute(rows: np.ndarray, features: dict[str, Any]) -> None:
        vectors = embed(lambda each: one.forward(each)["sentence_embedding"], features, words)
        if model.max_active_dims:
            vectors = select_max_active_dims(vectors, max_active_dims=model.max_active_dims)
        values = vectors.float().cpu().numpy()
        check_finite(values, [texts[row] for row in rows])
        parts.append((rows, csr_array(values)))

    one.eval()
    size, here = TEXTS_AT_ONCE.get(model.device.type, TEXTS_AT_ONCE["cuda"]), rows_of_process(texts)
    with in_precision(model, precision):
        truncated = run_batches(one, texts, here, compute, size, progress, prompt)
    if process_state().num_processes > 1:
        parts = gather_object(parts)
    report_lengths(WHAT[side], len(texts), truncated, one.max_seq_length)
    if not parts:
        return csr_array((0, words), dtype=np.float32)
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return vstack([vectors for _, vectors in parts], format="csr")[order]


def _words(model: SparseEncoder) -> int:
    # a fresh pooling learns it from the first text
    return model.get_embedding_dimension() or model.transformers_model.config.vocab_size
