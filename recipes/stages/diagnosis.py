"""What a null result is explained from: how far the model moved, how easy its queries were, what its teacher knows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from sharpen.evaluation.datasets import Task
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError, write_json
from sharpen.evaluation.metrics import PRIMARY, evaluate
from sharpen.evaluation.models import Models
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import RUN_DEPTH, Retriever, search_task, task_run
from sharpen.evaluation.teachers import rank_candidates
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import DIAGNOSIS, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.choosing import ChoosingPart
from sharpen.recipes.stages.teacher import TEACHERS, Scorer
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.sdg.filters.text import HARVESTED
from sharpen.sdg.resources import Resources

MOST_QUERIES = 100
"""Measured on: a teacher may be a cross-encoder."""
TEACHER_DEPTH = 20
"""Documents of a query that the teacher ranks; nDCG@10 looks at ten."""


class DiagnosisStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "model")

    encoder: Encoder
    tuned: TunedPart
    choosing: ChoosingPart
    has_teacher: bool
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        training = recipe.training
        return cls(
            encoder=training.encoder,
            tuned=TunedPart.of(recipe),
            choosing=ChoosingPart.of(recipe),
            has_teacher=training.teacher is not None,
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("teacher",) if self.has_teacher else ()))


def diagnose(part: DiagnosisStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    models, corpus = resources.models, inputs.corpus()
    base = models.index(corpus, part.encoder)
    tuned = part.tuned.index(inputs, models, corpus)
    labelled = {q: query for q, query in inputs.train_queries().items() if HARVESTED not in query.metadata}
    qrels = inputs.qrels("train")
    drawn = _drawn(sorted(labelled), part.seed)
    texts = [query.text for query in inputs.train_queries().values()][:MOST_QUERIES]
    measured = {
        "document_cosine": None if part.tuned.kept else _cosine(base.vectors, tuned.vectors),
        "query_cosine": _cosine(base.encode_queries(texts), tuned.encode_queries(texts)),
        "easy": None,
    }
    if drawn:
        task = Task(corpus, labelled, {q: qrels[q] for q in drawn}, "trained on", by_document=False)
        measured["easy"] = _quality(task, base)
    measured |= _teacher(part, inputs, models, {"base": base, "tuned": tuned})
    if process_state().is_main_process:
        write_json(folder.path / DIAGNOSIS, measured)
    return {name: value for name, value in measured.items() if value is not None}


def _teacher(part: DiagnosisStage, inputs: Inputs, models: Models, retrievers: dict[str, Retriever]) -> dict:
    """nDCG@10 of the teacher and of those that it is compared with, on queries that choose."""
    if not part.has_teacher:
        return {}
    try:
        choosing = part.choosing.task(inputs)
    except InputError:  # no query is left
        return {}
    whole = choosing.task
    drawn = {q: whole.qrels[q] for q in _drawn(sorted(whole.qrels), part.seed)}
    task = Task(whole.corpus, whole.queries, drawn, whole.name, whole.by_document)
    scorer: Scorer = json.loads((inputs.folder("teacher") / TEACHERS).read_text(encoding="utf-8"))["training"]
    run = task_run(task, rank_candidates(models, scorer, task.queries, task.corpus, TEACHER_DEPTH), RUN_DEPTH)
    values = {name: _quality(task, retriever) for name, retriever in retrievers.items()}
    values["teacher"] = float(np.mean(list(evaluate(task.qrels, run, (PRIMARY,))[PRIMARY].values())))
    return values | {"choosing": f"{len(drawn)} {choosing.what}"}


def _drawn(names: Sequence[str], seed: int) -> list[str]:
    return sorted(random.Random(seed).sample(names, min(MOST_QUERIES, len(names))))


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The mean over the rows of two matrices of unit vectors."""
    return float(np.einsum("nd,nd->n", first, second).mean())


def _quality(task: Task, retriever: Retriever) -> float:
    return float(np.mean(list(evaluate(task.qrels, search_task(task, retriever, 11), (PRIMARY,))[PRIMARY].values())))


STAGE = Stage("diagnosis", 1, DiagnosisStage, diagnose, shared=True)
