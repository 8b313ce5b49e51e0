"""What a training records: its log, its curves, and what trackers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sharpen.evaluation.files import write_json
from sharpen.evaluation.processes import process_state
from sharpen.recipes.engine import Counts
from sharpen.recipes.inputs import TRAINING_LOG
from sharpen.recipes.trackers import LIVE, open_trackers
from sharpen.sdg.resources import Resources
from sharpen.training.optimization import Optimization
from sharpen.training.tracking import StepProgress
from sharpen.training.trainer import TrainingResult

SomeSettings = TypeVar("SomeSettings", bound=Optimization)


@contextmanager
def tracked(settings: SomeSettings, run: Path, stage: str, resources: Resources) -> Iterator[SomeSettings]:
    """The trackers get the training's curves while it goes on, in a run of their own. Yields the settings to train
    with: a tracker that cannot be opened is a warning, and not among theirs, as what came before was paid for; one that
    cannot be closed is a warning, too."""
    live = [tracker for tracker in settings.trackers if tracker in LIVE] if process_state().is_main_process else []
    failed = set()
    with ExitStack() as stack:
        for tracker in live:
            opened = open_trackers([tracker], run, f"{run.name}-{stage}")
            try:
                opened.__enter__()
                stack.push(partial(_close, opened, tracker, resources))
            except Exception as error:  # another's program and perhaps a network
                failed.add(tracker)
                resources.warn(f"{tracker} gets no curves of this training ({type(error).__name__}: {error}).")
        yield settings.model_copy(update={"trackers": tuple(t for t in settings.trackers if t not in failed)})


def _close(opened: AbstractContextManager, tracker: str, resources: Resources, *error: Any) -> None:
    try:
        opened.__exit__(*error)
    except Exception as other:
        resources.warn(f"{tracker} may lack curves of this training ({type(other).__name__}: {other}).")


def shown(advance: Callable[..., None]) -> Callable[[StepProgress], None]:
    """Tells a progress bar of each step."""

    def show(progress: StepProgress) -> None:
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        advance(note=f"step {progress.step} of {progress.steps}{loss}")

    return show


def record(folder: Path, result: TrainingResult, rows: int, left_out: int) -> Counts:
    """Write the log that curves and report are made of, and return the counts of the manifest."""
    if process_state().is_main_process:
        write_json(folder / TRAINING_LOG, result.to_dict())
    return {
        "triplets": rows,
        "queries_left_out": left_out,
        "steps": result.last_step,
        "kept_step": result.kept_step,
        "first_loss": result.log[0]["loss"],
        "last_loss": result.log[-1]["loss"],
    }
