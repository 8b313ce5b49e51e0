"""The queries that fit their document best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.scorers import BASE, FUSED, RERANKER, ScorerName
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class TopQueries(Settings):
    """Keeps of each document's queries the ``per_document`` with the highest scores.

    As in the pipeline of DSI-QG (Zhuang et al. 2022), where a reranker chooses among many queries of a passage; Wen et
    al. 2025 (B.1) do so with a BGE reranker. A document is what a query was written from: a chunk, or several together.
    A query of several documents counts by the one that fits it best. Of equal scores the earlier query stays.
    """

    name: ClassVar[str] = "top_queries"
    first_process_only: ClassVar[bool] = False
    """Every process scores a part of the pairs."""

    scorer: ScorerName = Field(
        description="Who scores query and document: base, bm25, fused, encoder:<name>, or a cross-encoder."
    )
    per_document: Count = Field(description="Queries of each document that stay.")

    @field_validator("scorer")
    @classmethod
    def _is_there_already(cls, scorer: str) -> str:
        if scorer == RERANKER:
            raise ValueError("the reranker of a run is trained after its queries are filtered; name another scorer")
        return scorer

    @property
    def needs_base(self) -> bool:
        """Whether the base encoder scores."""
        return self.scorer in (BASE, FUSED)

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources) -> FilterResult:
        """Raises ``InputError`` if the scorer cannot be loaded, or is the base encoder and ``resources`` have none."""
        pairs = [(query.id, doc_id) for query in queries for doc_id in query.metadata["positives"]]
        scores = resources.models.score(self.scorer, pairs, {query.id: query for query in queries}, corpus)
        best = {query.id: max(scores[query.id, i] for i in query.metadata["positives"]) for query in queries}
        siblings: dict[tuple[str, ...], list[Query]] = {}
        for query in queries:
            siblings.setdefault(tuple(query.metadata["positives"]), []).append(query)
        rank = {
            query.id: place
            for group in siblings.values()
            for place, query in enumerate(sorted(group, key=lambda query: -best[query.id]), start=1)
        }
        result = FilterResult()
        for query in queries:
            if rank[query.id] <= self.per_document:
                result.kept.append(query)
            else:
                problem = Problem(
                    RejectionReason.NOT_AMONG_TOP,
                    rank[query.id],
                    self.per_document,
                    f"{self.scorer}: {best[query.id]:.4g}",
                )
                result.rejected.append(Rejection.of(query, self.name, problem))
        return result
