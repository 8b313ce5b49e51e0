"""Queries: what the LLM is asked for, and the real ones that are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, Query, chunks_by_document, write_queries
from sharpen.evaluation.datasets import read_judged
from sharpen.evaluation.files import InputError, write_json, write_jsonl
from sharpen.evaluation.retrievers.base import RUN_DEPTH
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.recipes.engine import Context
from sharpen.recipes.llm import llm_identity, open_llm, uses_chat
from sharpen.recipes.load import read_pool
from sharpen.recipes.schema.recipe import Recipe, StrategyPart
from sharpen.recipes.stages.comparison import evaluation_inputs, judged_inputs
from sharpen.recipes.stages.corpus import read_own_corpus
from sharpen.sdg.llm.client import OVER_BUDGET
from sharpen.sdg.queries import LABELLED, generate_queries, query_key, sample_documents
from sharpen.sdg.strategies.base import MIN_WORDS, OF_QUERIES, Example, Strategy
from sharpen.sdg.strategies.multi_hop import Bundle

ARTIFACTS_TOKENS = 500
"""Of an answer that lists artifacts, at most."""


def make_queries(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus = read_own_corpus(context)
    labelled, left_out = labelled_queries(recipe, corpus)
    if not recipe.generates:
        write_queries(folder / "queries.jsonl", labelled)
        write_jsonl(folder / "rejected.jsonl", [])
        write_json(folder / "strategies.json", {})
        return {"asked": 0, "kept": 0, "rejected": {}, "labelled": len(labelled), "labelled_left_out": left_out}
    documents = sample_documents(list(corpus.values()), recipe.queries.documents, recipe.queries_seed)
    if not documents:
        raise InputError(
            f"{recipe.corpus.source}: no document has the {MIN_WORDS} words, separated by blanks, that a query is"
            " written from"
        )
    chosen = strategies(recipe)
    # bundles take long to find: for the bar it is enough to know about how many there are
    prompts = sum(
        (
            2 * len(documents[: s.documents]) // s.bundle.documents
            if s.kind == "multi_hop"
            else sum(1 for _ in s.units(documents))
        )
        for s in chosen
        if s.kind not in OF_QUERIES
    )
    with context.progress("writing queries", prompts) as advance, open_llm(recipe) as llm:
        tell = lambda answer: advance(note=answer.text.strip().split("\n")[0][:60])  # noqa: E731
        generated = generate_queries(
            documents,
            llm,
            chosen,
            recipe.queries_seed,
            warm_up=recipe.llm.embedded is not None,
            progress=tell,
            corpus=corpus,
            given=labelled,
        )
    counts = generated.counts() | (
        {"labelled": len(labelled), "labelled_left_out": left_out} if recipe.labelled else {}
    )
    if recipe.llm.prices:
        counts["money"] = str(llm.spending)
    if unpaid := counts["rejected"].get(OVER_BUDGET):
        context.console.print(
            f"[yellow]llm.budget[/]: {unpaid:,} queries were not asked for ({llm.spending}); the run goes on with the"
            f" {counts['kept']:,} that were kept. Raise it and run again to get the rest.",
            highlight=False,
            soft_wrap=True,
        )
    if not generated.kept:
        first = f" The first was {generated.rejected[0]['text'][:200]!r}." if generated.rejected else ""
        raise InputError(
            f"llm: none of the {counts['asked']} queries asked for was usable: {counts['rejected']}.{first} Try another"
            " model, or another queries.task and queries.pool"
        )
    write_queries(folder / "queries.jsonl", labelled + generated.kept)
    write_jsonl(folder / "rejected.jsonl", generated.rejected)
    write_json(folder / "strategies.json", {name: vars(tally) for name, tally in generated.tallies.items()})
    if generated.first_steps:
        write_jsonl(folder / "first_steps.jsonl", generated.first_steps)
    return counts


def queries_part(recipe: Recipe) -> dict[str, Any]:
    asked = [s.model_dump(exclude={"pool"}) for s in recipe.queries.all_strategies()]
    return {
        "seed": recipe.queries_seed,
        "documents": recipe.queries.documents,
        "strategies": asked,
        "llm": llm_identity(recipe),
        "chat": uses_chat(recipe),
        "budget": recipe.llm.budget and str(recipe.llm.budget),
    }


def strategies(recipe: Recipe) -> list[Strategy]:
    """The recipe's query strategies, with their pools read. Raises ``InputError`` for a pool that is none."""
    return [_strategy(part, uses_chat(recipe)) for part in recipe.queries.all_strategies()]


def _strategy(part: StrategyPart, chat: bool) -> Strategy:
    pool = read_pool(Path(part.pool), part.kind == "multi_hop")
    if part.kind == "question_answer" and (silent := [e for e in pool if not e.answers]):
        raise InputError(
            f"{part.pool}: strategy {part.name} asks for answers, and {len(silent)} of {len(pool)} examples have none;"
            " give each example answer, or answers"
        )
    strategy = Strategy(
        task=part.task,
        pool=pool,
        kind=part.kind,
        name=part.name,
        count=part.queries,
        samples=part.per_document,
        examples=part.examples_per_prompt,
        group=part.examples_group,
        max_words=part.max_document_words,
        chat=chat,
        form=part.form,
        parameters={"temperature": part.temperature, "top_p": part.top_p, "max_tokens": part.max_tokens}
        | ({"extra_body": part.extra_body} if part.extra_body else {}),
        fields=part.fields,
        sentences=part.sentences,
        language=part.language,
        typos=part.typos,
        documents=part.documents,
    )
    if part.kind == "multi_hop":
        first = replace(
            strategy,
            kind="artifacts",
            name="artifacts",
            parameters=strategy.parameters | {"max_tokens": ARTIFACTS_TOKENS},
        )
        return replace(strategy, first=first, bundle=Bundle(**part.bundle.model_dump()))
    if part.kind == "back_translation":
        back = [Example(query, (example.document,)) for example in strategy.pool for query in example.queries]
        return replace(strategy, first=replace(strategy, name="translation"), pool=back)
    return strategy


def labelled_queries(recipe: Recipe, corpus: Corpus) -> tuple[list[Query], dict[str, int]]:
    """The real queries that the recipe trains on, too, and how many were left out by reason.

    A label of a document that was cut goes to the chunk that BM25 ranks first for the query, or to the first one.
    Raises ``InputError`` if none is left.
    """
    part = recipe.labelled
    if part is None:
        return [], {}
    chunks = chunks_by_document(corpus)
    queries, qrels = read_judged(
        part.data, part.split, None if part.unknown_documents == "drop" else set(corpus) | set(chunks)
    )
    asked = evaluated_keys(recipe)
    relevant = {
        q: [d for d, grade in grades.items() if grade > 0 and (d in corpus or d in chunks)]
        for q, grades in qrels.items()
    }
    chosen = {q: ids for q, ids in relevant.items() if ids and query_key(queries[q].text) not in asked}
    cut = {q: queries[q].text for q, ids in chosen.items() if any(d not in corpus for d in ids)}
    found = BM25(corpus).search(cut, min(len(corpus), 10 * RUN_DEPTH)) if cut else {}
    best = lambda q, d: d if d in corpus else max((c.id for c in chunks[d]), key=lambda chunk: found[q].get(chunk, 0.0))  # noqa: E731
    kept = [
        Query(
            f"labelled-{q}",
            queries[q].text,
            {"positives": list(dict.fromkeys(best(q, d) for d in ids)), "strategy": LABELLED},
        )
        for q, ids in chosen.items()
    ]
    none = sum(not ids for ids in relevant.values())
    if not kept:
        raise InputError(
            f"labelled: {part.data}, split {part.split}: no query is left of {len(qrels)}: {none} have no relevant"
            f" document in the corpus, {len(qrels) - none} are evaluated on"
        )
    return kept, {"no relevant document": none, "evaluated on": len(qrels) - none - len(kept)}


def labelled_inputs(context: Context) -> dict[str, str]:
    part = context.recipe.labelled
    return (
        {f"labelled/{name}": digest for name, digest in judged_inputs(part.data, part.split).items()}
        | evaluation_inputs(context)
        if part
        else {}
    )


def evaluated_keys(recipe: Recipe) -> set[str]:
    """What the queries that the recipe compares on are recognised by, whatever their IDs."""
    part = recipe.evaluation
    if part.data is None:
        return set()
    queries, qrels = read_judged(part.data, part.split)
    return {query_key(queries[q].text) for q in qrels}
