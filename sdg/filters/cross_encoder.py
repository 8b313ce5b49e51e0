"""A reranker's opinion of a query and its document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.sdg.filters import rejection


def cross_encoder(
    queries: Sequence[Query], corpus: Corpus, model: str, min_score: float
) -> tuple[list[Query], list[dict[str, Any]]]:
    """Keep the queries that ``model`` gives ``min_score`` or more with the best of their documents.

    The scale is the model's own (0 to 1 where it ends in a sigmoid), so the scores are in the rejected rows to choose
    by. Raises ``InputError`` if the model cannot be loaded.
    """
    pairs = [(query.text, corpus[doc_id].content) for query in queries for doc_id in query.metadata["positives"]]
    scores = iter(load_cross_encoder(model).predict(pairs, show_progress_bar=False).tolist() if pairs else [])
    kept, rejected = [], []
    for query in queries:
        score = max(next(scores) for _ in query.metadata["positives"])
        if score >= min_score:
            kept.append(query)
        else:
            rejected.append(rejection(query, f"cross-encoder: below {min_score:g}", score=round(score, 4)))
    return kept, rejected
