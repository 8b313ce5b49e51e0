"""What a generative retriever keeps and learns when documents are added to it.

    python scripts/growing.py [--documents 30] [--grown 40] [--seeds 3] [key.path=value ...]

For each seed: trains on the first --documents of a dataset, then on --grown (those among them) in three
ways: going on from the first model with a replay of its documents' queries, going on without a replay, and anew. Prints
hit rate@1 of the questions of the old documents and of the new ones, all searched among --grown documents but for the
first model, with the seconds of training. Runs that are there are gone on with. Two minutes to four a run on a core.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from benchmarks.common import Table, as_help

RECIPE = "recipes/studies/generative/recipe.yaml"
SEED = 13
METRIC = "hit_rate@1"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=as_help(__doc__))
def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="Of all runs: key.path=value.")] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's file or name, with evaluation.data.")] = RECIPE,
    documents: Annotated[int, typer.Option(help="Of the first model.", min=1)] = 30,
    grown: Annotated[int, typer.Option(help="Of the later ones.", min=2)] = 40,
    seeds: Annotated[int, typer.Option(help="From 13 on.", min=1)] = 3,
) -> None:
    from sharpen.recipes.inputs import Inputs

    rows: dict[str, list[tuple[float | None, float | None, float]]] = {}
    for seed in range(SEED, SEED + seeds):
        given = [*(overrides or ()), f"seed={seed}"]
        first = run(recipe, f"growing-first-{seed}", documents, given)
        base = f"generative.base={first / 'model'}"
        ways = {
            "with a replay": [base, f"generative.replay={{run: {first}}}"],
            "without": [base, f"generative.replay={{run: {first}, fraction: 0}}"],
            "anew": [],
        }
        known = set(Inputs(first).corpus())
        rows.setdefault(f"the first {documents}", []).append(measured(first, known))
        for name, more in ways.items():
            folder = run(recipe, f"growing-{name.replace(' ', '-')}-{seed}", grown, [*given, *more])
            rows.setdefault(f"{grown}, {name}", []).append(measured(folder, known))
    table = Table(
        f"{METRIC} of old and new documents' questions, {seeds} seeds",
        ("trained on", "old", "by seed", "new", "by seed", "seconds of training"),
    )
    for name, values in rows.items():
        old, new, seconds = zip(*values, strict=True)
        table.row(name, *cells(old), *cells(new), f"{fmean(seconds):.0f}")


def run(recipe: str, name: str, documents: int, overrides: list[str]) -> Path:
    """The folder of a finished run."""
    from rich.console import Console

    from sharpen.recipes.load import load_recipe
    from sharpen.recipes.run import run_recipe

    loaded = load_recipe(recipe, [*overrides, f"corpus.documents={documents}", f"name={name}"])
    run_recipe(loaded, Console(stderr=True))
    return (Path(loaded.recipe.runs) / name).resolve()


def measured(folder: Path, old: set[str]) -> tuple[float | None, float | None, float]:
    """The metric of the questions of ``old`` documents and of all others, and the seconds of training."""
    from sharpen.evaluation.datasets import read_judged
    from sharpen.evaluation.metrics import evaluate
    from sharpen.evaluation.runs import read_run
    from sharpen.recipes.inputs import Inputs
    from sharpen.recipes.load import load_recipe

    settings = load_recipe(str(folder), []).recipe.evaluation
    _, qrels = read_judged(settings.data, settings.split)
    found = read_run(folder / "after" / "after.trec")
    asked = {query: judged for query, judged in qrels.items() if query in found}
    scores = evaluate(asked, found, [METRIC])[METRIC]
    parts = {True: [], False: []}
    for query, judged in asked.items():
        parts[any(document in old for document in judged)].append(scores[query])
    seconds = sum(Inputs(folder).manifest(stage)["seconds"] for stage in ("training", "model"))
    return (*(fmean(part) if part else None for part in (parts[True], parts[False])), seconds)


def cells(values: Iterable[float | None]) -> tuple[str, str]:
    """Their mean, and each."""
    there = [value for value in values if value is not None]
    return (f"{fmean(there):.3f}" if there else "", ", ".join(f"{value:.3f}" for value in there))


if __name__ == "__main__":
    app()
