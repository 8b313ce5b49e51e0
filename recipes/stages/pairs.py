"""Pairs: what of the queries passes the filters, and where it goes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, Queries, Query, Run, read_qrels, read_queries, write_qrels, write_queries
from sharpen.evaluation.files import InputError, link_or_copy, write_json, write_jsonl
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import RUN_DEPTH
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.runs import fuse
from sharpen.recipes.engine import Context, from_main
from sharpen.recipes.llm import llm_identity, open_llm, uses_chat
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.comparison import base_index, base_input, model_digest, own_split, search_part
from sharpen.recipes.stages.corpus import read_own_corpus
from sharpen.sdg.filters import rejection
from sharpen.sdg.filters.cross_encoder import cross_encoder
from sharpen.sdg.filters.duplicates import near_duplicates
from sharpen.sdg.filters.judge import judge
from sharpen.sdg.filters.round_trip import round_trip
from sharpen.sdg.filters.text import copying
from sharpen.sdg.queries import LABELLED
from sharpen.sdg.split import near_duplicate_documents, split_documents, split_queries, write_split


def make_pairs(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus = read_own_corpus(context)
    queries = list(read_queries(context.stage_folder("queries") / "queries.jsonl").values())
    labelled = [q for q in queries if q.metadata["strategy"] == LABELLED]
    generated = [q for q in queries if q.metadata["strategy"] != LABELLED]
    kept, rejected, passed = _filtered(context, generated, corpus)
    together = [q.metadata["bundle"] for q in generated if "bundle" in q.metadata]
    if recipe.split.near_duplicates and recipe.split.dev + recipe.split.test:
        together += from_main(
            near_duplicate_documents(corpus, recipe.split.near_duplicates) if process_state().is_main_process else None
        )
    split = split_documents(corpus, recipe.split.dev, recipe.seed, recipe.split.test, together)
    sides = split_queries(kept, split)
    placed = {q.id for members in sides.values() for q in members}
    rejected += [
        rejection(q, "split: its documents are in several splits, or in none")
        | {
            "strategy": q.metadata["strategy"],
            "filter": "split",
        }
        for q in kept
        if q.id not in placed
    ]
    passed["split"] = dict(Counter(q.metadata["strategy"] for members in sides.values() for q in members))
    if not sides["train"] and recipe.generates:
        raise InputError(
            f"filters: no query of {len(generated)} is left to train on ({len(rejected)} were rejected:"
            f" {dict(Counter(r['reason'] for r in rejected))}, {len(sides['dev'])} are dev, {len(sides['test'])} test)."
            " Loosen that filter, or raise queries.documents; if most are dev or test, bundles or"
            " split.near_duplicates tie too many documents together"
        )
    if recipe.evaluation.data is None and not sides[own_split(recipe)]:
        raise InputError(
            f"evaluation: no query is held out to compare on. Raise split.{own_split(recipe)} or queries.documents, or"
            " give evaluation.data"
        )
    # real queries are for training: what of their documents is held out is no positive of theirs here
    real = [
        replace(q, metadata=q.metadata | {"positives": ids})
        for q in labelled
        if (ids := [i for i in q.metadata["positives"] if split[i] == "train"])
    ]
    drawn_from = len(real) + len(sides["train"])
    sides["train"] = _drawn(recipe, real, sides["train"])
    if not sides["train"]:
        raise InputError(
            f"labelled: none of {len(labelled)} queries is left to train on: the documents of all are held out"
            " (split.dev, split.test)"
        )
    if drawn_from > 2 * len(sides["train"]) and not recipe.filters.at_most:
        context.console.print(
            f"[yellow]labelled.share[/]: {len(sides['train']):,} queries are trained on, at {recipe.labelled.share:.0%}"
            f" real ones of {len(real):,}; {drawn_from - len(sides['train']):,} others are not drawn.",
            highlight=False,
            soft_wrap=True,
        )
    if not process_state().is_main_process:
        return {}
    # a BEIR folder of its own: the corpus is a link to the one beside it where the file system allows
    link_or_copy(context.stage_folder("corpus") / "corpus.jsonl", folder / "corpus.jsonl")
    write_queries(folder / "queries.jsonl", [q for members in sides.values() for q in members])
    write_split(folder / "split.jsonl", split)
    for side, members in sides.items():
        write_qrels(
            folder / "qrels" / f"{side}.tsv", {q.id: dict.fromkeys(q.metadata["positives"], 1) for q in members}
        )
    write_jsonl(folder / "rejected.jsonl", rejected)
    write_json(folder / "filters.json", passed)
    counts = {side: len(members) for side, members in sides.items() if members or side != "test"} | {
        "rejected": dict(Counter(r["reason"] for r in rejected))
    }
    if recipe.labelled:
        counts |= {
            "labelled_in_train": sum(q.metadata["strategy"] == LABELLED for q in sides["train"]),
            "labelled_held_out": len(labelled) - len(real),
        }
    return counts | ({"not_drawn": not_drawn} if (not_drawn := drawn_from - len(sides["train"])) else {})


def pairs_part(recipe: Recipe) -> list[Any]:
    part: list[Any] = [
        recipe.filters.model_dump(exclude={"judge": {"llm"}}),
        recipe.split.model_dump(),
        recipe.labelled and recipe.labelled.share,
    ]
    if _filter_is_dense(recipe):
        part.append(search_part(recipe))
    if recipe.filters.judge:
        judging = _judging(recipe)
        part.append([llm_identity(judging), uses_chat(judging), judging.llm.budget and str(judging.llm.budget)])
    return part


def pairs_inputs(context: Context) -> dict[str, str]:
    inputs = base_input(context) if _filter_is_dense(context.recipe) else {}
    if check := context.recipe.filters.cross_encoder:
        inputs["cross_encoder"] = model_digest(check.model)
    return inputs


def train_queries(context: Context) -> Queries:
    queries = read_queries(context.stage_folder("pairs") / "queries.jsonl")
    qrels = read_qrels(context.stage_folder("pairs") / "qrels" / "train.tsv")
    return {query_id: queries[query_id] for query_id in qrels}


def _drawn(recipe: Recipe, real: list[Query], generated: list[Query]) -> list[Query]:
    """The queries to train on: real and generated ones at the recipe's ratio, and at most as many as it wants."""
    share = recipe.labelled.share if recipe.labelled and real else 0.0
    total = min(
        len(generated) / (1 - share) if share < 1 else math.inf,
        len(real) / share if share else math.inf,
        recipe.filters.at_most or math.inf,
    )
    of_real = round(math.floor(total) * share)
    rng = random.Random(recipe.seed)
    chosen: set[str] = set()
    for members, number in ((generated, math.floor(total) - of_real), (real, of_real)):
        chosen.update(rng.sample(sorted(q.id for q in members), min(len(members), number)))
    return [q for q in real + generated if q.id in chosen]


def _filtered(
    context: Context, queries: list[Query], corpus: Corpus
) -> tuple[list[Query], list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Send the queries through the recipe's filters, the cheap ones first; the last result has what each let pass, by
    strategy."""
    recipe = context.recipe
    part = recipe.filters
    filters: list[tuple[str, Callable[[list[Query]], tuple[list[Query], list[dict[str, Any]]]]]] = []
    if check := part.copying:
        filters.append(("copying", lambda queries: copying(queries, corpus, check.ngram, check.max_share)))
    if near := part.near_duplicates:
        filters.append(
            (
                "near_duplicates",
                lambda queries: near_duplicates(
                    queries, base_index(context, corpus).encode_queries([q.text for q in queries]), near.threshold
                ),
            )
        )
    if trip := part.round_trip:
        filters.append(
            (
                "round_trip",
                lambda queries: round_trip(
                    queries,
                    _found(context, queries, corpus, trip.retriever, max(RUN_DEPTH, trip.top_k)),
                    corpus,
                    trip.top_k,
                ),
            )
        )
    if scored := part.cross_encoder:
        filters.append(
            ("cross_encoder", lambda queries: cross_encoder(queries, corpus, scored.model, scored.min_score))
        )
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
        runs.append(base_index(context, corpus).search(texts, depth))
    return fuse(runs) if len(runs) > 1 else runs[0]


def _judging(recipe: Recipe) -> Recipe:
    """The recipe with the judge's LLM."""
    return recipe.model_copy(update={"llm": recipe.filters.judge.llm or recipe.llm})


def _judged(context: Context, queries: list[Query], corpus: Corpus) -> tuple[list[Query], list[dict[str, Any]]]:
    part, judging = context.recipe.filters.judge, _judging(context.recipe)
    with context.progress("judging", 0) as advance, open_llm(judging) as llm:
        return judge(
            queries,
            corpus,
            llm,
            threshold=part.threshold,
            per_prompt=part.per_prompt,
            max_words=part.max_document_words,
            chat=uses_chat(judging),
            progress=lambda _answer: advance(),
        )


def _filter_is_dense(recipe: Recipe) -> bool:
    part = recipe.filters
    return part.near_duplicates is not None or (part.round_trip is not None and part.round_trip.retriever != "bm25")
