"""The retriever's training."""

from __future__ import annotations

from typing import ClassVar, Self

from sentence_transformers import SentenceTransformer

from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.negatives import NegativesStage
from sharpen.recipes.stages.rows import RowsPart
from sharpen.recipes.stages.teacher import read_teacher
from sharpen.recipes.stages.tracking import record, shown, tracked
from sharpen.recipes.stages.validating import ValidationPart
from sharpen.sdg.resources import Resources
from sharpen.training.refresh import train_with_refresh
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet


class TrainingStage(StagePart):
    """``mining``: how negatives are mined again before each epoch; None: they are not."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "negatives")

    settings: RetrieverSettings
    rows: RowsPart
    per_query: int
    max_rows: int | None
    has_teacher: bool
    validation: ValidationPart | None
    mining: NegativesStage | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        training = recipe.training
        return cls(
            settings=RetrieverSettings.of_fields(training),
            rows=RowsPart.of(recipe),
            per_query=recipe.negatives.per_query,
            max_rows=training.triplets,
            has_teacher=training.teacher is not None,
            validation=ValidationPart.of(recipe),
            mining=NegativesStage.of(recipe) if recipe.negatives.refresh else None,
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("teacher",) if self.has_teacher else ()))


def train(part: TrainingStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    triplets, left_out = part.rows.triplets(inputs, part.per_query, part.max_rows)
    queries, corpus = inputs.train_queries(), inputs.training_corpus()
    with (
        resources.progress("training", 0) as advance,
        tracked(part.settings.trackers, inputs.run, "training"),
    ):
        run = TrainingRun(
            work=folder.work,
            progress=shown(advance),
            validation=_validation(part, inputs),
            teacher=read_teacher(inputs, "training") if part.has_teacher else None,
        )
        if part.mining is None:
            result = train_retriever(queries, triplets, corpus, part.settings, folder.path, part.seed, run)
        else:
            mine = _mine(part, inputs, resources, (triplets, left_out))
            result = train_with_refresh(queries, mine, corpus, part.settings, folder.path, part.seed, run)
    if part.mining is None:
        return record(folder.path, result, len(triplets), left_out)
    return record(folder.path, result, result.triplets, result.queries_left_out)  # those of the last epoch


def _validation(part: TrainingStage, inputs: Inputs):
    if part.validation is None:
        return None
    return part.validation.task(inputs).validation(part.settings, part.validation.settings)


def _mine(part: TrainingStage, inputs: Inputs, resources: Resources, first: tuple[list[Triplet], int]):
    """The rows of an epoch: the first ones are mined already."""

    def mine(current: SentenceTransformer | None) -> tuple[list[Triplet], int]:
        if current is None:
            return first
        rows = part.mining.mine(inputs, resources, current).rows
        return part.rows.triplets(inputs, part.per_query, part.max_rows, rows)

    return mine


STAGE = Stage("training", 3, TrainingStage, train, shared=True, resumable=True)
