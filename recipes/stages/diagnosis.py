"""What a null result is explained from: how far the model moved, how easy its queries were, what its teacher knows."""

from __future__ import annotations

import json
from typing import ClassVar, Self

import numpy as np

from sharpen.evaluation.datasets import Task
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError, write_json
from sharpen.evaluation.metrics import mean_primary
from sharpen.evaluation.models import Models
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Retriever, is_chunked, search_task, task_run
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.scorers import RERANKER, llm_members, members_of
from sharpen.evaluation.teachers import rank_candidates
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import DIAGNOSIS, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.choosing import ChoosingPart
from sharpen.recipes.stages.teacher import TEACHERS, Scorer, with_reranker
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.sdg.filters.text import HARVESTED
from sharpen.sdg.resources import Resources

MOST_QUERIES = 100
"""Measured on: a teacher may be a cross-encoder."""
LEAST_GENERATED = 30
"""Generated queries without which nothing is said of the teacher; those that a person gave are taken, however few."""
TEACHER_DEPTH = 20
"""Documents of a query that the teacher ranks; nDCG@10 looks at ten."""


class DiagnosisStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "model")

    encoder: Encoder
    tuned: TunedPart
    choosing: ChoosingPart
    has_teacher: bool
    by_reranker: bool
    approximate: bool
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        training = recipe.training
        return cls(
            encoder=training.encoder,
            tuned=TunedPart.of(recipe),
            choosing=ChoosingPart.of(recipe),
            has_teacher=training.teacher is not None,
            by_reranker=RERANKER in members_of(training.teacher or ()),
            approximate=recipe.evaluation.approximate,
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("teacher",) if self.has_teacher else ()), *((RERANKER,) if self.by_reranker else ()))


def diagnose(part: DiagnosisStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    models, corpus = resources.models, inputs.corpus()
    base = models.index(corpus, part.encoder, part.approximate)
    tuned = part.tuned.index(inputs, models, corpus, part.approximate)
    labelled = {q: query for q, query in inputs.train_queries().items() if HARVESTED not in query.metadata}
    qrels = inputs.qrels("train")
    texts = [query.text for query in inputs.train_queries().values()][:MOST_QUERIES]
    measured: dict = {"document_cosine": None, "query_cosine": None, "easy": None}
    if isinstance(base, Dense) and isinstance(tuned, Dense):  # of other families there is no vector a text
        measured["document_cosine"] = None if part.tuned.kept else _cosine(base.vectors, tuned.vectors)
        measured["query_cosine"] = _cosine(base.encode_queries(texts), tuned.encode_queries(texts))
    if labelled:
        task = Task(corpus, labelled, {q: qrels[q] for q in labelled}, "trained on", by_document=False)
        measured["easy"] = _quality(task.sample(MOST_QUERIES, part.seed), base)
    measured |= _teacher(part, inputs, models, {"base": base, "tuned": tuned})
    if process_state().is_main_process:
        write_json(folder.path / DIAGNOSIS, measured)
    return {name: value for name, value in measured.items() if value is not None}


def _teacher(part: DiagnosisStage, inputs: Inputs, models: Models, retrievers: dict[str, Retriever]) -> dict:
    """nDCG@10 of the teacher and of those that it is compared with, on queries that choose."""
    if not part.has_teacher:
        return {}
    scorer: Scorer = json.loads((inputs.folder("teacher") / TEACHERS).read_text(encoding="utf-8"))["training"]
    if llm_members(scorer):  # each question is paid for, and `sharpen teachers` asks them before anything is trained
        return {}
    try:
        choosing = part.choosing.task(inputs, inputs.train_queries())
    except InputError:  # no query is left
        return {}
    if choosing.copied:  # with these BM25 has nearly 1, whatever it is worth
        return {}
    task = choosing.task.sample(MOST_QUERIES, part.seed)
    if part.choosing.validation is None and len(task.qrels) < LEAST_GENERATED:
        return {}
    depth = 10 * TEACHER_DEPTH if is_chunked(task) else TEACHER_DEPTH
    queries = {q: task.queries[q] for q in task.qrels}
    run = task_run(task, rank_candidates(models, with_reranker(scorer, inputs), queries, task.corpus, depth))
    values = {name: _quality(task, retriever) for name, retriever in retrievers.items()}
    values["teacher"] = mean_primary(task.qrels, run)
    return values | {"choosing": f"{len(task.qrels)} {choosing.what}"}


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The mean over the rows of two matrices of unit vectors."""
    return float(np.einsum("nd,nd->n", first, second).mean())


def _quality(task: Task, retriever: Retriever) -> float:
    return mean_primary(task.qrels, search_task(task, retriever, 11))


STAGE = Stage("diagnosis", 1, DiagnosisStage, diagnose, shared=True)
