"""A reranker's opinion of a query and its document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.settings import CrossEncoderName, Settings
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class CrossEncoderFilter(Settings):
    """Keeps the queries whose best document has a high score by a cross-encoder.

    Scores are logits, as in the negatives' filter, whether or not the model ends in a sigmoid; they stand with the
    rejected queries to choose ``min_score`` by.
    """

    name: ClassVar[str] = "cross_encoder"
    first_process_only: ClassVar[bool] = False
    """Every process scores a part of the pairs."""

    model: CrossEncoderName = Field(description="A reranker: a folder or a hub name; safetensors only.")
    min_score: float = Field(
        0.0, description="Least logit of query and document; 0 is 0.5 on the scale of models that end in a sigmoid."
    )

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources) -> FilterResult:
        """Raises ``InputError`` if the model cannot be loaded or has several outputs."""
        pairs = [(query.id, doc_id) for query in queries for doc_id in query.metadata["positives"]]
        scores = resources.models.score(self.model, pairs, {query.id: query for query in queries}, corpus)
        result = FilterResult()
        for query in queries:
            score = max(scores[query.id, doc_id] for doc_id in query.metadata["positives"])
            if score >= self.min_score:
                result.kept.append(query)
            else:
                problem = Problem(RejectionReason.LOW_CROSS_ENCODER_SCORE, round(score, 4), self.min_score)
                result.rejected.append(Rejection.of(query, self.name, problem))
        return result
