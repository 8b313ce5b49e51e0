"""Stages: each a function of its part of the recipe and of the files it declares, run once and then reused."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import filelock
from rich.console import Console

from sharpen.evaluation.contents import Contents
from sharpen.evaluation.files import InputError, atomic_folder, link_or_copy, sha256_file, write_json, write_text
from sharpen.evaluation.processes import from_main, process_state
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.truncation import collect_truncations, truncated_counts
from sharpen.recipes.inputs import MANIFEST, SKIPPED, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.resources import Resources

Counts = dict[str, Any]
"""What a stage says of itself in its manifest."""
TRUNCATED = "truncated"
"""In a manifest that has it: what was longer than an encoder reads or a prompt shows, with lengths and limits."""
SPENT = "spent"
"""In a manifest that has it: what the stage paid to an LLM, whose budget is that of all stages together."""
ASKED = "asked"
"""In a manifest that has it: what each LLM read and wrote for the stage, in tokens, and for how much."""
RECIPE = "recipe.yaml"
"""Of a run's folder."""
UNUSED = ".unused"
"""Of a run's folder: stages that its recipe has no more, from where one that it has again is taken."""
Manifests = dict[str, dict[str, Any]]
"""Stage to manifest."""


class StagePart(Settings):
    """What of a recipe a stage depends on: what is hashed is what the stage is given, and nothing else.

    ``READS``: the stages whose files it reads, where that does not depend on the recipe.
    """

    READS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The part of a recipe. Raises ``InputError`` for files that it names and that are not as they should be."""
        raise NotImplementedError

    def reads(self) -> tuple[str, ...]:
        """The stages whose files are in the fingerprint, and which alone the stage can read."""
        return self.READS


@dataclass(frozen=True)
class Folder:
    """Where a stage writes. ``path``: an empty folder that takes its place when the stage has ended well. ``work``:
    where a resumable stage keeps what it has so far, which is there again after it was killed."""

    path: Path
    work: Path | None = None


@dataclass(frozen=True)
class Stage:
    """``run(part, inputs, folder, resources)`` writes its files into ``folder.path`` and returns counts for the
    manifest.

    ``version``: raise it when the same inputs would give other files. ``part``: see ``StagePart``. ``shared``: every
    process of ``accelerate launch`` takes part; of other stages, and of all folders, the first process takes care.
    ``resumable``: it keeps what it has in ``folder.work``. No stage writes outside of its folder.
    """

    name: str
    version: int
    part: type[StagePart]
    run: Callable[[Any, Inputs, Folder, Resources], Counts]
    shared: bool = False
    resumable: bool = False


@dataclass
class Run:
    """A recipe's run: its stages with their parts, its folder, and what it lends them.

    ``siblings``: folders of other runs, whose stages are taken over where they are the same.
    """

    folder: Path
    stages: Sequence[tuple[Stage, StagePart]]
    resources: Resources
    console: Console
    siblings: Sequence[Path] = ()
    cache: dict[Any, Any] = field(default_factory=dict)

    def inputs(self, stages: Sequence[str] | None = None) -> Inputs:
        return Inputs(self.folder, stages, self.cache)


def run_stages(
    run: Run,
    until: str | None = None,
    results: Sequence[str] = (),
    given: Collection[str] = (),
    recipe: str | None = None,
    unused: Collection[str] = (),
) -> Manifests:
    """Run the stages that are not up to date and return every manifest by stage name.

    A stage is up to date if its manifest has the fingerprint that it would get now and its files have the sums in the
    manifest. What it was made from need not be here any more: see ``sharpen.evaluation.contents``. A stage that runs
    replaces its folder at the end, whole. ``until``: the last one to run. ``results``: files of the run's folder that
    are made from the stages; they are removed before the first one that runs, as they would speak of another run.
    ``given``: stages that are taken as they lie in the folder, by whatever recipe they were made. ``recipe``: the text
    of ``recipe.yaml``, which is written before any runs, so that who is stopped can go on from there. ``unused``:
    stages that the recipe has not; what an earlier recipe had of them is put aside. Raises ``InputError`` if another
    process is at work in the same folder, or one of these is not there.
    """
    is_main = process_state().is_main_process
    manifests: Manifests = {}
    with _lock(run.folder) if is_main else nullcontext(), rare_full_collections():
        if recipe is not None and is_main:
            write_text(run.folder / RECIPE, recipe)
        if is_main:
            _put_aside(run.folder, unused, results)
        moved, missing = False, set()
        for stage, part in run.stages:
            decision = None
            if is_main and stage.name in given:
                decision = ({}, _as_it_lies(run.folder / stage.name))
            elif is_main:
                fingerprint, contents = fingerprint_here(run.folder, stage, part, manifests, moved)
                moved = contents.moved
                reused = _up_to_date(run.folder / stage.name, fingerprint["sha256"])
                if reused and (gone := set(contents.missing) - missing):
                    run.resources.warn(f"{', '.join(sorted(gone))}: not here; what was made of it before is taken")
                    missing |= gone
                decision = (fingerprint, reused or _taken_over(run, stage, fingerprint["sha256"]))
            fingerprint, manifest = from_main(decision)
            if manifest is None:
                for name in results if is_main else ():
                    (run.folder / name).unlink(missing_ok=True)
                manifest = _run(run, stage, part, fingerprint)
                run.console.print(f"[green]✓[/] {stage.name:10} {_summary(manifest)}", highlight=False, soft_wrap=True)
            else:
                run.resources.count_spent(manifest.get(SPENT, {}))
                how = "as it is" if stage.name in given else "unchanged, reused"
                run.console.print(f"[dim]✓ {stage.name:10} {how}[/]", highlight=False)
            manifests[stage.name] = manifest
            if stage.name == until:
                break
    return manifests


def made_stages(folder: Path, stages: Sequence[tuple[Stage, StagePart]]) -> set[str]:
    """Those of a run's stages that would be reused."""
    manifests: Manifests = {}
    moved = False
    for stage, part in stages:
        if set(part.reads()) <= manifests.keys():
            try:
                fingerprint, contents = fingerprint_here(folder, stage, part, manifests, moved)
            except (InputError, OSError):  # it was never made, and cannot be
                continue
            moved = contents.moved
            if manifest := _up_to_date(folder / stage.name, fingerprint["sha256"]):
                manifests[stage.name] = manifest
    return set(manifests)


def needed_for(stages: Sequence[tuple[Stage, StagePart]], *names: str) -> set[str]:
    """The stages of these names and all that they read, directly or not. Raises ``InputError`` for another name."""
    reads = {stage.name: part.reads() for stage, part in stages}
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in reads:
            raise InputError(f"no stage {name!r} in this recipe; there are {', '.join(reads)}")
        if name not in needed:
            needed.add(name)
            waiting += reads[name]
    return needed


def fingerprint_here(
    folder: Path, stage: Stage, part: StagePart, manifests: Mapping[str, dict[str, Any]], moved: bool = False
) -> tuple[dict[str, Any], Contents]:
    """``fingerprint_of``, with what the stage's manifest knows of files and models that are not here; and what it took
    from there. ``moved``: whether it is known already that the run was made elsewhere."""
    try:
        known = json.loads((folder / stage.name / MANIFEST).read_text(encoding="utf-8"))["fingerprint"]["contents"]
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    contents = Contents(known, moved)
    fingerprint = fingerprint_of(stage, part, manifests, contents)
    if contents.moved and not moved:  # what the machine is like may have been looked at before that was known
        contents = Contents(known, True)
        fingerprint = fingerprint_of(stage, part, manifests, contents)
    return fingerprint, contents


def fingerprint_of(
    stage: Stage, part: StagePart, manifests: Mapping[str, dict[str, Any]], contents: Contents
) -> dict[str, Any]:
    """The sum of all that a stage's files depend on: version, part, and the files of the stages that it reads."""
    outputs = [(name, *item) for name in part.reads() for item in manifests[name]["outputs"].items()]
    files = {f"{name}/{file}": sum_ for name, file, sum_ in outputs if file != SKIPPED}
    with contents.in_use():
        parts = {"version": stage.version, "part": part.fingerprint(), "files": files}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    # the part itself stays out: it may hold what an environment variable stood for, and recipe.yaml says it anyhow
    return {"sha256": digest, "version": stage.version, "files": files, "contents": contents.taken}


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Let Python look through all of its objects for garbage a hundred times more rarely, and through new ones as often
    as ever: the millions of objects of a large corpus are looked through in vain, which takes a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], 100 * before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _run(run: Run, stage: Stage, part: StagePart, fingerprint: dict[str, Any]) -> dict[str, Any]:
    is_main = process_state().is_main_process
    target = run.folder / stage.name
    work_folders = run.folder / f".{stage.name}.work"
    work = work_folders / fingerprint["sha256"][:16] if stage.resumable else None
    if is_main and work_folders.exists():
        for other in work_folders.iterdir():  # of other inputs or settings
            if other != work:
                shutil.rmtree(other)
    inputs = run.inputs(part.reads())
    started, clock = datetime.now(UTC), time.monotonic()
    manifest = None
    if is_main:
        with atomic_folder(target) as partial:
            before = run.resources.taken()
            with collect_truncations() as truncations:
                counts = stage.run(part, inputs, Folder(partial, work), run.resources)
            truncated = truncations.all()
            taken = {name: now - before.get(name, Counter()) for name, now in run.resources.taken().items()}
            spent = {name: f"{of['money']:f}" for name, of in taken.items() if of["money"]}
            asked = [run.resources.purses[name].row(of) for name, of in taken.items() if of]
            outputs = {
                p.relative_to(partial).as_posix(): sha256_file(p) for p in sorted(partial.rglob("*")) if p.is_file()
            }
            manifest = {
                "stage": stage.name,
                "fingerprint": fingerprint,
                "counts": counts | truncated_counts(truncated),
                **({TRUNCATED: [asdict(found) for found in truncated]} if truncated else {}),
                **({SPENT: spent} if spent else {}),
                **({ASKED: asked} if asked else {}),
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 2),
                "outputs": outputs,
            }
            write_json(partial / MANIFEST, manifest)
    elif stage.shared:
        stage.run(part, inputs, Folder(target.parent / f".{stage.name}.partial", work), run.resources)
    manifest = from_main(manifest)
    if is_main:
        shutil.rmtree(work_folders, ignore_errors=True)
    return manifest


def _as_it_lies(folder: Path) -> dict[str, Any]:
    """The manifest of a stage that is there and whole. Raises ``InputError`` if it is not."""
    if (manifest := _up_to_date(folder, None)) is None:
        raise InputError(f"{folder}: not there, or not as it was made; run the stage {folder.name} (or an earlier one)")
    return manifest


def _up_to_date(folder: Path, fingerprint: str | None) -> dict[str, Any] | None:
    """The manifest of a stage that is whole and has this fingerprint (None: any)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same = fingerprint in (None, manifest["fingerprint"]["sha256"]) and all(
            sha256_file(folder / file) == digest for file, digest in manifest["outputs"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not a manifest: run the stage
        return None
    return manifest if same else None


def _taken_over(run: Run, stage: Stage, fingerprint: str) -> dict[str, Any] | None:
    """The stage of another run with the same fingerprint, linked into this one's folder (copied where it cannot be)."""
    for sibling in (run.folder / UNUSED, *run.siblings):
        source = sibling / stage.name
        if sibling != run.folder and (manifest := _up_to_date(source, fingerprint)):
            with atomic_folder(run.folder / stage.name) as partial:
                for name in (*manifest["outputs"], MANIFEST):
                    link_or_copy(source / name, partial / name)
            return manifest
    return None


def _put_aside(folder: Path, unused: Collection[str], results: Sequence[str]) -> None:
    for name in unused:
        if (folder / name).is_dir():
            for result in results:
                (folder / result).unlink(missing_ok=True)
            (folder / UNUSED).mkdir(exist_ok=True)
            shutil.rmtree(folder / UNUSED / name, ignore_errors=True)
            (folder / name).rename(folder / UNUSED / name)


def _summary(manifest: dict[str, Any]) -> str:
    counts = (f"{value:,} {key.replace('_', ' ')}" for key, value in manifest["counts"].items() if type(value) is int)
    return f"{', '.join(counts)}  [dim]{manifest['seconds']:.0f} s[/]"


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
