"""Hard negatives that a bi-encoder finds near the query: the model that is trained, or any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sentence_transformers import SentenceTransformer
from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import ranking
from sharpen.sdg.negatives.candidates import Found

BLOCK = 100_000
"""Documents whose embeddings are in memory at once: some 150 MB of 384 numbers each."""


def mine(
    queries: Sequence[Query],
    corpus: Corpus,
    depth: int,
    seed: int = 0,
    *,
    model: SentenceTransformer,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    block: int = BLOCK,
    approximate: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """The ``depth`` nearest documents of each query by cosine.

    The corpus is encoded and searched ``block`` documents after ``block``, of which the best are kept, so memory does
    not grow with it. ``approximate``: each block's cells of a k-means that are nearest to the query only (FAISS).
    Prompts as in ``Dense``.
    """
    ids = list(corpus)
    texts = {q.id: q.text for q in queries}
    best: Run = {q: {} for q in texts}
    for start in range(0, len(ids), block):
        part = {i: corpus[i] for i in ids[start : start + block]}
        found = Dense(part, model, query_prompt, document_prompt, progress, approximate).search(texts, depth)
        for q, scores in found.items():
            merged = best[q] | scores
            best[q] = {i: merged[i] for i in ranking(merged)[:depth]}
    return Found(best)
