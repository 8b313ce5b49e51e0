"""The walk from documents to a verdict, as stages."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from evaluation.data import (
    Corpus,
    Qrels,
    Queries,
    Query,
    Run,
    find_dataset,
    read_corpus,
    read_qrels,
    read_queries,
    write_corpus,
    write_qrels,
    write_queries,
    write_run,
)  # fmt: skip
from evaluation.files import InputError, sha256_file, sha256_tree, write_json, write_jsonl, write_text
from evaluation.metrics import evaluate
from evaluation.models import load_encoder, process_state, resolve_encoder
from evaluation.retrievers import BM25, Dense, fuse, ranking, to_documents
from recipes.engine import Context, Stage, from_main
from recipes.llm import llm_identity, open_llm, uses_chat
from recipes.load import read_pool
from recipes.schema import Recipe, StrategyPart
from sdg.chunking import chunk
from sdg.documents import PYTHON_DOCS, read_documents, text_files
from sdg.embedded import locate_llm
from sdg.filters import rejection
from sdg.filters.cross_encoder import cross_encoder
from sdg.filters.duplicates import near_duplicates
from sdg.filters.judge import judge
from sdg.filters.round_trip import positives, round_trip
from sdg.filters.text import copying
from sdg.llm import OVER_BUDGET, api_key_from
from sdg.multi_hop import Bundle
from sdg.negatives import bm25 as bm25_miner
from sdg.negatives import kept_negatives, write_negatives
from sdg.queries import LABELLED, generate_queries, query_key, sample_documents
from sdg.split import near_duplicate_documents, read_split, split_documents, split_queries, write_split
from sdg.strategies import MIN_WORDS, OF_QUERIES, Example, Strategy
from training.retriever import RetrieverSettings, train_retriever
from training.triplets import make_triplets

RUN_DEPTH = 100
ARTIFACTS_TOKENS = 500
"""Of an answer that lists artifacts, at most."""


def check_inputs(recipe: Recipe) -> None:
    """Find what a recipe names before anything is computed or paid for. Raises ``InputError``."""
    if recipe.corpus.source != PYTHON_DOCS and not Path(recipe.corpus.source).expanduser().exists():
        find_dataset(recipe.corpus.source)
    if recipe.evaluation.data is None and not _share_of(recipe, own_split(recipe)):
        raise InputError(f"evaluation.data is not given and split.{own_split(recipe)} is 0: nothing is left to compare on; give one of them")
    strategies(recipe)
    resolve_encoder(recipe.training.base)
    for llm in (recipe.llm, *([recipe.filters.judge.llm] if recipe.filters.judge and recipe.filters.judge.llm else [])):
        if llm.embedded:
            locate_llm(llm.embedded)
        for endpoint in llm.remote():
            api_key_from(endpoint.api_key_env)
    if check := recipe.filters.cross_encoder:
        resolve_encoder(check.model)
    for part in (recipe.evaluation, recipe.labelled):
        if part and part.data:
            folder = _judged_folder(part.data)
            read_qrels(folder / "qrels" / f"{part.split}.tsv", read_queries(folder / "queries.jsonl"))


# -- corpus ----------------------------------------------------------------------------------------------------------


def _corpus_inputs(context: Context) -> dict[str, str]:
    source = context.recipe.corpus.source
    if source == PYTHON_DOCS:
        return {"python": platform.python_version()}
    path = Path(source).expanduser()
    if not path.exists() or (path / "corpus.jsonl").exists():
        path = find_dataset(source) / "corpus.jsonl"
    return {"corpus": sha256_tree(path, text_files(path, Path(context.recipe.runs)) if path.is_dir() else None)}


def _corpus(context: Context, folder: Path) -> dict[str, Any]:
    corpus = cut_corpus(context.recipe)
    write_corpus(folder / "corpus.jsonl", corpus)
    return {"documents": len({d.doc_id for d in corpus.values()}), "chunks": len(corpus)}


def cut_corpus(recipe: Recipe) -> Corpus:
    """The recipe's documents, cut into chunks. Raises ``InputError`` as the readers do."""
    part = recipe.corpus
    documents = read_documents(part.source, Path(recipe.runs))
    chunks = documents.values() if part.chunk is None else chunk(documents.values(), part.chunk.max_words, part.chunk.overlap_words)
    corpus: Corpus = {}
    for piece in chunks:
        if piece.id in corpus:
            raise InputError(f"{part.source}: the chunk ID {piece.id!r} is also the ID of a document; rename that document")
        corpus[piece.id] = piece
    return corpus


# -- queries ---------------------------------------------------------------------------------------------------------


def strategies(recipe: Recipe) -> list[Strategy]:
    """The recipe's query strategies, with their pools read. Raises ``InputError`` for a pool that is none."""
    return [_strategy(part, uses_chat(recipe)) for part in recipe.queries.all_strategies()]


def _strategy(part: StrategyPart, chat: bool) -> Strategy:
    pool = read_pool(Path(part.pool), part.kind == "multi_hop")
    if part.kind == "question_answer" and (silent := [e for e in pool if not e.answers]):
        raise InputError(f"{part.pool}: strategy {part.name} asks for answers, and {len(silent)} of {len(pool)} examples have none; give each example answer, or answers")
    strategy = Strategy(
        task=part.task, pool=pool, kind=part.kind, name=part.name, count=part.queries, samples=part.per_document,
        examples=part.examples_per_prompt, group=part.examples_group, max_words=part.max_document_words, chat=chat, form=part.form,
        parameters={"temperature": part.temperature, "top_p": part.top_p, "max_tokens": part.max_tokens} | ({"extra_body": part.extra_body} if part.extra_body else {}),
        fields=part.fields, sentences=part.sentences, language=part.language, typos=part.typos, documents=part.documents,
    )  # fmt: skip
    if part.kind == "multi_hop":
        first = replace(strategy, kind="artifacts", name="artifacts", parameters=strategy.parameters | {"max_tokens": ARTIFACTS_TOKENS})
        return replace(strategy, first=first, bundle=Bundle(**part.bundle.model_dump()))
    if part.kind == "back_translation":
        back = [Example(query, (example.document,)) for example in strategy.pool for query in example.queries]
        return replace(strategy, first=replace(strategy, name="translation"), pool=back)
    return strategy


def _queries(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus = _read_corpus(context)
    documents = sample_documents(list(corpus.values()), recipe.queries.documents, recipe.queries_seed)
    if not documents:
        raise InputError(f"{recipe.corpus.source}: no document has the {MIN_WORDS} words, separated by blanks, that a query is written from")
    chosen = strategies(recipe)
    labelled, left_out = labelled_queries(recipe, corpus)
    # bundles take long to find: for the bar it is enough to know about how many there are
    prompts = sum(2 * len(documents[: s.documents]) // s.bundle.documents if s.kind == "multi_hop" else sum(1 for _ in s.units(documents)) for s in chosen if s.kind not in OF_QUERIES)
    with context.progress("writing queries", prompts) as advance, open_llm(recipe) as llm:
        tell = lambda answer: advance(note=answer.text.strip().split("\n")[0][:60])  # noqa: E731
        generated = generate_queries(documents, llm, chosen, recipe.queries_seed, warm_up=recipe.llm.embedded is not None, progress=tell, corpus=corpus, given=labelled)
    counts = generated.counts() | ({"labelled": len(labelled), "labelled_left_out": left_out} if recipe.labelled else {})
    if recipe.llm.prices:
        counts["money"] = str(llm.spending)
    if unpaid := counts["rejected"].get(OVER_BUDGET):
        context.console.print(f"[yellow]llm.budget[/]: {unpaid:,} queries were not asked for ({llm.spending}); the run goes on with the {counts['kept']:,} that were kept. Raise it and run again to get the rest.", highlight=False, soft_wrap=True)
    if not generated.kept:
        first = f" The first was {generated.rejected[0]['text'][:200]!r}." if generated.rejected else ""
        raise InputError(f"llm: none of the {counts['asked']} queries asked for was usable: {counts['rejected']}.{first} Try another model, or another queries.task and queries.pool")
    write_queries(folder / "queries.jsonl", labelled + generated.kept)
    write_jsonl(folder / "rejected.jsonl", generated.rejected)
    write_json(folder / "strategies.json", {name: vars(tally) for name, tally in generated.tallies.items()})
    if generated.first_steps:
        write_jsonl(folder / "first_steps.jsonl", generated.first_steps)
    return counts


def labelled_queries(recipe: Recipe, corpus: Corpus) -> tuple[list[Query], dict[str, int]]:
    """The real queries that the recipe trains on, too, and how many were left out by reason.

    A label of a document that was cut goes to the chunk that BM25 ranks first for the query, or to the first one. Raises
    ``InputError`` if none is left.
    """
    part = recipe.labelled
    if part is None:
        return [], {}
    folder = _judged_folder(part.data)
    queries = read_queries(folder / "queries.jsonl")
    chunks: dict[str, list[str]] = {}
    for doc_id, document in corpus.items():
        chunks.setdefault(document.doc_id, []).append(doc_id)
    qrels = read_qrels(folder / "qrels" / f"{part.split}.tsv", queries, None if part.unknown_documents == "drop" else set(corpus) | set(chunks))
    asked = _evaluated_keys(recipe)
    relevant = {q: [d for d, grade in grades.items() if grade > 0 and (d in corpus or d in chunks)] for q, grades in qrels.items()}
    chosen = {q: ids for q, ids in relevant.items() if ids and query_key(queries[q].text) not in asked}
    cut = {q: queries[q].text for q, ids in chosen.items() if any(d not in corpus for d in ids)}
    found = BM25(corpus).search(cut, min(len(corpus), 10 * RUN_DEPTH)) if cut else {}
    best = lambda q, d: d if d in corpus else max(chunks[d], key=lambda chunk: found[q].get(chunk, 0.0))  # noqa: E731
    kept = [Query(f"labelled-{q}", queries[q].text, {"positives": list(dict.fromkeys(best(q, d) for d in ids)), "strategy": LABELLED}) for q, ids in chosen.items()]
    none = sum(not ids for ids in relevant.values())
    if not kept:
        raise InputError(f"{folder / 'qrels' / f'{part.split}.tsv'}: no query is left of {len(qrels)}: {none} have no relevant document in the corpus, {len(qrels) - none} are evaluated on")
    return kept, {"no relevant document": none, "evaluated on": len(qrels) - none - len(kept)}


def _evaluated_keys(recipe: Recipe) -> set[str]:
    """What the queries that the recipe compares on are recognised by, whatever their IDs."""
    part = recipe.evaluation
    if part.data is None:
        return set()
    folder = _judged_folder(part.data)
    queries = read_queries(folder / "queries.jsonl")
    return {query_key(queries[q].text) for q in read_qrels(folder / "qrels" / f"{part.split}.tsv", queries)}


def _labelled_inputs(context: Context) -> dict[str, str]:
    part = context.recipe.labelled
    return {f"labelled/{name}": digest for name, digest in _judged_inputs(part.data, part.split).items()} | _evaluation_inputs(context) if part else {}


# -- pairs -----------------------------------------------------------------------------------------------------------


def _pairs(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus = _read_corpus(context)
    queries = list(read_queries(context.stage_folder("queries") / "queries.jsonl").values())
    labelled = [q for q in queries if q.metadata["strategy"] == LABELLED]
    generated = [q for q in queries if q.metadata["strategy"] != LABELLED]
    kept, rejected, passed = _filtered(context, generated, corpus)
    together = [q.metadata["bundle"] for q in generated if "bundle" in q.metadata]
    if recipe.split.near_duplicates and recipe.split.dev + recipe.split.test:
        together += from_main(near_duplicate_documents(corpus, recipe.split.near_duplicates) if process_state().is_main_process else None)
    split = split_documents(corpus, recipe.split.dev, recipe.seed, recipe.split.test, together)
    sides = split_queries(kept, split)
    placed = {q.id for members in sides.values() for q in members}
    rejected += [rejection(q, "split: its documents are in several splits, or in none") | {"strategy": q.metadata["strategy"], "filter": "split"} for q in kept if q.id not in placed]
    passed["split"] = dict(Counter(q.metadata["strategy"] for members in sides.values() for q in members))
    if not sides["train"]:
        raise InputError(f"filters: no query of {len(generated)} is left to train on ({len(rejected)} were rejected: {dict(Counter(r['reason'] for r in rejected))}, {len(sides['dev'])} are dev, {len(sides['test'])} test). Loosen that filter, or raise queries.documents; if most are dev or test, bundles or split.near_duplicates tie too many documents together")
    if recipe.evaluation.data is None and not sides[own_split(recipe)]:
        raise InputError(f"evaluation: no query is held out to compare on. Raise split.{own_split(recipe)} or queries.documents, or give evaluation.data")
    # real queries are for training: what of their documents is held out is no positive of theirs here
    real = [replace(q, metadata=q.metadata | {"positives": ids}) for q in labelled if (ids := [i for i in q.metadata["positives"] if split[i] == "train"])]
    drawn_from = len(real) + len(sides["train"])
    sides["train"] = _drawn(recipe, real, sides["train"])
    if drawn_from > 2 * len(sides["train"]) and not recipe.filters.at_most:
        context.console.print(f"[yellow]labelled.share[/]: {len(sides['train']):,} queries are trained on, at {recipe.labelled.share:.0%} real ones of {len(real):,}; {drawn_from - len(sides['train']):,} others are not drawn.", highlight=False, soft_wrap=True)
    if not process_state().is_main_process:
        return {}
    # a BEIR folder of its own: the corpus is a link to the one beside it where the file system allows
    source, target = context.stage_folder("corpus") / "corpus.jsonl", folder / "corpus.jsonl"
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    write_queries(folder / "queries.jsonl", [q for members in sides.values() for q in members])
    write_split(folder / "split.jsonl", split)
    for side, members in sides.items():
        write_qrels(folder / "qrels" / f"{side}.tsv", {q.id: dict.fromkeys(q.metadata["positives"], 1) for q in members})
    write_jsonl(folder / "rejected.jsonl", rejected)
    write_json(folder / "filters.json", passed)
    counts = {side: len(members) for side, members in sides.items() if members or side != "test"} | {"rejected": dict(Counter(r["reason"] for r in rejected))}
    if recipe.labelled:
        counts |= {"labelled_in_train": sum(q.metadata["strategy"] == LABELLED for q in sides["train"]), "labelled_held_out": len(labelled) - len(real)}
    return counts | ({"not_drawn": not_drawn} if (not_drawn := drawn_from - len(sides["train"])) else {})


def _drawn(recipe: Recipe, real: list[Query], generated: list[Query]) -> list[Query]:
    """The queries to train on: real and generated ones at the recipe's ratio, and at most as many as it wants."""
    share = recipe.labelled.share if recipe.labelled and real else 0.0
    total = min(len(generated) / (1 - share), len(real) / share if share else math.inf, recipe.filters.at_most or math.inf)
    of_real = round(math.floor(total) * share)
    rng = random.Random(recipe.seed)
    chosen: set[str] = set()
    for members, number in ((generated, math.floor(total) - of_real), (real, of_real)):
        chosen.update(rng.sample(sorted(q.id for q in members), min(len(members), number)))
    return [q for q in real + generated if q.id in chosen]


def _filtered(context: Context, queries: list[Query], corpus: Corpus) -> tuple[list[Query], list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Send the queries through the recipe's filters, the cheap ones first; the last result has what each let pass, by
    strategy."""
    recipe = context.recipe
    part = recipe.filters
    filters: list[tuple[str, Callable[[list[Query]], tuple[list[Query], list[dict[str, Any]]]]]] = []
    if check := part.copying:
        filters.append(("copying", lambda queries: copying(queries, corpus, check.ngram, check.max_share)))
    if near := part.near_duplicates:
        filters.append(("near_duplicates", lambda queries: near_duplicates(queries, _base_index(context, corpus).encode_queries([q.text for q in queries]), near.threshold)))
    if trip := part.round_trip:
        filters.append(("round_trip", lambda queries: round_trip(queries, _found(context, queries, corpus, trip.retriever, max(RUN_DEPTH, trip.top_k)), corpus, trip.top_k)))
    if scored := part.cross_encoder:
        filters.append(("cross_encoder", lambda queries: cross_encoder(queries, corpus, scored.model, scored.min_score)))
    if part.judge:
        filters.append(("judge", lambda queries: _judged(context, queries, corpus)))
    rejected: list[dict[str, Any]] = []
    passed = {"generated": dict(Counter(q.metadata["strategy"] for q in queries))}
    strategy_of = {q.id: q.metadata["strategy"] for q in queries}
    for name, apply in filters:
        if name in ("cross_encoder", "judge"):  # not shared by the processes, and an LLM is to be asked once
            queries, dropped = from_main(apply(queries) if process_state().is_main_process else None)
        else:
            queries, dropped = apply(queries)
        rejected += [row | {"strategy": strategy_of[row["query"]], "filter": name} for row in dropped]
        passed[name] = dict(Counter(q.metadata["strategy"] for q in queries))
    return queries, rejected, passed


def _found(context: Context, queries: list[Query], corpus: Corpus, retriever: str, depth: int) -> Run:
    texts = {q.id: q.text for q in queries}
    runs: list[Run] = []
    if retriever in ("bm25", "fused"):
        runs.append(BM25(corpus).search(texts, depth))
    if retriever in ("dense", "fused"):
        runs.append(_base_index(context, corpus).search(texts, depth))
    return fuse(runs) if len(runs) > 1 else runs[0]


def _judging(recipe: Recipe) -> Recipe:
    """The recipe with the judge's LLM."""
    return recipe.model_copy(update={"llm": recipe.filters.judge.llm or recipe.llm})


def _judged(context: Context, queries: list[Query], corpus: Corpus) -> tuple[list[Query], list[dict[str, Any]]]:
    part, judging = context.recipe.filters.judge, _judging(context.recipe)
    with context.progress("judging", 0) as advance, open_llm(judging) as llm:
        return judge(queries, corpus, llm, threshold=part.threshold, per_prompt=part.per_prompt, max_words=part.max_document_words, chat=uses_chat(judging), progress=lambda _answer: advance())


def _train_queries(context: Context) -> Queries:
    queries = read_queries(context.stage_folder("pairs") / "queries.jsonl")
    qrels = read_qrels(context.stage_folder("pairs") / "qrels" / "train.tsv")
    return {query_id: queries[query_id] for query_id in qrels}


# -- negatives -------------------------------------------------------------------------------------------------------


def _negatives(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus, queries = _read_corpus(context), _train_queries(context)
    held_out = {doc_id for doc_id, side in read_split(context.stage_folder("pairs") / "split.jsonl").items() if side != "train"}
    first, last = recipe.negatives.ranks
    # dev documents, positives and copies are passed over, so look further down than the last rank
    depth = min(len(corpus), 2 * last + 50)
    run = BM25(corpus).search({q.id: q.text for q in queries.values()}, depth)
    negatives = bm25_miner.mine(list(queries.values()), run, corpus, held_out, recipe.negatives.per_query, first, last, recipe.seed)
    write_negatives(folder / "negatives.jsonl", negatives)
    kept = Counter(n.query_id for n in negatives if n.verdict == "kept")
    return {
        "queries": len(queries),
        "negatives": kept.total(),
        "queries_with_too_few": sum(kept[q] < recipe.negatives.per_query for q in queries),
        "dropped": dict(Counter(n.reason for n in negatives if n.verdict == "dropped").most_common()),
    }


# -- model -----------------------------------------------------------------------------------------------------------


def _base_input(context: Context) -> dict[str, str]:
    base = resolve_encoder(context.recipe.training.base)
    return {"base": sha256_tree(Path(base)) if Path(base).is_dir() else f"hub:{base}"}


def _model(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus, queries = _read_corpus(context), _train_queries(context)
    negatives = kept_negatives(context.stage_folder("negatives") / "negatives.jsonl")
    triplets, left_out = make_triplets(positives(list(queries.values())), negatives, recipe.negatives.per_query)
    settings = RetrieverSettings(**recipe.training.model_dump())
    with context.progress("training", 0) as advance:
        log = train_retriever(triplets, queries, corpus, settings, folder, recipe.seed, lambda p: advance(note=f"step {p.step} of {p.steps}, loss {p.loss if p.loss is None else round(p.loss, 3)}"))
    if process_state().is_main_process:
        write_json(folder / "training_log.json", log)
        write_text(folder / "README.md", _model_card(recipe, len(triplets)))
    return {"triplets": len(triplets), "queries_left_out": left_out, "steps": log[-1]["step"], "first_loss": log[0]["loss"], "last_loss": log[-1]["loss"]}


def _model_card(recipe: Recipe, triplets: int) -> str:
    llm = recipe.llm.embedded or recipe.llm.model
    labels = f"real labelled ones were mixed in ({Path(recipe.labelled.data).name}, {recipe.labelled.split})" if recipe.labelled else "no human label was used"
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sharpen]
---
# {recipe.name}

`{recipe.training.base}` fine-tuned with `sharpen` on {triplets} triplets of one document collection. The queries were
written by the language model `{llm}`; {labels}. Load it with `SentenceTransformer("this folder")`.
The licences of the base model and of the language model hold for what is made with them.
"""


# -- before and after ------------------------------------------------------------------------------------------------


def own_split(recipe: Recipe) -> Literal["dev", "test"]:
    """The split of the run's own queries that is compared on where the recipe names no others."""
    return "test" if recipe.split.test and recipe.evaluation.split != "dev" else "dev"


def _share_of(recipe: Recipe, split: Literal["dev", "test"]) -> float:
    return getattr(recipe.split, split)


def _judged_folder(data: str) -> Path:
    folder = Path(data).expanduser()
    return folder if (folder / "queries.jsonl").exists() else find_dataset(data)


def _judged_inputs(data: str, split: str) -> dict[str, str]:
    folder = _judged_folder(data)
    files = [folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv", folder / "corpus.jsonl"]
    return {file.name: sha256_file(file) for file in files if file.exists()}


def _evaluation_inputs(context: Context) -> dict[str, str]:
    part = context.recipe.evaluation
    return {f"evaluation/{name}": digest for name, digest in _judged_inputs(part.data, part.split).items()} if part.data else {}


def read_evaluation(context: Context) -> tuple[Corpus, Queries, Qrels]:
    """The corpus to search, and the judged queries with their qrels. Raises ``InputError`` as the readers do."""
    part = context.recipe.evaluation
    if part.data is None:
        folder = context.stage_folder("pairs")
        corpus, queries, qrels = _read_corpus(context), read_queries(folder / "queries.jsonl"), read_qrels(folder / "qrels" / f"{own_split(context.recipe)}.tsv")
        return corpus, {q: queries[q] for q in qrels}, qrels
    folder = _judged_folder(part.data)
    # the run's own corpus where it is the same documents: it is chunked as it will be in use
    own = folder / "corpus.jsonl"
    same = not own.exists() or _corpus_inputs(context).get("corpus") == sha256_file(own)
    corpus = _read_corpus(context) if same else read_corpus(own)
    known = set(corpus) | {d.doc_id for d in corpus.values()}
    queries = read_queries(folder / "queries.jsonl")
    qrels = read_qrels(folder / "qrels" / f"{part.split}.tsv", queries, None if part.unknown_documents == "drop" else known)
    qrels = {q: _by_document({d: g for d, g in grades.items() if d in known}, corpus) for q, grades in qrels.items()}
    qrels = {q: grades for q, grades in qrels.items() if any(g > 0 for g in grades.values())}
    if not qrels:
        raise InputError(f"{folder / 'qrels' / f'{part.split}.tsv'}: none of its documents is in the corpus {context.recipe.corpus.source}")
    return corpus, {q: queries[q] for q in qrels}, qrels


def _by_document(grades: dict[str, int], corpus: Corpus) -> dict[str, int]:
    """Labels of chunks as labels of their documents: by these is ranked, whichever of the two people labelled."""
    result: dict[str, int] = {}
    for i, grade in grades.items():
        doc_id = corpus[i].doc_id if i in corpus else i
        result[doc_id] = max(grade, result.get(doc_id, grade))
    return result


def evaluated_on(recipe: Recipe) -> str:
    """What the comparison was made on, for people."""
    part = recipe.evaluation
    return "generated queries of held-out documents" if part.data is None else f"queries of {Path(part.data).name}, split {part.split}"


def _before(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    counts = _score(context, folder, "before", lambda corpus: _base_index(context, corpus))
    if recipe.evaluation.bm25:
        _score(context, folder, "bm25", BM25)
    return counts


def _after(context: Context, folder: Path) -> dict[str, Any]:
    return _score(context, folder, "after", lambda corpus: _dense(context, "tuned", str(context.stage_folder("model")), corpus))


def _score(context: Context, folder: Path, name: str, make: Callable[[Corpus], Any]) -> dict[str, Any]:
    corpus, queries, qrels = read_evaluation(context)
    # people label documents, and a document counts by its best chunk; what was generated is labelled by chunk
    cut = context.recipe.evaluation.data is not None and any(d.doc_id != i for i, d in corpus.items())
    # the chunks of a hundred documents may be many, and a hit of the query's own ID is none (as in BEIR): search deeper, cut after
    run = make(corpus).search({q.id: q.text for q in queries.values()}, RUN_DEPTH * 10 if cut else RUN_DEPTH + 1)
    if cut:
        run = to_documents(run, corpus)
    run = {q: {d: scores[d] for d in [d for d in ranking(scores) if d != q][:RUN_DEPTH]} for q, scores in run.items()}
    per_query = evaluate(qrels, run)
    if process_state().is_main_process:
        write_run(folder / f"{name}.trec", run, tag=name)
        write_json(folder / f"{name}.json", per_query)
    return {"queries": len(queries), "documents": len(corpus)}


def _base_index(context: Context, corpus: Corpus) -> Dense:
    """The dense index of the base model, which the round trip and the before-run share."""
    key = _base_input(context) | _search_part(context.recipe)
    made_of, of, index = context.cache.get("base index", (None, None, None))
    if made_of != key or of is not corpus:
        index = _dense(context, "base", context.recipe.training.base, corpus)
        context.cache["base index"] = key, corpus, index
    return index


def _dense(context: Context, name: str, model: str, corpus: Corpus) -> Dense:
    part = context.recipe.training
    encoder = load_encoder(model, max_seq_length=part.max_seq_length)
    with context.progress(f"encoding with the {name} model", len(corpus)) as advance:
        return Dense(corpus, encoder, part.query_prompt, part.document_prompt, progress=advance)


def _read_corpus(context: Context) -> Corpus:
    path = context.stage_folder("corpus") / "corpus.jsonl"
    key = path.stat().st_ino, path.stat().st_mtime_ns
    if context.cache.get("corpus", (None,))[0] != key:
        context.cache["corpus"] = key, read_corpus(path)
    return context.cache["corpus"][1]


def _search_part(recipe: Recipe) -> dict[str, Any]:
    return recipe.training.model_dump(include={"max_seq_length", "query_prompt", "document_prompt"})


def _pairs_part(recipe: Recipe) -> list[Any]:
    part: list[Any] = [recipe.filters.model_dump(exclude={"judge": {"llm"}}), recipe.split.model_dump(), recipe.labelled and recipe.labelled.share]
    if _filter_is_dense(recipe):
        part.append(_search_part(recipe))
    if recipe.filters.judge:
        judging = _judging(recipe)
        part.append([llm_identity(judging), uses_chat(judging), judging.llm.budget and str(judging.llm.budget)])
    return part


def _pairs_inputs(context: Context) -> dict[str, str]:
    inputs = _base_input(context) if _filter_is_dense(context.recipe) else {}
    if check := context.recipe.filters.cross_encoder:
        folder = Path(resolve_encoder(check.model))
        inputs["cross_encoder"] = sha256_tree(folder) if folder.is_dir() else f"hub:{check.model}"
    return inputs


def _filter_is_dense(recipe: Recipe) -> bool:
    part = recipe.filters
    return part.near_duplicates is not None or (part.round_trip is not None and part.round_trip.retriever != "bm25")


def _queries_part(recipe: Recipe) -> dict[str, Any]:
    asked = [s.model_dump(exclude={"pool"}) for s in recipe.queries.all_strategies()]
    return {"seed": recipe.queries_seed, "documents": recipe.queries.documents, "strategies": asked, "llm": llm_identity(recipe), "chat": uses_chat(recipe), "budget": recipe.llm.budget and str(recipe.llm.budget)}


def _evaluation_part(recipe: Recipe) -> list[Any]:
    return [_search_part(recipe), recipe.evaluation.split, recipe.evaluation.unknown_documents]


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in the order in which they run."""
    if recipe.evaluation.data is not None:
        return STAGES
    # the queries to compare on are the run's own
    own = {s.name: replace(s, needs=(*s.needs, "pairs")) if s.name in ("before", "after") else s for s in STAGES}
    return tuple(own[name] for name in ("corpus", "queries", "pairs", "before", "negatives", "model", "after"))


STAGES = (
    Stage("corpus", 1, _corpus, part=lambda r: r.corpus.model_dump(exclude={"source"}), inputs=_corpus_inputs, seeded=False),
    # before anything is paid for: it needs no query, and finds qrels and a base model that do not fit
    Stage("before", 1, _before, needs=("corpus",), part=lambda r: [_evaluation_part(r), r.evaluation.bm25], inputs=lambda c: _base_input(c) | _evaluation_inputs(c), shared=True, seeded=False),
    Stage(
        "queries", 3, _queries, needs=("corpus",), inputs=lambda c: {f"pool of {s.name}": sha256_file(Path(s.pool)) for s in c.recipe.queries.all_strategies()} | _labelled_inputs(c),
        part=_queries_part, seeded=False,
    ),
    Stage(
        "pairs", 3, _pairs, needs=("corpus", "queries"), shared=True,
        part=_pairs_part, inputs=_pairs_inputs,
    ),
    Stage("negatives", 2, _negatives, needs=("corpus", "pairs"), part=lambda r: [r.negatives.model_dump(), r.split.model_dump()]),
    Stage("model", 1, _model, needs=("corpus", "pairs", "negatives"), part=lambda r: [r.training.model_dump(exclude={"base"}), r.negatives.per_query], inputs=_base_input, shared=True),
    Stage("after", 1, _after, needs=("corpus", "model"), part=_evaluation_part, inputs=_evaluation_inputs, shared=True, seeded=False),
)  # fmt: skip


def read_scores(context: Context, stage: str, name: str) -> dict[str, dict[str, float]] | None:
    """Metric to query to value, as a stage wrote it; None where there is no such file."""
    path = context.stage_folder(stage) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
