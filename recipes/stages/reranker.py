"""The reranker's training."""

from __future__ import annotations

from typing import ClassVar, Self

from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.rows import RowsPart
from sharpen.recipes.stages.teacher import read_teacher
from sharpen.recipes.stages.tracking import record, shown, tracked
from sharpen.sdg.resources import Resources
from sharpen.training.reranker import train_reranker
from sharpen.training.settings import RerankerSettings
from sharpen.training.trainer import TrainingRun


class RerankerStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "negatives")

    settings: RerankerSettings
    rows: RowsPart
    per_query: int
    has_teacher: bool
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        part = recipe.reranker
        return cls(
            settings=RerankerSettings.of_fields(part),
            rows=RowsPart.of(recipe),
            per_query=part.negatives,
            has_teacher=part.teacher is not None,
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("teacher",) if self.has_teacher else ()))


def train(part: RerankerStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    triplets, left_out = part.rows.triplets(inputs, part.per_query)
    queries, corpus = inputs.train_queries(), inputs.training_corpus()
    with (
        resources.progress("training the reranker", 0) as advance,
        tracked(part.settings, inputs.run, "reranker", resources) as settings,
    ):
        teacher = read_teacher(inputs, "reranker") if part.has_teacher else None
        run = TrainingRun(work=folder.work, progress=shown(advance), teacher=teacher)
        result = train_reranker(queries, triplets, corpus, settings, folder.path, part.seed, run)
    members = part.settings.committee
    counts = record(folder.path, result, len(triplets), left_out)
    return counts | ({"members": members} if members > 1 else {})


STAGE = Stage("reranker", 3, RerankerStage, train, shared=True, resumable=True)
