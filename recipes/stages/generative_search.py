"""What a generative retriever finds, beside other systems, and why."""

from __future__ import annotations

from typing import ClassVar, Self

from sharpen.evaluation.beir import Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.files import write_json
from sharpen.evaluation.generative.analysis import Cause, Memory, failures, remembered, unreached
from sharpen.evaluation.generative.identifiers import identifier_tokens
from sharpen.evaluation.generative.model import GenerativeModel, load_generative
from sharpen.evaluation.metrics import METRICS, evaluate
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import RUN_DEPTH, search_task
from sharpen.evaluation.retrievers.generative import Generative, search_identifiers
from sharpen.evaluation.runs import first, fuse, read_run, write_run
from sharpen.recipes.engine import Counts, Folder, Stage
from sharpen.recipes.inputs import DIAGNOSIS, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.comparison import ComparisonPart
from sharpen.recipes.stages.generative import GenerativeTraining, trained_on
from sharpen.sdg.drawing import drawn
from sharpen.sdg.resources import Resources

SYSTEMS_COMPARED = {
    "BM25": "bm25",
    "base encoder": "base",
    "base + BM25": "base-bm25",
    "generative + BM25": "after-bm25",
    "generative + base": "after-base",
}
"""What stands beside the generative retriever, and the name of its scores."""
GENERATIVE_METRICS = (*METRICS, "hit_rate@4")
"""The paper counts hits among 4, too."""
MOST_TEXTS = 1000
"""Pieces and queries that are looked for to see what is remembered, each drawn by seed."""


class GenerativeAfter(ComparisonPart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "before", "model")

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(**cls.common(recipe))


def search(part: GenerativeAfter, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    task = part.task(inputs)
    model = load_generative(inputs.folder("model"))
    with resources.progress("searching", len(task.texts)) as advance:
        found = search_task(task, Generative(model, task.corpus, progress=advance))
    runs = {"after": found}
    for name, file in (("base", "before"), ("bm25", "bm25")):
        if (path := inputs.folder("before") / f"{file}.trec").exists():
            runs[name] = read_run(path, task.queries, task.known)
    for one, other in (("base", "bm25"), ("after", "bm25"), ("after", "base")):
        if one in runs and other in runs:
            runs[f"{one}-{other}"] = first(fuse([runs[one], runs[other]]), RUN_DEPTH)
    if process_state().is_main_process:
        for name, run in runs.items():
            write_run(folder.path / f"{name}.trec", run, tag=name)
            write_json(folder.path / f"{name}.json", evaluate(task.qrels, run, GENERATIVE_METRICS))
    return {"queries": len(task.qrels), "documents": len(model.identifiers)}


class GenerativeDiagnosis(ComparisonPart):
    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "identifiers", "model", "after")

    training: GenerativeTraining
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(**cls.common(recipe), training=GenerativeTraining.of(recipe), seed=recipe.seed)

    def reads(self) -> tuple[str, ...]:
        return self.READS


def diagnose(part: GenerativeDiagnosis, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    task, model = part.task(inputs), load_generative(inputs.folder("model"))
    runs: list[tuple[Run, dict[str, str]]] = []
    for what, examples in zip(("pieces", "queries"), trained_on(part.training, inputs, model), strict=True):
        chosen = sorted(examples, key=lambda e: drawn(part.seed, what, e.key, e.document))[:MOST_TEXTS]
        with resources.progress(f"remembering {what}", len(chosen)) as advance:
            # a query of several documents is an example of each
            named = {f"{n}": e for n, e in enumerate(chosen)}
            run = search_identifiers(model, {n: e.text for n, e in named.items()}, progress=advance)
        runs.append((run, {n: e.document for n, e in named.items()}))
    looked_for = {document for _, positives in runs for document in positives.values()}
    at_once, among = remembered(*runs[0])
    run = read_run(inputs.folder("after") / "after.trec", task.queries, task.known)
    memory = Memory(
        texts=len(runs[0][1]),
        trained=part.training.settings.context,
        first=at_once,
        found=among,
        documents=len(looked_for),
        unreached=unreached([i for i in model.identifiers if i in looked_for], runs),
        failures=_failures(task, run, model),
        queries=len(task.qrels),
    )
    if process_state().is_main_process:
        write_json(folder.path / DIAGNOSIS, memory.model_dump(mode="json"))
    return {"remembered": memory.first, "documents": memory.documents, "unreached": len(memory.unreached)}


def _failures(task: Task, run: Run, model: GenerativeModel) -> dict[Cause, int]:
    """By the names that the task has for documents."""
    names = {i: document.doc_id for i, document in task.corpus.items()} if task.by_document else {}
    tokens: dict[str, list[tuple[int, ...]]] = {}
    for i, of_one in zip(model.identifiers, identifier_tokens(model.identifiers, model.tokenizer), strict=True):
        tokens.setdefault(names.get(i, i), []).append(of_one)
    return failures(run, task.qrels, tokens)


AFTER = Stage("after", 1, GenerativeAfter, search, shared=True)
DIAGNOSIS_STAGE = Stage("diagnosis", 2, GenerativeDiagnosis, diagnose, shared=True)
