"""Hard negatives that BM25 ranks high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.retrievers.bm25 import BM25, RankBM25
from sharpen.sdg.negatives.candidates import Found

Backend = Literal["bm25s", "rank_bm25"]


def mine(
    queries: Sequence[Query],
    corpus: Corpus,
    depth: int,
    seed: int = 0,
    *,
    language: str | None = "english",
    backend: Backend = "bm25s",
) -> Found:
    """The ``depth`` best documents of each query. ``language``: of stemmer and stop words, None for neither."""
    index = (BM25 if backend == "bm25s" else RankBM25)(corpus, language=language)
    return Found(index.search({q.id: q.text for q in queries}, depth))
