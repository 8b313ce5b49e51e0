"""The retriever's training."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from sentence_transformers import SentenceTransformer

from sharpen.evaluation.retrievers.dense import Dense
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.negatives import NegativesStage
from sharpen.recipes.stages.rows import RowsPart
from sharpen.recipes.stages.teacher import read_lists, read_teacher, read_vectors
from sharpen.recipes.stages.tracking import record, shown, tracked
from sharpen.recipes.stages.validating import ValidationPart
from sharpen.sdg.resources import Resources
from sharpen.training.refresh import train_with_refresh
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingResult, TrainingRun
from sharpen.training.triplets import Triplet


class TrainingStage(StagePart):
    """``mining``: how negatives are mined again before each epoch; None: they are not."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs")

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
        mined = ("negatives",) if self.settings.takes_negatives else ()
        return (*self.READS, *mined, *(("teacher",) if self.has_teacher else ()))


def train(part: TrainingStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    with (
        resources.progress("training", 0) as advance,
        tracked(part.settings, inputs.run, "training", resources) as settings,
    ):
        run = TrainingRun(
            work=folder.work,
            progress=shown(advance),
            validation=_validation(part, inputs, resources),
            index=_kept(part, inputs, resources),
        )
        part = part.model_copy(update={"settings": settings})
        of_vectors = _train_on_vectors if settings.loss == "embedding" else _train_on_triplets
        learn = _train_on_lists if settings.candidates else of_vectors
        result = learn(part, inputs, folder, resources, run)
    return record(folder.path, result, result.triplets, result.queries_left_out)


def _train_on_lists(
    part: TrainingStage, inputs: Inputs, folder: Folder, _resources: Resources, run: TrainingRun
) -> TrainingResult:
    queries, corpus = inputs.train_queries(), inputs.corpus()
    return train_retriever(queries, read_lists(inputs), corpus, part.settings, folder.path, part.seed, run)


def _train_on_vectors(
    part: TrainingStage, inputs: Inputs, folder: Folder, _resources: Resources, run: TrainingRun
) -> TrainingResult:
    qrels = inputs.qrels("train")
    rows = [Triplet(q, i, ()) for q, relevant in qrels.items() for i in relevant]
    run = replace(run, vectors=read_vectors(inputs))
    return train_retriever(inputs.train_queries(), rows, inputs.corpus(), part.settings, folder.path, part.seed, run)


def _train_on_triplets(
    part: TrainingStage, inputs: Inputs, folder: Folder, resources: Resources, run: TrainingRun
) -> TrainingResult:
    queries, corpus = inputs.train_queries(), inputs.training_corpus()
    triplets, left_out = part.rows.triplets(inputs, part.per_query, part.max_rows)
    if part.mining:
        mine = _mine(part, inputs, resources, (triplets, left_out))
        return train_with_refresh(queries, mine, corpus, part.settings, folder.path, part.seed, run)
    run = replace(run, teacher=read_teacher(inputs, "training") if part.has_teacher else None)
    result = train_retriever(queries, triplets, corpus, part.settings, folder.path, part.seed, run)
    return replace(result, queries_left_out=left_out)


def _kept(part: TrainingStage, inputs: Inputs, resources: Resources) -> Dense | None:
    """The base's vectors of the documents, where they stay as they are."""
    return resources.models.index(inputs.corpus()) if part.settings.documents == "kept" else None


def _validation(part: TrainingStage, inputs: Inputs, resources: Resources):
    if part.validation is None:
        return None
    kept = resources.models.load() if part.settings.documents == "kept" else None
    return part.validation.task(inputs).validation(part.settings, part.validation.settings, kept)


def _mine(part: TrainingStage, inputs: Inputs, resources: Resources, first: tuple[list[Triplet], int]):
    """The rows of an epoch: the first ones are mined already."""

    def mine(current: SentenceTransformer | None) -> tuple[list[Triplet], int]:
        if current is None:
            return first
        rows = part.mining.mine(inputs, resources, current).rows
        return part.rows.triplets(inputs, part.per_query, part.max_rows, rows)

    return mine


STAGE = Stage("training", 5, TrainingStage, train, shared=True, resumable=True)
