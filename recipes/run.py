"""Running a recipe from start to verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sharpen.evaluation.files import InputError, write_json, write_text
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.report.comparison import Comparison, plain_sentence, table, text_table
from sharpen.evaluation.yaml_files import read_yaml
from sharpen.recipes.curves import draw_curves
from sharpen.recipes.engine import RECIPE, Run, made_stages, needed_for, run_stages
from sharpen.recipes.findings import retriever_findings
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.generative import generative_findings
from sharpen.recipes.load import LoadedRecipe
from sharpen.recipes.outcome import TOLD, told_trackers, track
from sharpen.recipes.report import train_overlaps, write_report
from sharpen.recipes.resources import resources_of
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages import check_recipe, stages_of, unused_stages
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.recipes.yaml_text import names_in

ANSWERS = tuple(f"answers/{name}" for name in ("answers.jsonl", "metrics.json", "report.md", "report.html"))
"""What ``sharpen answers`` writes: of another model's answers it would speak no more."""
FINISHED = ("metrics.json", "report.md", "report.html", "curves.png")
RESULTS = (*FINISHED, *ANSWERS, TOLD)
"""What speaks of all stages, and is removed as soon as one runs."""
TRAINED = {"training": "training", "reranker": "reranker", "model": "preferences"}
"""Stages that may have a log of a training, and what it is called."""
STEPS = {"generate": ("queries",), "mine": ("pairs", "negatives"), "train": ("reranker", "model")}
"""Commands that go a part of the way, each to those of these stages that the recipe has."""


def prepare_run(
    recipe: Recipe,
    console: Console,
    folder: Path | None = None,
    siblings: Sequence[Path] = (),
    cache: dict[Any, Any] | None = None,
    indexes: Path | None = None,
) -> Run:
    """A recipe's run, ready for ``run_stages``.

    ``folder``: where it is (default: as the recipe says). ``siblings``: folders of other runs, whose stages are taken
    over where they are the same. ``cache``: what earlier runs of this program left in memory. ``indexes``: in whose
    folder indexes are kept (default: in the run's).
    """
    cache = {} if cache is None else cache
    folder = folder or Path(recipe.runs) / recipe.name
    resources = resources_of(recipe, console, cache, remember_scores=bool(siblings), folder=indexes or folder)
    return Run(folder, stages_of(recipe), resources, console, siblings, cache)


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
        _check(loaded, run, given)
    run_stages(run, results=RESULTS, given=given, recipe=loaded.resolved_yaml, unused=unused_stages(recipe))
    if process_state().is_main_process:
        console.print(f"\nso far   {run.folder}\nto go on: sharpen run {run.folder}", highlight=False)
    return run


def stages_before(run: Run, start: str | None) -> set[str]:
    """What the stage ``start`` needs; nothing for None."""
    return needed_for(run.stages, start) - {start} if start else set()


def _check(loaded: LoadedRecipe, run: Run, given: Collection[str]) -> None:
    """Raise ``InputError`` if what the run's stages name is not there; of those that are made it need not be, unless it
    is another thing by the same name that they were made from."""
    left = {stage.name for stage, _ in run.stages} - set(given)
    try:
        check_recipe(loaded.recipe, left)
    except InputError:
        made = made_stages(run.folder, run.stages)
        if not made or _names_another(run.folder, loaded.values):
            raise
        check_recipe(loaded.recipe, left - made)


def _names_another(folder: Path, values: Mapping[str, Any]) -> bool:
    """Whether a recipe names something that is not there, in place of what the run in this folder was made from, and
    that is called alike: its sums would then be taken for this one's."""
    if not (folder / RECIPE).is_file():
        return False
    before = dict(names_in(read_yaml(folder / RECIPE)))
    return any(
        Path(name).name == Path(before.get(key, "")).name
        and not f"/{before[key]}".endswith(f"/{name}")  # beside a recipe that was carried along
        and not Path(name).expanduser().exists()
        for key, name in names_in(values)
    )


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
        _check(loaded, run, given)
    told = told_trackers(run.folder) if _is_recipe_of(run.folder, loaded.resolved_yaml) else set()
    manifests = run_stages(run, results=RESULTS, given=given, recipe=loaded.resolved_yaml, unused=unused_stages(recipe))
    if not recipe.generative:
        run.resources.models.forget(TunedPart.of(recipe).encoder(run.inputs()))
    if not process_state().is_main_process:
        return None
    if not all((run.folder / name).is_file() for name in FINISHED):
        told = set()
    return _finish(FinishedRun(recipe, run.inputs(), manifests), loaded.resolved_yaml, told, console)


def _is_recipe_of(folder: Path, resolved_yaml: str) -> bool:
    path = folder / RECIPE
    return path.is_file() and path.read_text(encoding="utf-8") == resolved_yaml


def _finish(run: FinishedRun, resolved_yaml: str, told: Collection[str], console: Console) -> Comparison:
    """``told``: the trackers that have these results already."""
    task = run.task()
    found = generative_findings(run, task) if run.recipe.generative else retriever_findings(run, task)
    comparison, overlaps = found.comparison, train_overlaps(run, task)
    metrics = comparison.model_dump(mode="json") | found.metrics
    metrics["trained on"] = {name: overlap.model_dump(mode="json") for name, overlap in overlaps.items()}
    logs = {name: run.inputs.training_log(stage) for stage, name in TRAINED.items() if run.inputs.has_log(stage)}
    draw_curves(logs, run.folder / "curves.png")
    write_json(run.folder / "metrics.json", metrics)
    write_report(run, comparison, task, found.sections, overlaps, resolved_yaml)
    model = run.inputs.folder("model")
    write_text(model / "README.md", found.card)
    write_text(model / "recipe.yaml", resolved_yaml)
    for shown in (comparison, *found.shown):
        print_comparison(shown, console)
    print_elsewhere(found.others.values(), console)
    for line in found.lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"\nreport   {run.folder / 'report.html'}\nmodel    {model}\nmetrics  {run.folder / 'metrics.json'}",
        highlight=False,
    )
    track(run, found.public(), found.sections, logs, told, console)
    return comparison


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
