"""Trackers that get the curves while a model is trained: one that fails is done without."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from functools import partial
from typing import Any

import transformers
from transformers.integrations import get_reporting_integration_callbacks

_EVENTS = tuple(name for name in dir(transformers.TrainerCallback) if name.startswith("on_"))


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
