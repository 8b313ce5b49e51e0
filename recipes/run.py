"""Running a recipe from start to verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sharpen.evaluation.files import InputError, write_json, write_text
from sharpen.evaluation.null_result import explain, measurements_table
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.report.comparison import (
    Comparison,
    difference_table,
    lost_elsewhere,
    markdown_table,
    plain_sentence,
    sentence,
    table,
    text_table,
)
from sharpen.recipes.advice import advice, measurements_of
from sharpen.recipes.card import model_card
from sharpen.recipes.curves import draw_curves
from sharpen.recipes.engine import Run, made_stages, needed_for, run_stages
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.load import LoadedRecipe
from sharpen.recipes.report import Sections, train_overlaps, write_report
from sharpen.recipes.resources import resources_of
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages import check_recipe, stages_of
from sharpen.recipes.stages.tuned import TunedPart

NOTHING_AT_HAND = (
    "What was lost elsewhere was not measured: no other collection is at hand. With a network,"
    " evaluation.others=[{data: NanoNFCorpus}] measures it; [] asks for nothing."
)
RECIPE = "recipe.yaml"
RESULTS = ("metrics.json", "report.md", "report.html", RECIPE, "curves.png")
STEPS = {"generate": ("queries",), "mine": ("pairs", "negatives"), "train": ("reranker", "model")}
"""Commands that go a part of the way, each to those of these stages that the recipe has."""


def prepare_run(
    recipe: Recipe,
    console: Console,
    folder: Path | None = None,
    siblings: Sequence[Path] = (),
    cache: dict[Any, Any] | None = None,
) -> Run:
    """A recipe's run, ready for ``run_stages``.

    ``folder``: where it is (default: as the recipe says). ``siblings``: folders of other runs, whose stages are taken
    over where they are the same. ``cache``: what earlier runs of this program left in memory.
    """
    cache = {} if cache is None else cache
    resources = resources_of(recipe, console, cache, remember_scores=bool(siblings))
    return Run(folder or Path(recipe.runs) / recipe.name, stages_of(recipe), resources, console, siblings, cache)


def run_part(loaded: LoadedRecipe, console: Console, until: str, start: str | None = None) -> Run:
    """Run the stage ``until`` (or those of a command of ``STEPS``) and what it needs, as far as that is not up to date;
    ``recipe.yaml`` in the run's folder says how to go on.

    ``start``: what this stage needs is taken as it lies in the run's folder. Every process of ``accelerate launch``
    must call this. Raises ``InputError``, for stages that the recipe has not, too.
    """
    recipe = loaded.recipe
    with process_state().main_process_first():
        run = prepare_run(recipe, console)
        there = [stage.name for stage, _ in run.stages]
        names = [name for name in STEPS[until] if name in there] if until in STEPS else [until]
        wanted = needed_for(run.stages, *names)
        given = stages_before(run, start)
        if start and start not in wanted:
            raise InputError(f"--from: {start} is not needed for {', '.join(names)}")
        run.stages = [(stage, part) for stage, part in run.stages if stage.name in wanted]
        _check(recipe, run, given)
    if process_state().is_main_process:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / RECIPE, loaded.resolved_yaml)  # first: who is stopped goes on from there, too
    run_stages(run, results=[name for name in RESULTS if name != RECIPE], given=given)
    if process_state().is_main_process:
        console.print(f"\nso far   {run.folder}\nto go on: sharpen run {run.folder}", highlight=False)
    return run


def stages_before(run: Run, start: str | None) -> set[str]:
    """What the stage ``start`` needs; nothing for None."""
    return needed_for(run.stages, start) - {start} if start else set()


def _check(recipe: Recipe, run: Run, given: Collection[str]) -> None:
    """Raise ``InputError`` if what the run's stages name is not there; of those that are made it need not be."""
    left = {stage.name for stage, _ in run.stages} - set(given)
    try:
        check_recipe(recipe, left)
    except InputError:
        if not (made := made_stages(run)):
            raise
        check_recipe(recipe, left - made)


def run_recipe(
    loaded: LoadedRecipe, console: Console, run: Run | None = None, start: str | None = None
) -> Comparison | None:
    """Run what is not up to date and write ``recipe.yaml``, ``metrics.json`` and the reports into the run's folder.

    ``run``: as ``prepare_run`` gives it (default: as the recipe says). ``start``: what this stage needs is taken as it
    lies in the run's folder, by whatever recipe it was made. Every process of ``accelerate launch`` must call this; the
    comparison is returned on the first one only. Raises ``InputError``.
    """
    recipe = loaded.recipe
    with process_state().main_process_first():  # it fetches a dataset that is not there
        run = run or prepare_run(recipe, console)
        given = stages_before(run, start)
        _check(recipe, run, given)
    manifests = run_stages(run, results=RESULTS, given=given)
    run.resources.models.forget(TunedPart.of(recipe).encoder(run.inputs()))
    if not process_state().is_main_process:
        return None
    return _finish(FinishedRun(recipe, run.inputs(), manifests), loaded.resolved_yaml, console)


def _finish(run: FinishedRun, resolved_yaml: str, console: Console) -> Comparison:
    task = run.task()
    comparison = run.compare(task, ("before", "before"), ("after", "after"), bm25=run.inputs.scores("before", "bm25"))
    reranking, others, overlaps = run.reranking(task), run.others(), train_overlaps(run, task)
    comparison = comparison.model_copy(update={"caveat": lost_elsewhere(others)})
    systems = run.inputs.systems() if "systems" in run.manifests else None
    write_text(run.folder / RECIPE, resolved_yaml)
    metrics = comparison.model_dump(mode="json")
    metrics |= {"reranker": reranking.model_dump(mode="json")} if reranking else {}
    metrics |= {"others": {name: c.model_dump(mode="json") for name, c in others.items()}} if others else {}
    # without the milliseconds, which are others each time
    timed = {"systems": {"__all__": {"milliseconds"}}}
    metrics |= {"systems": systems.model_dump(mode="json", exclude=timed)} if systems else {}
    metrics["trained on"] = {name: overlap.model_dump(mode="json") for name, overlap in overlaps.items()}
    logs = {name: run.inputs.training_log(name) for name in ("training", "reranker") if name in run.manifests}
    draw_curves(logs, run.folder / "curves.png")
    sections: Sections = {"Which system to serve": [systems.sentence(), "", *systems.markdown()]} if systems else {}
    sections |= {"The reranker": [sentence(reranking), "", *markdown_table(reranking)]} if reranking else {}
    if cut := run.cut(task):
        sections["Embeddings cut to their first dimensions"] = difference_table("dimensions", cut)
    if ages := run.by_age(task):
        sections["On documents that were there before, and on new ones"] = difference_table("documents", ages)
        metrics["documents"] = {name: c.model_dump(mode="json") for name, c in ages.items()}
    if elsewhere := _elsewhere(run, others):
        sections["On other collections"] = elsewhere
    why = None
    if comparison.verdict != "better":
        measured = measurements_of(run)
        why = explain(measured, comparison)
        metrics["why"] = why.model_dump(mode="json") | {"measured": measured.model_dump(mode="json")}
        sections["Why"] = [why.markdown(), "", *measurements_table(measured, comparison)]
        sections["What to try"] = advice(run, comparison)
    write_json(run.folder / "metrics.json", metrics)
    write_report(run, comparison, task, sections, overlaps, resolved_yaml)
    model = run.inputs.folder("model")
    write_text(model / "README.md", model_card(run, comparison, others))
    write_text(model / "recipe.yaml", resolved_yaml)
    for shown in (comparison, reranking):
        if shown:
            print_comparison(shown, console)
    print_elsewhere(others.values(), console)
    if run.recipe.evaluation.others and not others:
        console.print(NOTHING_AT_HAND, highlight=False, soft_wrap=True, markup=False)
    for line in (why, systems):
        if line:
            console.print("\n" + line.plain(), highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"\nreport   {run.folder / 'report.html'}\nmodel    {model}\nmetrics  {run.folder / 'metrics.json'}",
        highlight=False,
    )
    return comparison


def _elsewhere(run: FinishedRun, others: Mapping[str, Comparison]) -> list[str]:
    """What became of the model on other collections; empty where the recipe asks for none."""
    if not others:
        return [NOTHING_AT_HAND] if run.recipe.evaluation.others else []
    lines = difference_table("collection", others)
    if lost := lost_elsewhere(others):
        lines += ["", f"{lost} A `training.base_weight` nearer to 1 keeps more of the base."]
    return lines


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The table and the verdict."""
    if console.quiet:
        return
    if console.is_terminal and console.width >= 100:
        header, rows = table(comparison)
        view = Table(*header)
        for row in rows:
            view.add_row(*row)
        console.print(view)
    else:  # a log file, or a narrow window: columns that stay in line
        for line in text_table(comparison):
            print(line, file=console.file)
    console.print("\n" + plain_sentence(comparison), highlight=False, soft_wrap=True)


def print_elsewhere(others: Iterable[Comparison], console: Console) -> None:
    """The verdicts on other collections."""
    for comparison in others:
        console.print("Elsewhere: " + plain_sentence(comparison), highlight=False, soft_wrap=True)
