"""Queries that say the same as another one, over the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from sharpen.evaluation.beir import ALSO_ANSWERS, Corpus, Query
from sharpen.evaluation.settings import Settings
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.generated import also_answered
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

BLOCK = 1024
EXACT = 20_000
"""Queries up to which each is compared with all others."""
CELLS_SEARCHED = 8
"""Of more, each is compared with those in the cells nearest to it. Of 910 pairs with a cosine of 0.9 and more among
30,000 sentences of SciFact and CoSQA (all-MiniLM-L6-v2), and of 5,000 made with one of 0.9 to 0.93, this misses one at
most (three seeds of the cells); 16 cells miss one, too, and take nearly twice as long to search."""


class NearDuplicates(Settings):
    """Drops every query whose cosine with an earlier kept one is high, by the base encoder."""

    name: ClassVar[str] = "near_duplicates"
    first_process_only: ClassVar[bool] = False
    """Every process encodes a part of the queries."""

    threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Cosine by the base encoder from which two queries are the same (0.9 in NVIDIA's toolkit)."
    )

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources) -> FilterResult:
        """Raises ``InputError`` if ``resources`` have no base encoder, or one that is not dense."""
        index = resources.models.dense_index(corpus, "filters.near_duplicates")
        vectors = index.encode_queries([query.text for query in queries])
        return drop_near_duplicates(queries, vectors, self.threshold)


def drop_near_duplicates(queries: Sequence[Query], vectors: np.ndarray, threshold: float) -> FilterResult:
    """Drop every query whose cosine with an earlier kept one is ``threshold`` or more.

    ``vectors``: unit vectors of the queries, float32 of shape (len(queries), dimension). Blocks of 1,024 queries are
    compared with an index of the kept ones, so that no matrix of all pairs is ever in memory. Of more than 20,000
    queries those in the nearest cells of a k-means only are compared, so that time grows with little more than their
    number; almost no pair is missed by that. A rejected query's problem has the cosine (``value``) and the kept query's
    ID (``detail``), and the kept query the rejected one's documents under ``also_answers``.

    >>> asked = [Query(name, name, {"positives": ["d"]}) for name in ("a", "b", "c")]
    >>> vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    >>> [row.message for row in drop_near_duplicates(asked, vectors, 0.8).rejected]
    ['near-duplicate of b: cosine 0.800, from 0.8 on']
    """
    if len(vectors) <= EXACT:
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
    else:
        from sharpen.evaluation.retrievers.approximate import cell_index

        index = cell_index(vectors, CELLS_SEARCHED)
    kept: list[int] = []
    also: dict[int, list[str]] = {}
    result = FilterResult()
    for start in range(0, len(queries), BLOCK):
        block = vectors[start : start + BLOCK]
        similarity, nearest = (column[:, 0] for column in index.search(block, 1))  # -1 where there is none
        inside = block @ block.T
        kept_here: list[int] = []  # of this block, as places in it
        for place in range(len(block)):
            best, of = (similarity[place], kept[nearest[place]]) if nearest[place] >= 0 else (-np.inf, -1)
            if kept_here and (here := inside[place, kept_here]).max() > best:
                best, of = here.max(), start + kept_here[int(here.argmax())]
            if best < threshold:
                kept_here.append(place)
                continue
            query = queries[start + place]
            problem = Problem(RejectionReason.NEAR_DUPLICATE, round(float(best), 4), threshold, queries[of].id)
            also.setdefault(of, []).extend([*query.metadata["positives"], *query.metadata.get(ALSO_ANSWERS, ())])
            result.rejected.append(Rejection.of(query, NearDuplicates.name, problem))
        index.add(block[kept_here])
        kept += [start + place for place in kept_here]
    result.kept = [also_answered(queries[i], also.get(i, ())) for i in kept]
    return result
