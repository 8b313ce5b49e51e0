"""Looking before and after: what a recipe's queries will cost, what a few of them are like, and what became of a
run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sharpen.evaluation.beir import Corpus, Document, chunks_by_document, read_corpus, read_queries
from sharpen.evaluation.encoders.load import resolve_encoder
from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.recipes.engine import Context
from sharpen.recipes.llm import open_journal, open_llm, prices_of
from sharpen.recipes.load import load_recipe
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.comparison import read_evaluation
from sharpen.recipes.stages.corpus import cut_corpus
from sharpen.recipes.stages.queries import labelled_queries, strategies
from sharpen.sdg.diagnose import KINDS, Labelled, Profile, drift, profile, win_rates
from sharpen.sdg.estimate import Estimate, estimate
from sharpen.sdg.queries import generate_queries, sample_documents
from transformers import AutoTokenizer

BORDERLINE = 12
"""Pairs shown of each kind."""


def estimate_recipe(recipe: Recipe, console: Console) -> list[Estimate]:
    """Print calls, tokens, money and hours by strategy, without asking the LLM anything."""
    corpus = cut_corpus(recipe)
    documents = sample_documents(list(corpus.values()), recipe.queries.documents, recipe.queries_seed)
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(recipe.training.base), trust_remote_code=False)
    count_tokens = lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])  # noqa: E731
    with open_journal(recipe) as known:
        rows = (
            []
            if not recipe.generates
            else estimate(
                strategies(recipe),
                documents,
                recipe.queries_seed,
                count_tokens,
                known,
                corpus=corpus,
                given=len(labelled_queries(recipe, corpus)[0]),
            )
        )
    prices = prices_of(recipe.llm)
    concurrency = 1 if recipe.llm.embedded else sum(e.concurrency for e in recipe.llm.remote())
    view = _numbers("strategy", "calls", "prompt tokens", "answer tokens", "money", "at most", "hours")
    total_calls, total, most, hours = 0, Decimal(0), Decimal(0), 0.0
    for row in rows:
        took = None if row.seconds is None else row.calls * row.seconds / concurrency / 3600
        total_calls, total, most, hours = (
            total_calls + row.calls,
            total + row.cost(prices),
            most + row.cost_at_most(prices),
            hours + (took or 0),
        )
        view.add_row(
            row.strategy,
            f"{row.calls:,}",
            f"{row.calls * row.prompt_tokens:,.0f}",
            f"{row.calls * row.completion_tokens:,.0f}",
            prices.show(row.cost(prices)),
            prices.show(row.cost_at_most(prices)),
            "?" if took is None else f"{took:.2f}",
        )
    view.add_section()
    view.add_row(
        "all",
        f"{total_calls:,}",
        "",
        "",
        prices.show(total),
        prices.show(most),
        "?" if any(r.seconds is None for r in rows) else f"{hours:.2f}",
    )
    console.print(view)
    if measured := sum(row.measured for row in rows):
        console.print(
            f"Tokens and hours from {measured} answers in the journal, at {concurrency}"
            f" request{'s' * (concurrency > 1)} under way.",
            highlight=False,
        )
    if any(not row.measured for row in rows):
        console.print(
            "Tokens counted with the encoder's tokenizer where nothing was asked yet; LLMs' own differ by a tenth or"
            " two. `sharpen preview` asks a few of the same prompts, after which hours are known, too.",
            highlight=False,
            soft_wrap=True,
        )
    if recipe.llm.prices is None:
        console.print(
            "No llm.prices in the recipe ({input, output}, money for a million tokens): money is counted as 0.",
            highlight=False,
            markup=False,
        )
    elif recipe.llm.budget is not None and total > recipe.llm.budget:
        console.print(
            f"That is more than the budget of {prices.show(recipe.llm.budget)}: the run will go on with what that"
            " buys.",
            highlight=False,
        )
    return rows


def preview_recipe(recipe: Recipe, console: Console, documents: int = 20) -> None:
    """Write queries for the first ``documents`` documents that the run would take, and print them beside the text.

    The answers are in the journal, so the run will not ask for them again.
    """
    corpus = cut_corpus(recipe)
    chosen = sample_documents(list(corpus.values()), documents, recipe.queries_seed)
    with open_llm(recipe) as llm:
        generated = generate_queries(
            chosen,
            llm,
            strategies(recipe),
            recipe.queries_seed,
            warm_up=recipe.llm.embedded is not None,
            corpus=corpus,
            given=labelled_queries(recipe, corpus)[0][:documents],
        )
    written: dict[str, list[str]] = {}
    for query in generated.kept:
        written.setdefault(query.metadata["positives"][0], []).append(
            f"[green]✓[/] {escape(query.text)} [dim]{query.metadata['strategy']}[/]"
        )
    for row in generated.rejected:
        written.setdefault(row["document"], []).append(
            f"[red]✗[/] {escape(_short(row['text'], 15))} [dim]{row['strategy']}: {escape(row['reason'])}[/]"
        )
    view = Table("document", "queries", show_lines=True)
    others = [
        corpus[i] for i in written if i not in {d.id for d in chosen}
    ]  # fellows in a bundle, and what real queries are about
    for document in [*chosen, *others]:
        view.add_row(
            f"[bold]{escape(document.id)}[/]\n{escape(_short(document.content, 40))}",
            "\n".join(written.get(document.id, ["[dim]none[/]"])),
        )
    console.print(view)
    counts = generated.counts()
    console.print(
        f"{counts['kept']} of {counts['asked']} kept. {llm.spending}. Filters of the recipe (the round trip and others)"
        " come later.",
        highlight=False,
    )


def inspect_run(
    folder: Path, console: Console, strategy: str | None = None, reason: str | None = None, number: int = BORDERLINE
) -> None:
    """Print accepted, borderline and rejected pairs of a run, and how many there are by strategy and reason.

    Borderline are those that a filter with a number rejected narrowly. ``strategy``, ``reason``: only those with this
    name, and with this text in the reason. Raises ``InputError`` if the run has no pairs yet.
    """
    pairs, made = folder / "pairs", folder / "queries"
    if not (pairs / "queries.jsonl").exists():
        raise InputError(f"{folder}: no pairs there yet; give the folder of a run, like runs/quickstart")
    corpus = read_corpus(pairs / "corpus.jsonl")
    kept = [
        {
            "query": q.id,
            "text": q.text,
            "document": q.metadata["positives"][0],
            "strategy": q.metadata["strategy"],
            "reason": _scored(q.metadata),
        }
        for q in read_queries(pairs / "queries.jsonl").values()
    ]
    dropped = [
        {"strategy": "unknown"} | row
        for path in (pairs / "rejected.jsonl", made / "rejected.jsonl")
        for _, row in read_jsonl(path)
    ]

    def chosen(row):
        return (strategy is None or row["strategy"] == strategy) and (
            reason is None or reason.lower() in row["reason"].lower()
        )

    kept, dropped = (
        [r for r in kept if strategy is None or r["strategy"] == strategy],
        [r for r in dropped if chosen(r)],
    )
    if strategy and not kept and not dropped:
        raise InputError(f"{folder}: no query of a strategy named {strategy!r}")
    narrow = [row for row in dropped if _narrowly(row)]
    counts = _numbers("strategy", "accepted", "rejected", "of these borderline")
    for name in sorted({row["strategy"] for row in kept + dropped}):
        counts.add_row(name, *(f"{sum(row['strategy'] == name for row in rows):,}" for rows in (kept, dropped, narrow)))
    console.print(counts)
    reasons = _numbers("reason", "queries")
    for text, n in Counter(row["reason"] for row in dropped).most_common():
        reasons.add_row(escape(text), f"{n:,}")
    console.print(reasons)
    far = [row for row in dropped if not _narrowly(row)]
    for title, rows in (("Accepted", kept), ("Borderline", narrow), ("Rejected", far)):
        view = Table(
            "query", "document", "why", title=f"{title} ({len(rows):,})", show_lines=True, title_justify="left"
        )
        step = max(1, len(rows) // number)  # spread over the whole, the same ones each time
        for row in rows[::step][:number]:
            view.add_row(
                escape(_short(row["text"], 30)),
                escape(_document(corpus, row["document"])),
                escape(f"{row['strategy']}: {row['reason']}{_detail(row)}"),
            )
        console.print(view)


def _numbers(first: str, *others: str) -> Table:
    """A table whose columns but the first one hold numbers."""
    view = Table(first)
    for name in others:
        view.add_column(name, justify="right")
    return view


def diagnose_run(folder: Path, console: Console, against: list[Path], split: str | None = None) -> list[str]:
    """Compare a run's generated queries with the real ones of its evaluation data, and print in what they differ.

    ``against``: other runs, whose queries are compared by closeness to the real ones, too. ``split``: of the evaluation
    data (default: the recipe's). Returns the warnings. Raises ``InputError`` if the run has no queries or no real ones.
    """
    recipe = load_recipe(str(folder / "recipe.yaml")).recipe
    if recipe.evaluation.data is None:
        raise InputError(f"{folder}: its recipe has no evaluation.data, so there are no real queries to compare with")
    recipe = recipe.model_copy(
        update={
            "runs": str(folder.parent),
            "name": folder.name,
            "evaluation": recipe.evaluation.model_copy(update={"split": split or recipe.evaluation.split}),
        }
    )
    task = read_evaluation(Context(recipe, console))
    chunks = chunks_by_document(task.corpus)
    # people label documents, and queries are written from their chunks
    relevant = {
        q: [c.id for d, grade in grades.items() if grade > 0 for c in chunks.get(d, [])]
        for q, grades in task.qrels.items()
    }
    real = Labelled(task.texts, relevant)
    sets: dict[str, Labelled] = {}
    for place, run in enumerate((folder, *against)):
        for query in read_queries(run / "pairs" / "queries.jsonl").values():
            name = query.metadata["strategy"] if place == 0 else f"{run.name}: {query.metadata['strategy']}"
            found = sets.setdefault(name, Labelled({}, {}))
            found.texts[query.id], found.positives[query.id] = query.text, query.metadata["positives"]
    profiles = {name: profile(found, task.corpus) for name, found in sets.items()} | {
        "real": profile(real, task.corpus)
    }
    view = _numbers("", *map(escape, profiles))
    for measure, value in _MEASURES.items():
        view.add_row(measure, *map(value, profiles.values()))
    view.add_section()
    for kind in KINDS:
        view.add_row(kind, *(f"{row.kinds[kind]:.0%}" for row in profiles.values()))
    console.print(view)
    if rates := win_rates(real, sets):
        wins = _numbers("closer to the real queries (Jaccard)", "first", "second", "real queries compared on")
        for (first, second), rate in rates.items():
            wins.add_row(f"{first} or {second}", f"{rate['wins']:.0%}", f"{rate['losses']:.0%}", f"{rate['queries']:,}")
        console.print(wins)
    warnings = [
        f"{name}: {warning}"
        for name, row in profiles.items()
        if name != "real"
        for warning in drift(row, profiles["real"])
    ]
    for warning in warnings:
        console.print(f"[yellow]drift[/] {escape(warning)}", highlight=False, soft_wrap=True)
    if not warnings:
        console.print("No drift that these numbers of queries could show.", highlight=False)
    if recipe.evaluation.split == "test":
        console.print(
            "These are the test queries: to change a recipe by what they show is to tune on them; give --split.",
            highlight=False,
            soft_wrap=True,
        )
    return warnings


_MEASURES: dict[str, Callable[[Profile], str]] = {
    "queries": lambda row: f"{row.queries:,}",
    "words": lambda row: f"{row.lengths.mean():.1f}",
    "of these in the document": lambda row: f"{row.overlaps.mean():.0%}",
    "documents covered": lambda row: f"{row.coverage:.1%}",
    "duplicates": lambda row: f"{row.duplicates:.1%}",
}


def _scored(metadata: dict[str, Any]) -> str:
    scores = metadata.get("scores")
    return f"judge: overall {scores['overall']:g}" if scores else "passed"


def _narrowly(row: dict[str, Any]) -> bool:
    """Whether a little would have been enough: a rank up to twice the limit, an overall score less than a point
    below."""
    if row.get("rank"):
        return row["rank"] <= 2 * int(row["reason"].split()[-1])
    if "scores" in row:
        return row["scores"]["overall"] > float(row["reason"].split()[-1]) - 1
    if "share" in row:
        return row["share"] < 0.75
    return "similarity" in row and row["similarity"] < 0.95


def _detail(row: dict[str, Any]) -> str:
    found = {key: row[key] for key in ("rank", "share", "similarity", "score", "of") if row.get(key) is not None}
    found |= {"overall": row["scores"]["overall"]} if "scores" in row else {}
    return "".join(f"; {key} {value}" for key, value in found.items())


def _document(corpus: Corpus, doc_id: str) -> str:
    document = corpus.get(doc_id, Document(doc_id, ""))
    return f"{doc_id}: {_short(document.content, 30)}"


def _short(text: str, words: int) -> str:
    parts = text.split()
    return " ".join(parts[:words]) + (" …" if len(parts) > words else "")
