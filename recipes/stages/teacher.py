"""What the teachers of retriever and reranker give each query of the rows and each of its documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np

from sharpen.evaluation.encoders.settings import Encoder, PrecisionSetting
from sharpen.evaluation.files import InputError, read_jsonl, write_json, write_jsonl
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.models import PairScores
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.scorers import (
    BASE,
    RERANKER,
    Teacher,
    TeacherName,
    is_fitted,
    llm_members,
    members_of,
    mixture_of,
    needs_base,
)
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.teachers import LeftOut, fit_teacher, rank_candidates
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.choosing import ChoosingPart
from sharpen.recipes.stages.rows import RowsPart
from sharpen.sdg.harvesting import copied_sources
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.reranking.settings import LLMRerankerSettings
from sharpen.sdg.resources import Resources
from sharpen.sdg.splitting import read_split
from sharpen.training.lists import CandidateLists
from sharpen.training.triplets import Triplet
from sharpen.training.vectors import TeacherVectors

LISTS = "training.parquet"
VECTORS = "vectors.parquet"
TEACHERS = "teachers.json"
"""Learner to scorer, or to scorers with their weights, as they were fitted."""
Scorer = str | dict[str, float]


class Learner(Settings):
    """Who learns the scores: ``training``, or ``reranker``. ``per_query``: mined negatives of a row. ``candidates``:
    documents of a list, which the teacher ranks itself; None: rows are of mined negatives. ``vectors``: what is learnt
    are encoders' vectors of queries and their documents. ``scale``: of the student's cosines, in which the teacher's
    scores are given."""

    name: Literal["training", "reranker"]
    teacher: TeacherName
    per_query: int
    candidates: int | None = None
    vectors: bool = False
    mask_copies: bool = False
    scale: float | None = None


class TeacherStage(StagePart):
    """``llm`` and ``llm_reranker``: who is asked for scores, and how; None where no learner's teacher is an LLM."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs")

    learners: tuple[Learner, ...]
    rows: RowsPart
    encoder: Encoder | None
    precision: PrecisionSetting
    choosing: ChoosingPart | None
    generated: bool
    llm: LLMSettings | None
    llm_reranker: LLMRerankerSettings | None

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        training = recipe.training
        of_lists = {"candidates": training.candidates, "mask_copies": training.mask_copies, "scale": training.scale}
        lists = {"training": of_lists} if training.candidates else {}
        if training.loss == "embedding":
            lists = {"training": {"vectors": True}}
        learners = tuple(
            Learner(name=name, teacher=teacher, per_query=per_query, **lists.get(name, {}))
            for name, teacher, per_query in recipe.learners()
        )
        base = any(needs_base(learner.teacher) or learner.candidates or learner.vectors for learner in learners)
        encoder = training.encoder if base else None
        fitted = any(is_fitted(learner.teacher) for learner in learners)
        asks = any(llm_members(learner.teacher) for learner in learners)
        return cls(
            learners=learners,
            rows=RowsPart.of(recipe),
            encoder=encoder,
            precision=training.precision,
            choosing=ChoosingPart.of(recipe) if fitted else None,
            generated=recipe.evaluation.data is None,
            llm=recipe.llm if asks else None,
            llm_reranker=recipe.llm_reranker if asks else None,
        )

    def fingerprint(self) -> Any:
        """Who is asked stands in it only where an LLM is."""
        values = super().fingerprint()
        return {key: value for key, value in values.items() if value is not None or not key.startswith("llm")}

    def reads(self) -> tuple[str, ...]:
        learns_from_it = any(RERANKER in members_of(learner.teacher) for learner in self.learners)
        mined = any(learner.candidates is None and not learner.vectors for learner in self.learners)
        return (*self.READS, *(("negatives",) if mined else ()), *((RERANKER,) if learns_from_it else ()))


def score_with_teachers(part: TeacherStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    counts: Counts = {}
    scorers: dict[str, Scorer] = {}
    for learner in part.learners:
        scorer = with_reranker(learner.teacher, inputs)
        if is_fitted(scorer):
            scorer, value = _fitted(part, scorer, inputs, resources)
            counts[f"{learner.name}_teacher"] = scorer | {PRIMARY: value}
        scorers[learner.name] = _renamed(scorer, {str(inputs.run / RERANKER): RERANKER})
        score = _encode_texts if learner.vectors else _rank_lists if learner.candidates else _score_rows
        found = score(part, learner, scorer, inputs, folder, resources)
        counts |= {f"{learner.name}_{name}": value for name, value in found.items()}
    if process_state().is_main_process:
        write_json(folder.path / TEACHERS, scorers)  # the run's reranker by its name: its folder may go
    for name in dict.fromkeys(name for learner in part.learners for name in llm_members(learner.teacher)):
        reranker = resources.models.scorers[name]
        counts[name] = reranker.stats.to_dict() | ({"money": str(reranker.spending)} if part.llm.prices else {})
    return counts


def _fitted(
    part: TeacherStage, scorers: Teacher, inputs: Inputs, resources: Resources
) -> tuple[dict[str, float], float]:
    choosing = part.choosing.task(inputs)
    if choosing.copied:
        raise InputError(
            "training.teacher: weights cannot be fitted on queries that were copied from the documents, as BM25 finds"
            " these at once; give training.validation.data, or weights, as in {base: 1, bm25: 0.3}"
        )
    return fit_teacher(resources.models, scorers, choosing.task)


def _score_rows(
    part: TeacherStage, learner: Learner, scorer: Scorer, inputs: Inputs, folder: Folder, resources: Resources
) -> Counts:
    """Of each row's positive and its mined negatives."""
    triplets, _ = part.rows.triplets(inputs, learner.per_query)
    scores = _score(triplets, scorer, inputs, resources)
    if process_state().is_main_process:
        rows = [{"query_id": q, "doc_id": i, "score": score} for (q, i), score in scores.items()]
        write_jsonl(folder.path / f"{learner.name}.jsonl", rows)
    first = sum(
        scores[t.query_id, t.positive_id] > max(scores[t.query_id, i] for i in t.negative_ids) for t in triplets
    )
    return {"pairs": len(scores), "triplets": len(triplets), "positive_first": first}


def _rank_lists(
    part: TeacherStage, learner: Learner, scorer: Scorer, inputs: Inputs, folder: Folder, resources: Resources
) -> Counts:
    """Of each query's first documents by the teacher itself."""
    queries, corpus = inputs.train_queries(), inputs.corpus()
    masked = copied_sources(queries.values(), corpus) if learner.mask_copies else {}
    sides = read_split(inputs.folder("pairs") / "split.jsonl") if part.generated else {}
    # nothing of a document that is compared on is in training
    out = LeftOut(masked, [i for i, side in sides.items() if side != "train"])
    run = rank_candidates(resources.models, scorer, queries, corpus, learner.candidates, out, learner.scale)
    lists = CandidateLists.of(run, learner.candidates)
    if not len(lists):
        raise InputError(
            f"training.candidates: no query has {learner.candidates} documents; there are {len(queries):,} queries and"
            f" {len(corpus):,} documents, and those that a query was copied from are left out (mask_copies)"
        )
    if process_state().is_main_process:
        lists.write(folder.path / LISTS)
    return {"lists": len(lists), "candidates": lists.size, "masked": len(masked)}


def _encode_texts(
    _part: TeacherStage, _learner: Learner, scorer: Scorer, inputs: Inputs, folder: Folder, resources: Resources
) -> Counts:
    """Vectors of the queries that are trained on and of their documents, by the base and by each encoder."""
    queries, corpus, models = inputs.train_queries(), inputs.corpus(), resources.models
    documents = dict.fromkeys(i for relevant in inputs.qrels("train").values() for i in relevant)
    texts, cut = [query.text for query in queries.values()], {i: corpus[i] for i in documents}
    weights = mixture_of(scorer)
    vectors = {}
    for encoder in dict.fromkeys([BASE, *weights]):
        # the base's vectors of the whole corpus are there, or will be asked for again
        index = models.corpus_scorer(encoder, corpus if encoder == BASE else cut)
        row = {i: n for n, i in enumerate(index.ids)}
        of_documents = index.vectors[[row[i] for i in documents]]
        vectors[encoder] = np.concatenate([index.encode_queries(texts), of_documents])
    if process_state().is_main_process:
        TeacherVectors(list(queries), list(documents), vectors, weights).write(folder.path / VECTORS)
    return {"queries": len(queries), "documents": len(documents), "encoders": len(vectors)}


def with_reranker(teacher: Teacher, inputs: Inputs) -> Teacher:
    """The teacher with the folder of the run's reranker in place of its name."""
    if RERANKER not in members_of(teacher):
        return teacher
    return _renamed(teacher, {RERANKER: str(inputs.folder(RERANKER))})


def _renamed(teacher: Teacher, names: Mapping[str, str]) -> Teacher:
    if isinstance(teacher, str):
        return names.get(teacher, teacher)
    if isinstance(teacher, dict):
        return {names.get(scorer, scorer): weight for scorer, weight in teacher.items()}
    return tuple(names.get(scorer, scorer) for scorer in teacher)


def _score(triplets: list[Triplet], scorer: Scorer, inputs: Inputs, resources: Resources) -> PairScores:
    pairs = list(dict.fromkeys((t.query_id, i) for t in triplets for i in (t.positive_id, *t.negative_ids)))
    if not pairs:
        raise InputError(
            "no triplets for the teacher to score: no query was left with enough negatives; see the manifests of the"
            " stages before for where they went"
        )
    if llm_members(scorer):
        pairs.sort()  # an LLM reads documents one after the other, and the positive is not to be known by its place
    return resources.models.score(scorer, pairs, inputs.train_queries(), inputs.training_corpus())


def read_teacher(inputs: Inputs, learner: str) -> PairScores:
    """Scores of (query ID, document ID), as the stage wrote them."""
    path = inputs.folder("teacher") / f"{learner}.jsonl"
    return {(row["query_id"], row["doc_id"]): row["score"] for _, row in read_jsonl(path)}


def read_vectors(inputs: Inputs) -> TeacherVectors:
    """The vectors that the retriever learns, as the stage wrote them."""
    return TeacherVectors.read(inputs.folder("teacher") / VECTORS)


def read_lists(inputs: Inputs) -> CandidateLists:
    """The lists that the retriever learns from, as the stage wrote them."""
    return CandidateLists.read(inputs.folder("teacher") / LISTS)


STAGE = Stage("teacher", 4, TeacherStage, score_with_teachers, shared=True)
