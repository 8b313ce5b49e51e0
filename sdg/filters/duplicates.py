"""Queries that say the same as another one, over the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.data import Query
from sdg.filters import rejection

BLOCK = 1024
LEADING = 127
"""Principal components that a pair is looked at by before its cosine is computed."""
SAMPLE = 10_000
"""Vectors that the components are computed of, evenly from all."""
ROUNDING = 2e-3
"""More than the sums in float32 are off by."""
DENSE = 100
"""Where more than one in so many pairs are left to look at, one product of matrices is faster than pair by pair."""


def near_duplicates(queries: Sequence[Query], vectors: np.ndarray, threshold: float) -> tuple[list[Query], list[dict[str, Any]]]:
    """Drop every query whose cosine with an earlier kept one is ``threshold`` or more.

    ``vectors``: unit vectors of the queries, float of shape (len(queries), dimension). Blocks of 1,024 queries are compared
    with the kept ones, so that no matrix of all pairs is ever in memory. Nothing is approximate: of what ``_sketches`` cannot
    tell apart the cosines are computed. Returns the kept queries, and the rejected ones with ``of`` (the kept query) and
    ``similarity``.
    """
    sketches = _sketches(vectors)
    kept: list[int] = []
    rejected: list[dict[str, Any]] = []
    kept_vectors, kept_sketches = np.empty_like(vectors), np.empty_like(sketches)
    for start in range(0, len(queries), BLOCK):
        block = vectors[start : start + BLOCK]
        here_sketches = sketches[start : start + BLOCK]
        nearest, similarity = _nearest(block, here_sketches, kept_vectors[: len(kept)], kept_sketches[: len(kept)], threshold)
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
        kept_sketches[len(kept) : len(kept) + len(here)] = here_sketches[here]
        kept += [start + place for place in here]
    return [queries[i] for i in kept], rejected


def _sketches(vectors: np.ndarray) -> np.ndarray:
    """Few numbers a vector, of which the product of two is never below the cosine: shape (rows, ``LEADING`` + 1).

    These are the leading principal components, and the length of the rest of the vector: two rests have at most the product
    of their lengths in common (Cauchy and Schwarz).
    """
    sample = vectors[:: max(1, len(vectors) // SAMPLE)]
    _, axes = np.linalg.eigh(sample.T @ sample)  # by rising eigenvalue
    leading = vectors @ axes[:, ::-1][:, :LEADING]
    rest = np.sqrt(np.maximum(0, (vectors**2).sum(axis=1) - (leading**2).sum(axis=1)) + ROUNDING**2)
    return np.hstack([leading, rest[:, None]]).astype(vectors.dtype)


def _nearest(block: np.ndarray, block_sketches: np.ndarray, others: np.ndarray, sketches: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``block``, the place of its nearest row in ``others`` and their cosine, if that is ``threshold`` or
    more; else -1 and less than the threshold."""
    nearest, similarity = np.full(len(block), -1), np.full(len(block), -np.inf)
    for start in range(0, len(others), 4 * BLOCK):
        bounds = block_sketches @ sketches[start : start + 4 * BLOCK].T
        near = np.flatnonzero(bounds.max(axis=1) >= threshold - ROUNDING)  # a row's best first: most have none
        places, columns = np.nonzero(bounds[near] >= threshold - ROUNDING)
        rows = near[places]
        if len(rows) > bounds.size / DENSE:
            cosines = block @ others[start : start + 4 * BLOCK].T
            rows, columns = np.arange(len(block)), cosines.argmax(axis=1)
            values = cosines[rows, columns]
        else:
            pieces = (slice(n, n + BLOCK) for n in range(0, len(rows), BLOCK))
            values = np.concatenate([np.einsum("ij,ij->i", block[rows[p]], others[start + columns[p]]) for p in pieces] or [np.empty(0)])
        better = values > similarity[rows]
        for row, column, value in zip(rows[better], columns[better], values[better], strict=True):
            if value > similarity[row]:  # of several, the first of the best
                nearest[row], similarity[row] = column + start, value
    return nearest, similarity
