"""Who is told of a training while it goes on: a progress bar, and trackers, of which one that fails is done without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import transformers
from transformers.integrations import get_reporting_integration_callbacks

_EVENTS = tuple(name for name in dir(transformers.TrainerCallback) if name.startswith("on_"))


@dataclass(frozen=True)
class StepProgress:
    """One finished step: ``step`` of ``steps``, and the loss of the last log (None before the first)."""

    step: int
    steps: int
    loss: float | None


class ProgressCallback(transformers.TrainerCallback):
    """Calls ``progress`` after each step."""

    def __init__(self, progress: Callable[[StepProgress], None] | None) -> None:
        self._progress, self._loss = progress, None

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= state.global_step == state.max_steps
        if self._progress:
            self._progress(StepProgress(state.global_step, state.max_steps, self._loss))


class GuardedTracker(transformers.TrainerCallback):
    """A tracker's callback. After its first error it is warned of and called no more: hours of training are worth more
    than their curves, which stand in the training's own log, too."""

    def __init__(self, tracker: transformers.TrainerCallback) -> None:
        self._tracker, self._failed = tracker, False
        for event in _EVENTS:
            setattr(self, event, partial(self._call, event))

    def _call(self, event: str, *args: Any, **kwargs: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._tracker, event)(*args, **kwargs)
        except Exception as error:  # another's program and perhaps a network
            self._failed = True
            name = type(self._tracker).__name__.removesuffix("Callback")
            warnings.warn(
                f"{name} gets no more curves of this training, which goes on ({type(error).__name__}: {error})",
                stacklevel=2,
            )


def guard_trackers(trainer: transformers.Trainer, trackers: Collection[str]) -> None:
    """Put a ``GuardedTracker`` in the place of each of the trackers' callbacks."""
    for callback in get_reporting_integration_callbacks(list(trackers)):
        if tracker := trainer.pop_callback(callback):
            trainer.add_callback(GuardedTracker(tracker))
