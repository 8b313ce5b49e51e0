"""Queries that say the same as another one, over the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.data import Query
from sdg.filters import rejection

BLOCK = 1024


def near_duplicates(queries: Sequence[Query], vectors: np.ndarray, threshold: float) -> tuple[list[Query], list[dict[str, Any]]]:
    """Drop every query whose cosine with an earlier kept one is ``threshold`` or more.

    ``vectors``: unit vectors of the queries, float of shape (len(queries), dimension). Blocks of 1,024 queries are compared
    with the kept ones, so that no matrix of all pairs is ever in memory. Returns the kept queries, and the rejected ones
    with ``of`` (the kept query) and ``similarity``.
    """
    kept: list[int] = []
    rejected: list[dict[str, Any]] = []
    kept_vectors = np.empty_like(vectors)
    for start in range(0, len(queries), BLOCK):
        block = vectors[start : start + BLOCK]
        nearest, similarity = _nearest(block, kept_vectors[: len(kept)])
        own = block @ block.T
        here: list[int] = []  # kept of this block, as places in it
        for place in range(len(block)):
            best, of = similarity[place], nearest[place]
            if here and (inside := own[place, here]).max() > best:
                best, of = inside.max(), start + here[int(inside.argmax())]
            elif of >= 0:
                of = kept[of]
            if best >= threshold:
                rejected.append(rejection(queries[start + place], "near-duplicate of another query", of=queries[of].id, similarity=round(float(best), 4)))
            else:
                here.append(place)
        kept_vectors[len(kept) : len(kept) + len(here)] = block[here]
        kept += [start + place for place in here]
    return [queries[i] for i in kept], rejected


def _nearest(block: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``block``, the place of its nearest row in ``others`` (-1: there is none) and their cosine."""
    nearest, similarity = np.full(len(block), -1), np.full(len(block), -np.inf)
    for start in range(0, len(others), 16 * BLOCK):
        cosines = block @ others[start : start + 16 * BLOCK].T
        best = cosines.argmax(axis=1)
        values = cosines[np.arange(len(block)), best]
        better = values > similarity
        nearest[better], similarity[better] = best[better] + start, values[better]
    return nearest, similarity
