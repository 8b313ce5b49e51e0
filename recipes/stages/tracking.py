"""What a training records: its log, its curves, and what trackers are told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sharpen.evaluation.files import write_json
from sharpen.evaluation.processes import process_state
from sharpen.recipes.engine import Counts
from sharpen.recipes.inputs import TRAINING_LOG
from sharpen.training.trainer import StepProgress, TrainingResult


@contextmanager
def tracked(trackers: Sequence[str], run: Path, stage: str) -> Iterator[None]:
    """Where the trackers write, by the variables that they read: below the run's folder, unless the person says
    otherwise."""
    defaults = {
        "WANDB_PROJECT": "sharpen",
        "WANDB_NAME": f"{run.name}-{stage}",
        "WANDB_DIR": str(run),
        "TENSORBOARD_LOGGING_DIR": str(run / "tensorboard" / stage),
    }
    added = {name: value for name, value in defaults.items() if trackers and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        if "wandb" in trackers:
            import wandb

            wandb.finish()  # or the next training would go on in this one's curves


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
