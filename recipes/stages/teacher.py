"""What the teachers of retriever and reranker give each query of the rows and each of its documents."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from sharpen.evaluation.encoders.settings import Encoder, PrecisionSetting
from sharpen.evaluation.files import InputError, read_jsonl, write_jsonl
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.models import PairScores
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.scorers import RERANKER, Teacher, TeacherName, is_fitted, members_of, needs_base
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.teachers import fit_teacher
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.choosing import ChoosingPart
from sharpen.recipes.stages.rows import RowsPart
from sharpen.sdg.resources import Resources
from sharpen.training.triplets import Triplet


class Learner(Settings):
    """Who learns the scores: ``training``, or ``reranker``."""

    name: Literal["training", "reranker"]
    teacher: TeacherName
    per_query: int


class TeacherStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "negatives")

    learners: tuple[Learner, ...]
    rows: RowsPart
    encoder: Encoder | None
    precision: PrecisionSetting
    choosing: ChoosingPart | None

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        learners = tuple(
            Learner(name=name, teacher=teacher, per_query=per_query) for name, teacher, per_query in recipe.learners()
        )
        base = any(needs_base(learner.teacher) for learner in learners)
        encoder = recipe.training.encoder if base else None
        fitted = any(is_fitted(learner.teacher) for learner in learners)
        return cls(
            learners=learners,
            rows=RowsPart.of(recipe),
            encoder=encoder,
            precision=recipe.training.precision,
            choosing=ChoosingPart.of(recipe) if fitted else None,
        )

    def reads(self) -> tuple[str, ...]:
        learns_from_it = any(RERANKER in members_of(learner.teacher) for learner in self.learners)
        return (*self.READS, *((RERANKER,) if learns_from_it else ()))


def score_with_teachers(part: TeacherStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    counts: Counts = {}
    for learner in part.learners:
        triplets, _ = part.rows.triplets(inputs, learner.per_query)
        scorer = _with_reranker(learner.teacher, inputs)
        if is_fitted(scorer):
            scorer, value = fit_teacher(resources.models, scorer, part.choosing.task(inputs).task)
            counts[f"{learner.name}_teacher"] = scorer | {PRIMARY: value}
        scores = _score(triplets, scorer, inputs, resources)
        if process_state().is_main_process:
            rows = [{"query_id": q, "doc_id": i, "score": score} for (q, i), score in scores.items()]
            write_jsonl(folder.path / f"{learner.name}.jsonl", rows)
        first = sum(
            scores[t.query_id, t.positive_id] > max(scores[t.query_id, i] for i in t.negative_ids) for t in triplets
        )
        counts |= {
            f"{learner.name}_pairs": len(scores),
            f"{learner.name}_triplets": len(triplets),
            f"{learner.name}_positive_first": first,
        }
    return counts


def _with_reranker(teacher: Teacher, inputs: Inputs) -> Teacher:
    """The teacher with the folder of the run's reranker in place of its name."""
    if RERANKER not in members_of(teacher):
        return teacher
    folder = str(inputs.folder(RERANKER))
    if isinstance(teacher, str):
        return folder
    names = {scorer: folder if scorer == RERANKER else scorer for scorer in teacher}
    return {names[s]: w for s, w in teacher.items()} if isinstance(teacher, dict) else tuple(names.values())


def _score(triplets: list[Triplet], scorer: str | dict[str, float], inputs: Inputs, resources: Resources) -> PairScores:
    pairs = list(dict.fromkeys((t.query_id, i) for t in triplets for i in (t.positive_id, *t.negative_ids)))
    if not pairs:
        raise InputError(
            "no triplets for the teacher to score: no query was left with enough negatives; see the manifests of the"
            " stages before for where they went"
        )
    return resources.models.score(scorer, pairs, inputs.train_queries(), inputs.training_corpus())


def read_teacher(inputs: Inputs, learner: str) -> PairScores:
    """Scores of (query ID, document ID), as the stage wrote them."""
    path = inputs.folder("teacher") / f"{learner}.jsonl"
    return {(row["query_id"], row["doc_id"]): row["score"] for _, row in read_jsonl(path)}


STAGE = Stage("teacher", 3, TeacherStage, score_with_teachers, shared=True)
