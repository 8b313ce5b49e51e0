"""Looking before anything is paid for: what a recipe's LLM will cost, and what a few of its queries are like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sharpen.evaluation.beir import Corpus, Document
from sharpen.evaluation.encoders.load import resolve_encoder
from sharpen.recipes.part_costs import part_costs, uncounted
from sharpen.recipes.resources import JOURNAL, resources_of
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.corpus import CorpusStage, cut_corpus
from sharpen.recipes.stages.identifiers import IdentifiersStage
from sharpen.recipes.stages.queries import QueriesStage, chosen_documents, labelled_queries, strategies_of
from sharpen.recipes.tables import numbers_table, printable, shorten
from sharpen.recipes.teacher_costs import teacher_costs
from sharpen.sdg.estimate import CostEstimate, CostEstimator
from sharpen.sdg.generated import GeneratedQueries
from sharpen.sdg.identifiers.making import estimate_identifiers
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.settings import LLMSettings, known_answers
from sharpen.sdg.queries import generate_queries
from sharpen.sdg.selecting import sample_documents
from sharpen.sdg.strategies.harvested import Harvested
from sharpen.sdg.strategies.settings import asks_llm, strategy_name
from sharpen.sdg.strategies.simulated_user import SimulatedUser


def estimate_recipe(recipe: Recipe, console: Console) -> list[CostEstimate]:
    """Print calls, tokens, money and hours of all that asks an LLM, without asking it anything. What parts ask of an
    LLM of their own has a table of its own."""
    corpus = cut_corpus(CorpusStage.of(recipe))
    documents = sample_documents(list(corpus.values()), recipe.queries.documents, recipe.queries_seed)
    rows: list[CostEstimate] = []
    strategies = recipe.queries.all_strategies() if recipe.generates else []
    asking = list(filter(asks_llm, strategies))
    labelled = len(labelled_queries(QueriesStage.of(recipe), corpus).kept) if recipe.labelled else 0
    identifiers = IdentifiersStage.of(recipe).settings if recipe.generative else None
    if asking or (identifiers and identifiers.asks_llm):
        with known_answers(recipe.llm, Path(recipe.runs) / JOURNAL) as known:
            estimator = CostEstimator(
                token_counter(recipe), known, seed=recipe.queries_seed, chat=recipe.llm.asks_by_chat
            )
            rows = estimator.estimate(asking, documents, corpus, labelled) if asking else []
            rows += estimate_identifiers(corpus, identifiers, estimator) if identifiers else []
    harvested = {
        strategy.name: len(strategy.harvest(corpus, recipe.queries_seed))
        for strategy in strategies
        if isinstance(strategy, Harvested)
    }
    notes = [f"{name}: {number:,} texts of the documents; no LLM." for name, number in harvested.items()]
    written = {strategy.name: strategy.queries for strategy in asking}
    queries = sum(row.calls * written.get(row.strategy, 0) for row in rows) + sum(harvested.values()) + labelled
    of_parts = part_costs(
        recipe,
        list(corpus.values()),
        len(corpus if harvested else documents),
        queries - labelled,
        queries,
        lambda: token_counter(recipe),
    )
    if of_parts:
        names = ", ".join(row.strategy for _, row in of_parts)
        notes.append(f"Of {names}: at most, as if all {queries:,} queries passed the filters, with all candidates.")
    if own := uncounted(recipe):
        notes.append(f"{', '.join(own)}: what a part of one's own asks of an LLM is not counted.")
    rows += [row for llm, row in of_parts if llm == recipe.llm]
    scoring = teacher_costs(recipe, list(corpus.values()), queries, lambda: token_counter(recipe))
    if scoring:
        notes.append(
            f"Of teachers: at most, as if all {queries:,} queries passed the filters and had all their negatives;"
            " what two learners ask alike is asked once. Where llm.budget does not suffice for them the run stops, and"
            " goes on when it is raised."
        )
    rows += scoring
    others: dict[str, tuple[LLMSettings, list[CostEstimate]]] = {}
    for llm, row in of_parts:
        if llm != recipe.llm:
            others.setdefault(llm.model_dump_json(), (llm, []))[1].append(row)
    if rows or not (notes or others):
        notes += print_costs(recipe, rows, console)
    for llm, of_llm in others.values():
        name = llm.embedded or llm.model
        print_costs(recipe.model_copy(update={"llm": llm}), of_llm, console, what=f"asked of {name}")
        notes += [f"{name}: {note}" for note in _money_notes(llm, of_llm)]
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return rows + [row for _, of_llm in others.values() for row in of_llm]


def preview_recipe(recipe: Recipe, console: Console, documents: int = 20) -> None:
    """Write queries for the first ``documents`` documents that the run would take, and print them beside the text.

    The answers are in the journal, so the run will not ask for them again. What is harvested is what the run harvests;
    of it, that of the same documents is printed. Where the run generates no queries, that is said, and nothing asked.
    """
    if not recipe.generates:
        console.print(
            "labelled.fraction is 1: no queries are generated, so there are none to look at, and nothing was asked.",
            highlight=False,
            soft_wrap=True,
        )
        return
    corpus = cut_corpus(CorpusStage.of(recipe))
    part, resources = QueriesStage.of(recipe), resources_of(recipe, console)
    models = resources.models
    strategies = strategies_of(recipe.queries, corpus, models)
    asking = recipe.llm and any(map(asks_llm, strategies))
    chosen = chosen_documents(part, corpus, models)[:documents]
    with resources.open_llm() if asking else nullcontext() as llm:
        generated = generate_queries(
            corpus,
            llm,
            strategies,
            seed=recipe.queries_seed,
            documents=chosen,
            labelled=labelled_queries(part, corpus, resources).kept[:documents],
        )
        spending = f" {llm.spending}." if llm else ""
    harvested = {strategy.name for strategy in strategies if not asks_llm(strategy)}
    console.print(_preview_table(generated, chosen, corpus, harvested))
    sentences = [
        f"{name}: {stats.kept:,} of {stats.asked:,} texts of all documents kept."
        for name, stats in generated.stats.items()
        if name in harvested
    ]
    if asking:
        stats = [stats for name, stats in generated.stats.items() if name not in harvested]
        sentences.append(f"{sum(s.kept for s in stats)} of {sum(s.asked for s in stats)} kept.{spending}")
    sentences.append("Filters of the recipe (the round trip and others) come later.")
    console.print(" ".join(sentences), highlight=False)


def token_counter(recipe: Recipe) -> Callable[[str], int]:
    """Counts the tokens of a text by the encoder's tokenizer, as the LLM's own is not here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(recipe.training.base), trust_remote_code=False)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def print_costs(recipe: Recipe, rows: Sequence[CostEstimate], console: Console, what: str = "strategy") -> list[str]:
    """Print the table of ``what`` asks. Returns what is to be said of it."""
    prices = (recipe.llm and recipe.llm.expected_prices) or Prices()
    concurrency = sum(e.concurrency for e in recipe.llm.remote()) if recipe.llm and not recipe.llm.embedded else 1
    view = numbers_table(what, "calls", "prompt tokens", "answer tokens", "money", "at most", "hours")
    for row in rows:
        hours = row.hours(concurrency)
        view.add_row(
            row.strategy,
            f"{row.calls:,}",
            f"{row.calls * row.prompt_tokens:,.0f}",
            f"{row.calls * row.completion_tokens:,.0f}",
            prices.show(row.cost(prices)),
            prices.show(row.cost_at_most(prices)),
            "?" if hours is None else f"{hours:.2f}",
        )
    total = sum((row.cost(prices) for row in rows), Decimal(0))
    most = sum((row.cost_at_most(prices) for row in rows), Decimal(0))
    hours = [row.hours(concurrency) for row in rows]
    in_all = "?" if None in hours else f"{sum(hours):.2f}"
    view.add_section()
    view.add_row("all", f"{sum(row.calls for row in rows):,}", "", "", prices.show(total), prices.show(most), in_all)
    console.print(view)
    return _notes(recipe, rows, concurrency)


def _notes(recipe: Recipe, rows: Sequence[CostEstimate], concurrency: int) -> list[str]:
    notes = []
    if measured := sum(row.measured for row in rows):
        requests = f"{concurrency} request{'s' * (concurrency > 1)}"
        notes.append(f"Tokens and hours from {measured} answers in the journal, at {requests} under way.")
    if any(not row.measured for row in rows):
        notes.append(
            "Tokens counted with the encoder's tokenizer where nothing was asked yet; LLMs' own differ by a tenth or"
            " two. `sharpen preview` asks a few of the same prompts, after which hours are known, too."
        )
    if sessions := [s for s in recipe.queries.strategies if isinstance(s, SimulatedUser)]:
        notes.append(
            f"{', '.join(map(strategy_name, sessions))}: counted as if no query but the last found its document; each"
            " that does saves those after it."
        )
    if recipe.queries.select == "coverage":
        notes.append(
            "queries.select: to choose the documents takes encoding all of them; this is of as many drawn at random,"
            " whose answers the journal may not have."
        )
    return notes + _money_notes(recipe.llm, rows)


def _money_notes(llm: LLMSettings | None, rows: Sequence[CostEstimate]) -> list[str]:
    if llm is None or llm.prices is None:
        return ["No llm.prices in the recipe ({input, output}, money for a million tokens): money is counted as 0."]
    total = sum((row.cost(llm.expected_prices) for row in rows), Decimal(0))
    if llm.budget is None or total <= llm.budget:
        return []
    return [
        f"That is more than the budget of {llm.prices.show(llm.budget)}: queries that it does not buy are left out, and"
        " the run stops where anything else asks for more."
    ]


def _preview_table(
    generated: GeneratedQueries, chosen: Sequence[Document], corpus: Corpus, harvested: Collection[str]
) -> Table:
    """``harvested``: strategies of which only the texts of ``chosen`` documents are shown."""
    lines: dict[str, list[str]] = {}
    known = {d.id for d in chosen}
    for query in generated.kept:
        document, strategy = query.metadata["positives"][0], query.metadata["strategy"]
        if document in known or strategy not in harvested:
            line = f"[green]✓[/] {escape(query.text)} [dim]{escape(strategy)}[/]"
            lines.setdefault(document, []).append(printable(line))
    for rejection in generated.rejected:
        if rejection.document in known or rejection.strategy not in harvested:
            reason = f"{rejection.strategy}: {rejection.message}"
            line = f"[red]✗[/] {escape(shorten(rejection.text, 15))} [dim]{escape(reason)}[/]"
            lines.setdefault(rejection.document, []).append(printable(line))
    # others of a bundle, and what real queries are about
    others = [corpus[i] for i in lines if i not in known]
    view = Table("document", "queries", show_lines=True)
    for document in [*chosen, *others]:
        text = f"[bold]{escape(document.id)}[/]\n{escape(shorten(document.content, 40))}"
        view.add_row(printable(text), "\n".join(lines.get(document.id, ["[dim]none[/]"])))
    return view
