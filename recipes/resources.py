"""What a stage is lent: models, LLMs, and how to tell the person what goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sharpen.evaluation.models import Models
from sharpen.evaluation.partitions.kept import Partitions
from sharpen.evaluation.partitions.local import LocalEngine
from sharpen.evaluation.partitions.ray_engine import RayEngine
from sharpen.evaluation.partitions.settings import EngineSettings
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.tables import printable
from sharpen.sdg.llm.settings import LLM
from sharpen.sdg.reranking.reranker import llm_scorers
from sharpen.sdg.resources import Resources

PARTITIONS = ".partitions"
"""Of the folder of runs: vectors, scores and answers that an engine has computed."""
INDEXES = ".indexes"
"""Of a run's folder: indexes that its stages and processes share. They can be made again at any time."""


def resources_of(
    recipe: Recipe,
    console: Console,
    cache: dict | None = None,
    remember_scores: bool = False,
    folder: Path | None = None,
) -> Resources:
    """The resources of a recipe's run. ``cache``: what earlier runs of this program left in memory. ``folder``: the
    run's, in which indexes are kept (default: in memory)."""
    progress, journal = partial(show_progress, console), recipe.journal_file

    def warn(sentence: str) -> None:
        console.print(f"[yellow]![/] {escape(sentence)}", highlight=False, soft_wrap=True)

    llm = LLM(settings=recipe.llm, journal=journal, say=warn) if recipe.llm else None
    resources = Resources(llm=recipe.llm, journal=journal, progress=progress, warn=warn)
    spending = resources.spending(recipe.llm) if recipe.llm else None
    resources.models = Models(
        recipe.training.encoder,
        precision=recipe.training.precision,
        progress=progress,
        cache={} if cache is None else cache,
        remember_scores=remember_scores,
        scorers=llm_scorers(llm, recipe.llm_reranker, progress, warn, spending) if llm else {},
        indexes=folder / INDEXES if folder else None,
        partitions=partitions_of(recipe.engine, Path(recipe.runs)) if recipe.engine else None,
    )
    return resources


def partitions_of(settings: EngineSettings, runs: Path) -> Partitions:
    """The engine with the folder of what it has computed, which all runs share."""
    folder = (Path(settings.folder) if settings.folder else runs / PARTITIONS).absolute()  # workers are elsewhere
    engine = RayEngine(settings, folder) if settings.kind == "ray" else LocalEngine()
    return Partitions(engine, folder, settings.rows)


@contextmanager
def show_progress(console: Console, label: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar with rate and time left; nothing where there is no terminal. Yields ``advance(n=1, note="")``."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),  # an answer of an LLM, in which [/] closes nothing
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )
    started = time.monotonic()
    with bar:
        task = bar.add_task(label, total=total, rate="", note="")

        def advance(n: int = 1, note: str = "") -> None:
            bar.advance(task, n)
            rate = bar.tasks[0].completed / (time.monotonic() - started + 1e-9)
            bar.update(task, rate=f"{rate:.1f}/s", note=printable(note))

        yield advance
