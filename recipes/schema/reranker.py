"""A cross-encoder, trained on the same queries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sharpen.evaluation.scorers import BM25_SCORER, FUSED_WEIGHTS, RERANKER, Teacher, check_mixture, members_of
from sharpen.evaluation.settings import Count
from sharpen.training.settings import RerankerSettings

FirstStage = Literal["bm25", "retriever", "fused"]


class RerankerPart(RerankerSettings):
    """What it learns, filters and teachers can use."""

    teacher: Teacher | None = Field(
        None,
        description=(
            "Of distillation: a cross-encoder's folder or hub name, encoder:<name>, fused for BM25 and the retriever's"
            " base together, llm or llm:listwise for the recipe's LLM, a mixture or a list as in training."
        ),
    )
    negatives: Count = Field(4, description="Hard negatives a query.")
    first_stage: FirstStage = Field(
        "bm25",
        description=(
            "Whose ranking is put in order: BM25's, the tuned retriever's, or that of both together (z-scores over the"
            " corpus)."
        ),
    )
    bm25_weight: Annotated[float, Field(gt=0)] = Field(
        FUSED_WEIGHTS[BM25_SCORER], description="Of fused: BM25's weight, beside the tuned retriever's 1."
    )
    depth: Count = Field(100, description="So many of the first stage's documents.")
    first_stage_weight: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5,
        description="Weight of the first stage's scores in the new ones, each on one scale; 0: the reranker's alone.",
    )

    @field_validator("teacher")
    @classmethod
    def _teacher_says_something(cls, value: Teacher | None) -> Teacher | None:
        return check_mixture(value)

    @model_validator(mode="after")
    def _teacher_fits(self):
        if (self.loss == "distillation") != (self.teacher is not None):
            raise ValueError("teacher: distillation learns its scores, and nothing else does")
        if RERANKER in members_of(self.teacher or ()):
            raise ValueError(
                "teacher: the reranker cannot teach itself; give a cross-encoder's folder or name, or encoder:<name>"
            )
        return self
