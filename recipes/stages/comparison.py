"""Before and after: the same queries, searched with the base model and with the tuned one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from evaluation.data import Corpus, Qrels, Queries, find_dataset, read_corpus, read_qrels, read_queries, write_run
from evaluation.files import InputError, sha256_file, sha256_tree, write_json
from evaluation.metrics import evaluate
from evaluation.models import load_cross_encoder, load_encoder, process_state, resolve_encoder
from evaluation.retrievers import BM25, Dense, Reranked, ranking, to_documents
from recipes.engine import Context
from recipes.schema import Recipe
from recipes.stages.corpus import corpus_inputs, read_own_corpus

RUN_DEPTH = 100


def score_before(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    task, people = read_evaluation(context), recipe.evaluation.data is not None
    index = base_index(context, task[0])
    counts = _score(folder, "before", index, task, people)
    for dimensions in recipe.training.matryoshka:
        _score(folder, f"before-{dimensions}", index.cut(dimensions), task, people)
    if recipe.evaluation.bm25:
        _score(folder, "bm25", BM25(task[0]), task, people)
    return counts | _score_others(context, folder, "base", recipe.training.base)


def score_after(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    task, people = read_evaluation(context), recipe.evaluation.data is not None
    index = _dense(context, "tuned", str(context.stage_folder("model")), task[0])
    counts = _score(folder, "after", index, task, people)
    for dimensions in recipe.training.matryoshka:
        _score(folder, f"after-{dimensions}", index.cut(dimensions), task, people)
    return counts | _score_others(context, folder, "tuned", str(context.stage_folder("model")))


def score_reranked(context: Context, folder: Path) -> dict[str, Any]:
    """The first stage's best documents in the order that the reranker gives them."""
    part = context.recipe.reranker
    task = read_evaluation(context)
    first = BM25(task[0]) if part.first_stage == "bm25" else _dense(context, "tuned", str(context.stage_folder("model")), task[0])
    model = load_cross_encoder(str(context.stage_folder("reranker")))
    with context.progress("reranking", len(task[2]) * part.depth) as advance:
        return _score(folder, "reranked", Reranked(first, task[0], model, part.depth, advance), task, context.recipe.evaluation.data is not None)


def _score_others(context: Context, folder: Path, side: str, model: str) -> dict[str, Any]:
    """The same model on the recipe's other collections; written under the numbers that they have there."""
    counts = {}
    for number, (name, other) in enumerate(context.recipe.evaluation.others_by_name().items()):
        task = _judged_task(read_corpus(judged_folder(other.data) / "corpus.jsonl"), other.data, other.split, context.recipe)
        counts[name] = _score(folder, f"other-{number}", _dense(context, side, model, task[0]), task, by_document=True)["queries"]
    return {"others": counts} if counts else {}


def evaluation_part(recipe: Recipe) -> list[Any]:
    return [search_part(recipe), recipe.evaluation.split, recipe.evaluation.unknown_documents, recipe.training.matryoshka]


def evaluation_inputs(context: Context) -> dict[str, str]:
    part = context.recipe.evaluation
    return {f"evaluation/{name}": digest for name, digest in judged_inputs(part.data, part.split).items()} if part.data else {}


def others_inputs(context: Context) -> dict[str, str]:
    return {f"other {n}/{name}": digest for n, other in enumerate(context.recipe.evaluation.others) for name, digest in judged_inputs(other.data, other.split).items()}


def read_evaluation(context: Context) -> tuple[Corpus, Queries, Qrels]:
    """The corpus to search, and the judged queries with their qrels. Raises ``InputError`` as the readers do."""
    part = context.recipe.evaluation
    if part.data is None:
        folder = context.stage_folder("pairs")
        corpus, queries, qrels = read_own_corpus(context), read_queries(folder / "queries.jsonl"), read_qrels(folder / "qrels" / f"{own_split(context.recipe)}.tsv")
        return corpus, {q: queries[q] for q in qrels}, qrels
    folder = judged_folder(part.data)
    # the run's own corpus where it is the same documents: it is chunked as it will be in use
    own = folder / "corpus.jsonl"
    same = not own.exists() or corpus_inputs(context).get("corpus") == sha256_file(own)
    corpus = read_own_corpus(context) if same else read_corpus(own)
    return _judged_task(corpus, part.data, part.split, context.recipe)


def _judged_task(corpus: Corpus, data: str, split: str, recipe: Recipe) -> tuple[Corpus, Queries, Qrels]:
    """Queries that people judged, with qrels by document. Raises ``InputError`` if none of these is in ``corpus``."""
    known = set(corpus) | {d.doc_id for d in corpus.values()}
    queries, qrels = read_judged(data, split, None if recipe.evaluation.unknown_documents == "drop" else known)
    qrels = {q: _by_document({d: g for d, g in grades.items() if d in known}, corpus) for q, grades in qrels.items()}
    qrels = {q: grades for q, grades in qrels.items() if any(g > 0 for g in grades.values())}
    if not qrels:
        raise InputError(f"{judged_folder(data) / 'qrels' / f'{split}.tsv'}: none of its documents is in the corpus that is searched")
    return corpus, {q: queries[q] for q in qrels}, qrels


def evaluated_on(recipe: Recipe) -> str:
    """What the comparison was made on, for people."""
    part = recipe.evaluation
    return "generated queries of held-out documents" if part.data is None else f"queries of {Path(part.data).name}, split {part.split}"


def read_scores(context: Context, stage: str, name: str) -> dict[str, dict[str, float]] | None:
    """Metric to query to value, as a stage wrote it; None where there is no such file."""
    path = context.stage_folder(stage) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def own_split(recipe: Recipe) -> Literal["dev", "test"]:
    """The split of the run's own queries that is compared on where the recipe names no others."""
    return "test" if recipe.split.test and recipe.evaluation.split != "dev" else "dev"


def judged_folder(data: str) -> Path:
    folder = Path(data).expanduser()
    return folder if (folder / "queries.jsonl").exists() else find_dataset(data)


def read_judged(data: str, split: str, documents: Iterable[str] | None = None) -> tuple[Queries, Qrels]:
    """Queries and the qrels of one split, of the recipe's evaluation or its labelled pairs; ``documents``: all that qrels may
    name. Raises ``InputError`` as the readers do."""
    folder = judged_folder(data)
    queries = read_queries(folder / "queries.jsonl")
    return queries, read_qrels(folder / "qrels" / f"{split}.tsv", queries, documents)


def judged_inputs(data: str, split: str) -> dict[str, str]:
    folder = judged_folder(data)
    files = [folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv", folder / "corpus.jsonl"]
    return {file.name: sha256_file(file) for file in files if file.exists()}


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


def _score(folder: Path, name: str, retriever: BM25 | Dense | Reranked, task: tuple[Corpus, Queries, Qrels], by_document: bool) -> dict[str, Any]:
    corpus, queries, qrels = task
    # people label documents, and a document counts by its best chunk; what was generated is labelled by chunk
    cut = by_document and any(d.doc_id != i for i, d in corpus.items())
    # the chunks of a hundred documents may be many, and a hit of the query's own ID is none (as in BEIR): search deeper, cut after
    run = retriever.search({q.id: q.text for q in queries.values()}, RUN_DEPTH * 10 if cut else RUN_DEPTH + 1)
    if cut:
        run = to_documents(run, corpus)
    run = {q: {d: scores[d] for d in [d for d in ranking(scores) if d != q][:RUN_DEPTH]} for q, scores in run.items()}
    per_query = evaluate(qrels, run)
    if process_state().is_main_process:
        write_run(folder / f"{name}.trec", run, tag=name)
        write_json(folder / f"{name}.json", per_query)
    return {"queries": len(queries), "documents": len(corpus)}


def _dense(context: Context, name: str, model: str, corpus: Corpus) -> Dense:
    part = context.recipe.training
    encoder = load_encoder(model, max_seq_length=part.max_seq_length, attention=part.attention)
    with context.progress(f"encoding with the {name} model", len(corpus)) as advance:
        return Dense(corpus, encoder, part.query_prompt, part.document_prompt, progress=advance)


def _by_document(grades: dict[str, int], corpus: Corpus) -> dict[str, int]:
    """Labels of chunks as labels of their documents: by these is ranked, whichever of the two people labelled."""
    result: dict[str, int] = {}
    for i, grade in grades.items():
        doc_id = corpus[i].doc_id if i in corpus else i
        result[doc_id] = max(grade, result.get(doc_id, grade))
    return result
