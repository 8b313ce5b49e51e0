"""Queries that say the same as another one, over the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from sharpen.evaluation.beir import Query
from sharpen.evaluation.retrievers.dense import cell_index
from sharpen.sdg.filters import rejection

BLOCK = 1024
EXACT = 20_000
"""Queries up to which each is compared with all others."""
CELLS_LOOKED_AT = 8
"""Of more, each is compared with those in the cells nearest to it. Of 910 pairs with a cosine of 0.9 and more among
30,000 sentences of SciFact and CoSQA (all-MiniLM-L6-v2), and of 5,000 made with one of 0.9 to 0.93, this misses one at
most (three seeds of the cells); 16 cells miss one, too, and take nearly twice as long to search."""


def near_duplicates(
    queries: Sequence[Query], vectors: np.ndarray, threshold: float
) -> tuple[list[Query], list[dict[str, Any]]]:
    """Drop every query whose cosine with an earlier kept one is ``threshold`` or more.

    ``vectors``: unit vectors of the queries, float32 of shape (len(queries), dimension). Blocks of 1,024 queries are
    compared with an index of the kept ones, so that no matrix of all pairs is ever in memory. Of more than 20,000
    queries those in the nearest cells of a k-means only are compared, so that time grows with little more than their
    number; almost no pair is missed by that. Returns the kept queries, and the rejected ones with ``of`` (the kept
    query) and ``similarity``.
    """
    index = faiss.IndexFlatIP(vectors.shape[1]) if len(vectors) <= EXACT else cell_index(vectors, CELLS_LOOKED_AT)
    kept: list[int] = []
    rejected: list[dict[str, Any]] = []
    for start in range(0, len(queries), BLOCK):
        block = vectors[start : start + BLOCK]
        similarity, nearest = (found[:, 0] for found in index.search(block, 1))  # -1 where there is none
        own = block @ block.T
        here: list[int] = []  # kept of this block, as places in it
        for place in range(len(block)):
            best, of = (similarity[place], kept[nearest[place]]) if nearest[place] >= 0 else (-np.inf, -1)
            if here and (inside := own[place, here]).max() > best:
                best, of = inside.max(), start + here[int(inside.argmax())]
            if best >= threshold:
                rejected.append(
                    rejection(
                        queries[start + place],
                        "near-duplicate of another query",
                        of=queries[of].id,
                        similarity=round(float(best), 4),
                    )
                )
            else:
                here.append(place)
        index.add(block[here])
        kept += [start + place for place in here]
    return [queries[i] for i in kept], rejected
