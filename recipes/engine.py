"""Stages: each a function of its inputs and its part of the recipe, run once and then reused for as long as both
stay."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from sharpen.evaluation.files import InputError, atomic_folder, link_or_copy, sha256_file, write_json
from sharpen.evaluation.processes import process_state
from sharpen.recipes.schema.recipe import Recipe

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Stage:
    """``run(context, folder)`` writes its files into ``folder`` and returns counts for the manifest.

    ``version``: raise it when the same inputs would give other files. ``part``: what of the recipe the result depends
    on. ``inputs``: content hashes of what comes from outside the run. ``needs``: the stages whose files it reads.
    ``shared``: every process of ``accelerate launch`` takes part; of other stages, and of all folders, the first
    process takes care. ``seeded``: the result depends on the recipe's seed. No stage writes outside its folder.
    """

    name: str
    version: int
    run: Callable[[Context, Path], dict[str, Any]]
    part: Callable[[Recipe], Any]
    inputs: Callable[[Context], dict[str, str]] = lambda _context: {}
    needs: tuple[str, ...] = ()
    shared: bool = False
    seeded: bool = True
    goes_on: bool = False


@dataclass
class Context:
    """What a stage may know: the recipe, where the run's folder is and how to tell the person what goes on."""

    recipe: Recipe
    console: Console
    cache: dict[str, Any] = field(default_factory=dict)
    """What one stage read and the next one needs again, kept in memory."""
    work: Path | None = None
    """Where a stage that goes on after it was killed keeps what it has so far."""
    place: Path | None = None
    """The run's folder, where it is another than the recipe says."""
    siblings: Sequence[Path] = ()
    """Folders of other runs, whose stages are taken over where they are the same."""

    @property
    def folder(self) -> Path:
        return self.place or Path(self.recipe.runs) / self.recipe.name

    def stage_folder(self, name: str) -> Path:
        return self.folder / name

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        return show_progress(self.console, label, total)


@contextmanager
def show_progress(console: Console, label: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar with rate and time left; nothing where there is no terminal. Yields ``advance(n=1, note="")``."""
    rate = TextColumn("{task.fields[rate]}")
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        rate,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )
    started = time.monotonic()
    with bar:
        task = bar.add_task(label, total=total, rate="", note="")

        def advance(n: int = 1, note: str = "") -> None:
            bar.advance(task, n)
            done = bar.tasks[0].completed
            bar.update(task, rate=f"{done / (time.monotonic() - started + 1e-9):.1f}/s", note=note)

        yield advance


def run_stages(stages: Sequence[Stage], context: Context, results: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Run the stages that are not up to date and return every manifest by stage name.

    A stage is up to date if its manifest has the fingerprint that it would get now and its files have the sums in the
    manifest. Stages that run replace their folder at the end of it, whole. ``results``: files of the run's folder that
    are made from the stages; they are removed before the first one that runs, as they would speak of another run.
    Raises ``InputError`` if another process is at work in the same run's folder.
    """
    state = process_state()
    manifests: dict[str, dict[str, Any]] = {}
    with _lock(context.folder) if state.is_main_process else _nothing(), few_full_collections():
        for stage in stages:
            folder = context.stage_folder(stage.name)
            decision = None
            if state.is_main_process:
                fingerprint = _fingerprint(stage, context, manifests)
                decision = (
                    fingerprint,
                    _up_to_date(folder, fingerprint["sha256"])
                    or _taken_over(stage, context, folder, fingerprint["sha256"]),
                )
            fingerprint, manifest = from_main(decision)
            if manifest is None:
                for name in results if state.is_main_process else ():
                    (context.folder / name).unlink(missing_ok=True)
                manifest = _run(stage, context, folder, fingerprint)
                context.console.print(
                    f"[green]✓[/] {stage.name:10} {_summary(manifest)}", highlight=False, soft_wrap=True
                )
            else:
                context.console.print(f"[dim]✓ {stage.name:10} unchanged, reused[/]", highlight=False)
            manifests[stage.name] = manifest
    return manifests


@contextmanager
def few_full_collections() -> Iterator[None]:
    """Let Python look through all its objects for rubbish a hundred times more rarely, and through new ones as often as
    ever.

    The millions of objects of a large corpus are looked through in vain, which takes a tenth of the time and more with
    more of them.
    """
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], 100 * before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _run(stage: Stage, context: Context, folder: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    state = process_state()
    manifest = None
    works = folder.parent / f".{folder.name}.work"
    context.work = works / fingerprint["sha256"][:16] if stage.goes_on else None
    if state.is_main_process and works.exists():
        for other in works.iterdir():  # of other inputs or settings
            if other != context.work:
                shutil.rmtree(other)
    started, clock = datetime.now(UTC), time.monotonic()
    if state.is_main_process:
        with atomic_folder(folder) as partial:
            counts = stage.run(context, partial)
            outputs = {
                p.relative_to(partial).as_posix(): sha256_file(p) for p in sorted(partial.rglob("*")) if p.is_file()
            }
            seconds = round(time.monotonic() - clock, 2)
            manifest = {
                "stage": stage.name,
                "fingerprint": fingerprint,
                "counts": counts,
                "started": started.isoformat(timespec="seconds"),
                "seconds": seconds,
                "outputs": outputs,
            }
            write_json(partial / MANIFEST, manifest)
    elif stage.shared:
        stage.run(context, folder.parent / f".{folder.name}.partial")
    manifest = from_main(manifest)
    if state.is_main_process:
        shutil.rmtree(works, ignore_errors=True)
    return manifest


def _fingerprint(stage: Stage, context: Context, manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    parts = {
        "version": stage.version,
        "seed": context.recipe.seed if stage.seeded else None,
        "part": stage.part(context.recipe),
        "inputs": (
            stage.inputs(context)
            | {f"{name}/{file}": digest for name in stage.needs for file, digest in manifests[name]["outputs"].items()}
        ),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    # the part itself stays out: it may hold what an environment variable stood for, and recipe.yaml says it anyhow
    return {"sha256": digest, "version": stage.version, "inputs": parts["inputs"]}


def _up_to_date(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same = manifest["fingerprint"]["sha256"] == fingerprint and all(
            sha256_file(folder / file) == digest for file, digest in manifest["outputs"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not a manifest: run the stage
        return None
    return manifest if same else None


def _taken_over(stage: Stage, context: Context, folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The stage of another run with the same fingerprint, linked into this one's folder (copied where the file system
    cannot)."""
    for sibling in context.siblings:
        source = sibling / stage.name
        if sibling != context.folder and (manifest := _up_to_date(source, fingerprint)):
            with atomic_folder(folder) as partial:
                for name in (*manifest["outputs"], MANIFEST):
                    link_or_copy(source / name, partial / name)
            return manifest
    return None


def _summary(manifest: dict[str, Any]) -> str:
    counts = ", ".join(
        f"{value:,} {key.replace('_', ' ')}" for key, value in manifest["counts"].items() if isinstance(value, int)
    )
    return f"{counts}  [dim]{manifest['seconds']:.0f} s[/]"


def from_main(value: Any) -> Any:
    """The first process's value, on every process; the others wait for it here."""
    if process_state().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout:
        raise InputError(
            f"{folder}: another process is at work in this run; wait for it, or give this one another name (name=...)"
        ) from None


@contextmanager
def _nothing() -> Iterator[None]:
    yield
