"""Before and after: the same queries, searched with the base model, with the tuned one, and by the reranker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, Self

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.datasets import Task, judged_files, load_task
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.precision import precision_digest
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import sha256_file, write_json
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.models import Models
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Retriever, search_task
from sharpen.evaluation.retrievers.encoders import Index
from sharpen.evaluation.retrievers.fused import Fused
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import write_run
from sharpen.evaluation.scorers import BM25_SCORER
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.schema.reranker import FirstStage
from sharpen.recipes.stages.elsewhere import Elsewhere
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.sdg.resources import Resources

RETRIEVER = "retriever"
FIRST = "first"
"""The scores of a first stage that no other stage measures."""
IndexOf = Callable[[Corpus, bool, bool], Index]
"""Of a corpus; whether the search may be approximate, and whether the index stays in memory."""


class ComparisonPart(StagePart):
    """What before, after and reranked have in common: the queries, and how they are searched. ``whole_documents``:
    what was generated is compared by document, as a generative retriever may find nothing smaller."""

    READS: ClassVar[tuple[str, ...]] = ("corpus",)

    judged: Judged | None
    split: str
    unknown_documents: Literal["error", "drop"]
    approximate: bool
    whole_documents: bool
    corpus: CorpusPart
    runs: str

    @classmethod
    def common(cls, recipe: Recipe) -> dict:
        part = recipe.evaluation
        return {
            "judged": Judged.of(part),
            "split": part.split if part.data else recipe.generated_split,
            # of a part of the documents it is known that others are judged
            "unknown_documents": "drop" if recipe.corpus.documents else part.unknown_documents,
            "approximate": part.approximate,
            "whole_documents": bool(recipe.generative and recipe.generative.identifiers.unit == "document"),
            "corpus": recipe.corpus,
            "runs": recipe.runs,
        }

    def reads(self) -> tuple[str, ...]:
        # without judged queries the run's own are compared on
        return (*self.READS, *(() if self.judged else ("pairs",)))

    def fingerprint(self) -> dict:
        values = super().fingerprint()
        del values["corpus"], values["runs"]  # the corpus' files are in
        if not self.whole_documents:
            del values["whole_documents"]
        return values

    def task(self, inputs: Inputs) -> Task:
        """The queries to compare on. Raises ``InputError`` as the readers do."""
        if self.judged is None:
            queries, qrels = inputs.queries(), inputs.qrels(self.split)
            # what was generated is labelled by chunk
            name, corpus = f"generated, split {self.split}", inputs.corpus()
            if self.whole_documents:
                qrels = {q: {corpus[i].doc_id: grade for i, grade in grades.items()} for q, grades in qrels.items()}
            return Task(corpus, {q: queries[q] for q in qrels}, qrels, name, by_document=self.whole_documents)
        # the run's own corpus where it is the same documents: it is chunked as it will be in use
        given = judged_files(self.judged.data, self.judged.split).get("corpus")
        corpus = inputs.corpus() if given is None or self._is_same(sha256_file(given), inputs) else None
        return load_task(self.judged.data, self.judged.split, corpus, self.unknown_documents)

    def _is_same(self, sum_: str, inputs: Inputs) -> bool:
        """Whether a corpus of this sum is what the run was made from, or, as beside marks, its own."""
        own = inputs.folder("corpus") / "corpus.jsonl"
        return self.corpus.digest(self.runs) == {"files": sum_} or sha256_file(own) == sum_


class EncoderStage(ComparisonPart):
    """The queries, searched with one encoder."""

    matryoshka: tuple[int, ...]
    others: dict[str, Elsewhere]

    @classmethod
    def common(cls, recipe: Recipe) -> dict:
        return super().common(recipe) | {
            "matryoshka": recipe.training.matryoshka,
            "others": Elsewhere.all_of(recipe),
        }

    def fingerprint(self) -> dict:
        # by their order, which names the files; what they are called is for people
        return super().fingerprint() | {"others": [other.fingerprint() for other in self.others.values()]}

    def score(self, name: str, index_of: IndexOf, task: Task, folder: Folder) -> Counts:
        """Score the encoder on the queries, its embeddings cut, and on the other collections."""
        index = index_of(task.corpus, self.approximate, True)
        counts = _score(folder.path, name, index, task)
        for dimensions in self.matryoshka:
            _score(folder.path, f"{name}-{dimensions}", index.cut(dimensions), task)
        others = {}
        for number, (other_name, elsewhere) in enumerate(self.others.items()):
            other = elsewhere.task()
            index = index_of(other.corpus, self.approximate, False)
            others[other_name] = _score(folder.path, f"other-{number}", index, other)["queries"]
        return counts | ({"others": others} if others else {})


class BeforeStage(EncoderStage):
    encoder: Encoder
    bm25: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(**cls.common(recipe), encoder=recipe.training.encoder, bm25=recipe.evaluation.bm25)


class AfterStage(EncoderStage):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "model")

    tuned: TunedPart

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(**cls.common(recipe), tuned=TunedPart.of(recipe))


class RerankedStage(ComparisonPart):
    tuned: TunedPart
    first_stage: FirstStage
    bm25_weight: float
    depth: int
    first_stage_weight: float

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        part = recipe.reranker
        return cls(
            **cls.common(recipe),
            tuned=TunedPart.of(recipe),
            first_stage=part.first_stage,
            bm25_weight=part.bm25_weight,
            depth=part.depth,
            first_stage_weight=part.first_stage_weight,
        )

    def reads(self) -> tuple[str, ...]:
        return (*super().reads(), "reranker", *(() if self.first_stage == "bm25" else ("model",)))

    def fingerprint(self) -> dict:
        values = super().fingerprint()
        if self.first_stage != "fused":
            del values["bm25_weight"]
        return values

    def first(self, inputs: Inputs, models: Models, task: Task) -> Retriever:
        """Whose best documents are put in order."""
        if self.first_stage == "bm25":
            return models.bm25(task.corpus)
        tuned = self.tuned.index(inputs, models, task.corpus, self.approximate)
        if self.first_stage == "retriever":
            return tuned
        bm25 = models.bm25(task.corpus)
        return Fused({RETRIEVER: tuned, BM25_SCORER: bm25}, {BM25_SCORER: self.bm25_weight})


def score_before(part: BeforeStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    task = part.task(inputs)

    def index_of(corpus: Corpus, approximate: bool, keep: bool) -> Index:
        return resources.models.index(corpus, part.encoder, approximate, keep)

    counts = part.score("before", index_of, task, folder)
    counts["precision"] = precision_digest(part.encoder.precision)
    if part.bm25:
        _score(folder.path, "bm25", resources.models.bm25(task.corpus), task)
    return counts


def score_after(part: AfterStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    def index_of(corpus: Corpus, approximate: bool, keep: bool) -> Index:
        return part.tuned.index(inputs, resources.models, corpus, approximate, keep)

    counts = part.score("after", index_of, part.task(inputs), folder)
    return counts | {"precision": precision_digest(part.tuned.options.precision)}


def score_reranked(part: RerankedStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    """The first stage's best documents in the order that the reranker gives them."""
    task = part.task(inputs)
    first = part.first(inputs, resources.models, task)
    if part.first_stage == "fused":  # of the others the scores are there
        _score(folder.path, FIRST, first, task)
    model = load_cross_encoder(str(inputs.folder("reranker")))
    with resources.progress("reranking", len(task.qrels) * part.depth) as advance:
        weight, precision = part.first_stage_weight, part.tuned.options.precision
        reranked = Reranked(first, task.corpus, model, part.depth, advance, weight, precision)
        return _score(folder.path, "reranked", reranked, task)


def _score(folder: Path, name: str, retriever: Retriever, task: Task) -> Counts:
    run = search_task(task, retriever)
    if process_state().is_main_process:
        write_run(folder / f"{name}.trec", run, tag=name)
        write_json(folder / f"{name}.json", evaluate(task.qrels, run))
    return {"queries": len(task.queries), "documents": len(task.corpus)}


# before anything is paid for: it needs no query, and finds qrels and a base model that do not fit
BEFORE = Stage("before", 6, BeforeStage, score_before, shared=True)
AFTER = Stage("after", 6, AfterStage, score_after, shared=True)
RERANKED = Stage("reranked", 6, RerankedStage, score_reranked, shared=True)
