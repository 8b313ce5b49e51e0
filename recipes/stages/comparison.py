"""Before and after: the same queries, searched with the base model and with the tuned one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from sharpen.evaluation.beir import Corpus, read_qrels, read_queries
from sharpen.evaluation.datasets import Task, judged_files, load_task
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder, resolve_encoder
from sharpen.evaluation.files import sha256_file, sha256_tree, write_json
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Retriever, search_task
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import write_run
from sharpen.recipes.engine import Context
from sharpen.recipes.schema.recipe import OtherPart, Recipe
from sharpen.recipes.stages.corpus import corpus_inputs, read_own_corpus


def score_before(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    task = read_evaluation(context)
    index = base_index(context, task.corpus)
    counts = _score(folder, "before", index, task)
    for dimensions in recipe.training.matryoshka:
        _score(folder, f"before-{dimensions}", index.cut(dimensions), task)
    if recipe.evaluation.bm25:
        _score(folder, "bm25", BM25(task.corpus), task)
    return counts | _score_others(context, folder, "base", recipe.training.base)


def score_after(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    task = read_evaluation(context)
    index = _dense(context, "tuned", str(context.stage_folder("model")), task.corpus)
    counts = _score(folder, "after", index, task)
    for dimensions in recipe.training.matryoshka:
        _score(folder, f"after-{dimensions}", index.cut(dimensions), task)
    return counts | _score_others(context, folder, "tuned", str(context.stage_folder("model")))


def score_reranked(context: Context, folder: Path) -> dict[str, Any]:
    """The first stage's best documents in the order that the reranker gives them."""
    part = context.recipe.reranker
    task = read_evaluation(context)
    first = (
        BM25(task.corpus)
        if part.first_stage == "bm25"
        else _dense(context, "tuned", str(context.stage_folder("model")), task.corpus)
    )
    model = load_cross_encoder(str(context.stage_folder("reranker")))
    with context.progress("reranking", len(task.qrels) * part.depth) as advance:
        return _score(
            folder, "reranked", Reranked(first, task.corpus, model, part.depth, advance, part.first_stage_share), task
        )


def _score_others(context: Context, folder: Path, side: str, model: str) -> dict[str, Any]:
    """The same model on the recipe's other collections; written under the numbers that they have there."""
    counts = {}
    for number, (name, other) in enumerate(context.recipe.evaluation.others_by_name().items()):
        task = read_other(context, other)
        counts[name] = _score(folder, f"other-{number}", _dense(context, side, model, task.corpus), task)["queries"]
    return {"others": counts} if counts else {}


def evaluation_part(recipe: Recipe) -> list[Any]:
    return [
        search_part(recipe),
        recipe.evaluation.split,
        recipe.evaluation.unknown_documents,
        recipe.training.matryoshka,
        recipe.evaluation.approximate,
    ]


def evaluation_inputs(context: Context) -> dict[str, str]:
    part = context.recipe.evaluation
    return (
        {f"evaluation/{name}": digest for name, digest in judged_inputs(part.data, part.split).items()}
        if part.data
        else {}
    )


def others_inputs(context: Context) -> dict[str, str]:
    return {
        f"other {n}/{name}": digest
        for n, other in enumerate(context.recipe.evaluation.others)
        for name, digest in judged_inputs(other.data, other.split).items()
    }


def read_evaluation(context: Context) -> Task:
    """What the recipe compares on. Raises ``InputError`` as the readers do."""
    part = context.recipe.evaluation
    if part.data is None:
        folder, split = context.stage_folder("pairs"), own_split(context.recipe)
        queries, qrels = read_queries(folder / "queries.jsonl"), read_qrels(folder / "qrels" / f"{split}.tsv")
        # what was generated is labelled by chunk
        return Task(
            f"generated, split {split}",
            read_own_corpus(context),
            {q: queries[q] for q in qrels},
            qrels,
            by_document=False,
        )
    # the run's own corpus where it is the same documents: it is chunked as it will be in use
    own = judged_files(part.data, part.split).get("corpus")
    same = own is None or corpus_inputs(context).get("corpus") == sha256_file(own)
    return load_task(part.data, part.split, read_own_corpus(context) if same else None, part.unknown_documents)


def read_other(context: Context, other: OtherPart) -> Task:
    """One of the recipe's other collections."""
    return load_task(other.data, other.split, None, context.recipe.evaluation.unknown_documents)


def evaluated_on(recipe: Recipe) -> str:
    """What the comparison was made on, for people."""
    part = recipe.evaluation
    return (
        "generated queries of held-out documents"
        if part.data is None
        else f"queries of {Path(part.data).name}, split {part.split}"
    )


def read_scores(context: Context, stage: str, name: str) -> dict[str, dict[str, float]] | None:
    """Metric to query to value, as a stage wrote it; None where there is no such file."""
    path = context.stage_folder(stage) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def own_split(recipe: Recipe) -> Literal["dev", "test"]:
    """The split of the run's own queries that is compared on where the recipe names no others."""
    return "test" if recipe.split.test and recipe.evaluation.split != "dev" else "dev"


def judged_inputs(data: str, split: str) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in judged_files(data, split).values() if file.exists()}


def base_index(context: Context, corpus: Corpus) -> Dense:
    """The dense index of the base model, which the round trip and the before-run share."""
    key = {"base": context.recipe.training.base} | search_part(context.recipe)
    made_of, of, index = context.cache.get("base index", (None, None, None))
    if made_of != key or of is not corpus:
        index = _dense(context, "base", context.recipe.training.base, corpus)
        context.cache["base index"] = key, corpus, index
    return index


def base_input(context: Context) -> dict[str, str]:
    return {"base": model_digest(context.recipe.training.base)}


def model_digest(name: str) -> str:
    """What stands for a model in a fingerprint: its content, where it is a folder here."""
    source = resolve_encoder(name)
    return sha256_tree(Path(source)) if Path(source).is_dir() else f"hub:{source}"


def search_part(recipe: Recipe) -> dict[str, Any]:
    return recipe.training.model_dump(include={"max_seq_length", "query_prompt", "document_prompt", "attention"})


def _score(folder: Path, name: str, retriever: Retriever, task: Task) -> dict[str, Any]:
    run = search_task(task, retriever)
    if process_state().is_main_process:
        write_run(folder / f"{name}.trec", run, tag=name)
        write_json(folder / f"{name}.json", evaluate(task.qrels, run))
    return {"queries": len(task.queries), "documents": len(task.corpus)}


def _dense(context: Context, name: str, model: str, corpus: Corpus) -> Dense:
    part = context.recipe.training
    encoder = load_encoder(model, max_seq_length=part.max_seq_length, attention=part.attention)
    with context.progress(f"encoding with the {name} model", len(corpus)) as advance:
        return Dense(
            corpus,
            encoder,
            part.query_prompt,
            part.document_prompt,
            progress=advance,
            approximate=context.recipe.evaluation.approximate,
        )
