"""Scores of queries with documents, by whoever a recipe names: for teachers, and for filters of negatives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from sharpen.evaluation.beir import Corpus, Queries
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.retrievers.base import RUN_DEPTH, Progress
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import similarities
from sharpen.evaluation.retrievers.reranked import standardized
from sharpen.recipes.engine import Context
from sharpen.recipes.stages.comparison import base_input, model_digest

BI_ENCODER = "encoder:"
"""Before the name of a scorer that is a bi-encoder."""
BASE = "base"
"""The base model of the training, by cosine."""
BY_WORDS = "bm25"
FUSED = "fused"
"""BM25 and the base together."""
OWN = (BASE, BY_WORDS, FUSED)
"""Scorers that are no model's name."""

Pairs = Sequence[tuple[str, str]]
"""Query IDs and document IDs."""


def score(
    context: Context,
    scorer: str,
    pairs: Pairs,
    queries: Queries,
    corpus: Corpus,
    progress: Progress | None = None,
    current: SentenceTransformer | None = None,
) -> dict[tuple[str, str], float]:
    """Scores of the pairs; higher is more relevant. ``scorer``: ``base``, ``bm25``, ``fused``, ``encoder:<name>`` or a
    cross-encoder's name. ``current``: in place of the base. All processes must call this. Raises ``InputError`` if a
    model cannot be loaded."""
    if not pairs:
        return {}
    if context.siblings and current is None and scorer not in OWN:  # other arms and seeds ask for many of the same
        known = context.cache.setdefault(("scores", scorer_digest(context, scorer)), {})
        # by the texts: another seed or another LLM may have written another one under the same ID
        keys = {
            (q, i): hashlib.blake2b(f"{queries[q].text}\0{corpus[i].content}".encode(), digest_size=16).digest()
            for q, i in pairs
        }
        found = _scored(
            context, scorer, [pair for pair in pairs if keys[pair] not in known], queries, corpus, progress, None
        )
        known |= {keys[pair]: value for pair, value in found.items()}
        return {pair: known[keys[pair]] for pair in pairs}
    return _scored(context, scorer, pairs, queries, corpus, progress, current)


def _scored(
    context: Context,
    scorer: str,
    pairs: Pairs,
    queries: Queries,
    corpus: Corpus,
    progress: Progress | None,
    current: SentenceTransformer | None,
) -> dict[tuple[str, str], float]:
    if not pairs:
        return {}
    texts = [(queries[q].text, corpus[i].content) for q, i in pairs]
    if scorer == FUSED:
        values = _fused(
            pairs, [score(context, own, pairs, queries, corpus, progress, current) for own in (BY_WORDS, BASE)]
        )
    elif scorer == BY_WORDS:
        found = BM25(corpus).search({q: queries[q].text for q, _ in pairs}, min(len(corpus), 10 * RUN_DEPTH))
        values = [found[q].get(i, 0.0) for q, i in pairs]
    elif scorer == BASE:
        part = context.recipe.training
        model = current or load_encoder(part.base, max_seq_length=part.max_seq_length, attention=part.attention)
        values = similarities(model, texts, part.query_prompt, part.document_prompt, progress)
    elif scorer.startswith(BI_ENCODER):
        values = similarities(load_encoder(scorer.removeprefix(BI_ENCODER)), texts, progress=progress)
    else:
        values = score_pairs(load_cross_encoder(scorer), texts, progress)
    return dict(zip(pairs, values, strict=True))


def scorer_digest(context: Context, scorer: str) -> str:
    """What stands for a scorer in a fingerprint."""
    if scorer == BY_WORDS:
        return scorer
    if scorer in OWN:
        return base_input(context)["base"]
    return f"{BI_ENCODER if scorer.startswith(BI_ENCODER) else ''}{model_digest(scorer.removeprefix(BI_ENCODER))}"


def _fused(pairs: Pairs, parts: Sequence[dict[tuple[str, str], float]]) -> list[float]:
    """For each pair the sum of the parts' scores, each with mean 0 and deviation 1 over a query's documents: they have
    no scale in common."""
    rows: dict[str, list[int]] = {}
    for row, (q, _) in enumerate(pairs):
        rows.setdefault(q, []).append(row)
    scores = np.zeros(len(pairs))
    for values in ([part[pair] for pair in pairs] for part in parts):
        for own in rows.values():
            scores[own] += standardized(np.array([values[row] for row in own]))
    return scores.tolist()
