"""The index of a corpus by an encoder of any family."""

from __future__ import annotations

from sentence_transformers import MultiVectorEncoder, SparseEncoder

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.encoders.families import AnyEncoder
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.base import Advance
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.retrievers.multi_vector import MultiVector
from sharpen.evaluation.retrievers.sparse import Sparse

Index = Dense | Sparse | MultiVector


def encoder_index(
    corpus: Corpus,
    model: AnyEncoder,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    precision: Precision = "auto",
    progress: Advance | None = None,
    approximate: bool = False,
) -> Index:
    """``corpus`` as it is searched with ``model``, a loaded one. Raises ``InputError`` for ``approximate`` with a
    sparse or multi-vector encoder, and as the index does."""
    options = (corpus, model, query_prompt, document_prompt, precision, progress)
    kind = {SparseEncoder: Sparse, MultiVectorEncoder: MultiVector}.get(type(model))
    if kind is None:
        return Dense(*options, approximate=approximate)
    if approximate:
        raise InputError(f"approximate: cells are made of dense vectors, and the model is {kind.name}; leave it out")
    return kind(*options)
