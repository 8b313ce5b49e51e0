"""What the teachers of retriever and reranker give each query of the rows and each of its documents."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from sharpen.evaluation.encoders.settings import Encoder, PrecisionSetting
from sharpen.evaluation.files import InputError, read_jsonl, write_jsonl
from sharpen.evaluation.models import PairScores
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.scorers import ScorerName, needs_base
from sharpen.evaluation.settings import Settings
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.rows import RowsPart
from sharpen.sdg.resources import Resources
from sharpen.training.triplets import Triplet

RERANKER = "reranker"
"""The teacher that is trained in the same run."""


class Learner(Settings):
    """Who learns the scores: ``training``, or ``reranker``. ``teacher``: None is the run's reranker."""

    name: Literal["training", "reranker"]
    teacher: ScorerName | None
    per_query: int


class TeacherStage(StagePart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "negatives")

    learners: tuple[Learner, ...]
    rows: RowsPart
    encoder: Encoder | None
    precision: PrecisionSetting

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        learners = tuple(
            Learner(name=name, teacher=None if teacher == RERANKER else teacher, per_query=per_query)
            for name, teacher, per_query in recipe.learners()
        )
        base = any(learner.teacher and needs_base(learner.teacher) for learner in learners)
        encoder = recipe.training.encoder if base else None
        return cls(learners=learners, rows=RowsPart.of(recipe), encoder=encoder, precision=recipe.training.precision)

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *((RERANKER,) if any(learner.teacher is None for learner in self.learners) else ()))


def score_with_teachers(part: TeacherStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    counts: Counts = {}
    for learner in part.learners:
        triplets, _ = part.rows.triplets(inputs, learner.per_query)
        scorer = str(inputs.folder(RERANKER)) if learner.teacher is None else learner.teacher
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


def _score(triplets: list[Triplet], scorer: str, inputs: Inputs, resources: Resources) -> PairScores:
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


STAGE = Stage("teacher", 2, TeacherStage, score_with_teachers, shared=True)
