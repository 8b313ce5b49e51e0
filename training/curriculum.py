"""Rows in the order of their difficulty (curriculum learning, Bengio et al. 2009; for retrieval Zeng et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.routes import prompt_of
from sharpen.training.collators import Texts
from sharpen.training.settings import RetrieverSettings
from sharpen.training.triplets import Triplet

BLOCK = 4096
"""Rows whose vectors are gathered at a time."""


def easy_first(
    model: SentenceTransformer, rows: Sequence[Triplet], texts: Texts, settings: RetrieverSettings
) -> list[int]:
    """The rows' numbers, from the easiest for ``model`` to the hardest: by how far it puts the positive above the
    hardest negative, in cosine (``margins``)."""
    queries = list(dict.fromkeys(row.query_id for row in rows))
    documents = list(dict.fromkeys(i for row in rows for i in (row.positive_id, *row.negative_ids)))
    vectors = {
        side: encode(model, contents, prompt=prompt_of(model, side, given), precision=settings.precision)
        for side, contents, given in (
            ("query", [texts.queries[i].text for i in queries], settings.query_prompt),
            ("document", [texts.corpus[i].content for i in documents], settings.document_prompt),
        )
    }
    of_query, of_document = ({name: n for n, name in enumerate(names)} for names in (queries, documents))
    asked = np.array([of_query[row.query_id] for row in rows])
    answers = np.array([[of_document[i] for i in (row.positive_id, *row.negative_ids)] for row in rows])
    found = [
        margins(vectors["query"][asked[block]], vectors["document"][answers[block]])
        for block in np.array_split(np.arange(len(rows)), 1 + len(rows) // BLOCK)
    ]
    return np.argsort(-np.concatenate(found), kind="stable").tolist()


def margins(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The positive's cosine less the highest negative's: of unit vectors, (rows, dimension) and (rows, documents,
    dimension), whose first document is the positive, (rows,). Without negatives the positive's cosine.

    >>> margins(np.array([[1.0, 0.0]]), np.array([[[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]])).round(2).tolist()
    [0.2]
    """
    cosines = np.einsum("rd,rnd->rn", queries, documents)
    return cosines[:, 0] - (cosines[:, 1:].max(axis=1) if cosines.shape[1] > 1 else 0)
