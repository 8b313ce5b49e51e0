"""In what a run's generated queries differ from real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from sharpen.evaluation.beir import chunks_by_document, read_queries
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.files import InputError
from sharpen.recipes.finished import task_of
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.tables import numbers_table
from sharpen.sdg.diagnose import KINDS, JudgedTexts, Profile, drift, profile, win_rates
from sharpen.sdg.strategies.mixed import mixture_name

_MEASURES: dict[str, Callable[[Profile], str]] = {
    "queries": lambda row: f"{row.queries:,}",
    "words": lambda row: f"{row.lengths.mean():.1f}",
    "of these in the document": lambda row: f"{row.overlaps.mean():.0%}",
    "documents covered": lambda row: f"{row.coverage:.1%}",
    "duplicates": lambda row: f"{row.duplicates:.1%}",
}


def diagnose_run(folder: Path, console: Console, against: Sequence[Path], split: str | None = None) -> list[str]:
    """Compare a run's generated queries with the real ones of its evaluation data, and print in what they differ.

    Of a mixture, the whole is compared, and each type of query is but described. ``against``: other runs, whose queries
    are compared by closeness to the real ones, too. ``split``: of the evaluation data (default: the recipe's). Returns
    the warnings. Raises ``InputError`` if the run has no queries or no real ones.
    """
    recipe = load_recipe(str(folder / "recipe.yaml")).recipe
    if recipe.evaluation.data is None:
        raise InputError(f"{folder}: its recipe has no evaluation.data, so there are no real queries to compare with")
    if split:
        recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"split": split})})
    task = task_of(recipe, Inputs(folder))
    real, (sets, types) = _real(task), _generated(folder, against)
    profiles = {name: profile(queries, task.corpus) for name, queries in (sets | types).items()}
    profiles["real"] = profile(real, task.corpus)
    _print_profiles(profiles, console)
    if rates := win_rates(real, sets):
        wins = numbers_table("closer to the real queries (Jaccard)", "first", "second", "real queries compared on")
        for (first, second), rate in rates.items():
            wins.add_row(f"{first} or {second}", f"{rate['wins']:.0%}", f"{rate['losses']:.0%}", f"{rate['queries']:,}")
        console.print(wins)
    warnings = [f"{name}: {warning}" for name in sets for warning in drift(profiles[name], profiles["real"])]
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


def _real(task: Task) -> JudgedTexts:
    """People label documents, and queries are written from their chunks."""
    chunks = chunks_by_document(task.corpus)
    relevant = {
        q: [c.id for d, grade in grades.items() if grade > 0 for c in chunks.get(d, [])]
        for q, grades in task.qrels.items()
    }
    return JudgedTexts(task.texts, relevant)


def _generated(folder: Path, against: Sequence[Path]) -> tuple[dict[str, JudgedTexts], dict[str, JudgedTexts]]:
    """The queries by strategy, those of a mixture together; and of mixtures, those of each type."""
    sets: dict[str, JudgedTexts] = {}
    types: dict[str, JudgedTexts] = {}
    for place, run in enumerate((folder, *against)):
        prefix = "" if place == 0 else f"{run.name}: "
        for query in read_queries(run / "pairs" / "queries.jsonl").values():
            strategy, mixture = query.metadata["strategy"], mixture_name(query.metadata)
            for group, name in [(sets, mixture or strategy), *([(types, strategy)] if mixture else [])]:
                queries = group.setdefault(f"{prefix}{name}", JudgedTexts({}, {}))
                queries.texts[query.id], queries.positives[query.id] = query.text, query.metadata["positives"]
    return sets, types


def _print_profiles(profiles: dict[str, Profile], console: Console) -> None:
    view = numbers_table("", *map(escape, profiles))
    for measure, value in _MEASURES.items():
        view.add_row(measure, *map(value, profiles.values()))
    view.add_section()
    for kind in KINDS:
        view.add_row(kind, *(f"{row.kinds[kind]:.0%}" for row in profiles.values()))
    console.print(view)
