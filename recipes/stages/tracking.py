"""What a training records: its log, its curves, and what trackers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sharpen.evaluation.files import write_json
from sharpen.evaluation.processes import process_state
from sharpen.recipes.engine import Counts
from sharpen.recipes.inputs import TRAINING_LOG
from sharpen.recipes.trackers import LIVE, open_trackers
from sharpen.training.trainer import StepProgress, TrainingResult


@contextmanager
def tracked(trackers: Sequence[str], run: Path, stage: str) -> Iterator[None]:
    """The trackers get the training's curves while it goes on, in a run of their own."""
    live = [tracker for tracker in trackers if tracker in LIVE] if process_state().is_main_process else []
    with open_trackers(live, run, f"{run.name}-{stage}"):
        yield


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
