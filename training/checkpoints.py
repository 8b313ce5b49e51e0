"""Checkpoints that are whole or are not there: sealed with the sums of their files when all of them are written."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from sharpen.evaluation.files import InputError, sha256_file, write_json

SEAL = "sealed.json"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors and torch raise errors of their own, which have the system's number in their text only
_DISK_FULL_TEXTS = (
    "No space left",
    "File too large",
    "quota exceeded",
    *(f"os error {number}" for number in _DISK_FULL),
)


def seal(checkpoint: Path) -> None:
    """Say that ``checkpoint`` is whole: its files with their sums, in a file that is written last."""
    write_json(
        checkpoint / SEAL,
        {p.relative_to(checkpoint).as_posix(): sha256_file(p) for p in sorted(checkpoint.rglob("*")) if p.is_file()},
    )


def remove_torn(folder: Path) -> None:
    """Remove what was not sealed, as the program was killed while it wrote, from a folder of a training's own."""
    for path in folder.glob("checkpoint-*"):
        if path.is_dir() and not (path / SEAL).exists():
            shutil.rmtree(path)


def newest(folder: Path) -> Path | None:
    """The last checkpoint that was written to the end, or None. Raises ``InputError`` for one whose files have changed
    since."""
    whole = sorted((p.parent for p in folder.glob(f"checkpoint-*/{SEAL}")), key=_step)
    if not whole:
        return None
    last = whole[-1]
    if damaged := _damaged(last):
        before = f"{whole[-2].name}, which is left as it is" if len(whole) > 1 else "the beginning"
        raise InputError(
            f"{last}: {damaged}, so training cannot go on from there. Delete that folder, and the same command goes on"
            f" from {before}"
        )
    return last


def stopped_early(checkpoint: Path, patience: int | None) -> bool:
    """Whether the training had come to its early end when the checkpoint was written."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
    return patience is not None and stopping.get("attributes", {}).get("early_stopping_patience_counter", 0) >= patience


def save_best(model: nn.Module, folder: Path, step: int) -> None:
    """Write the weights of the best state, whole or not at all."""
    path = _best(folder, step)
    partial = path.with_suffix(".partial")
    save_model(model, str(partial))
    partial.replace(path)


def load_best(model: nn.Module, folder: Path, step: int) -> None:
    """Give ``model`` the weights that ``save_best`` wrote. Raises ``InputError`` if they cannot be read."""
    try:
        load_model(model, _best(folder, step))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{_best(folder, step)}: the best state cannot be read ({error}). Delete {folder}, and the same command"
            " trains anew"
        ) from error


def remove_other_best(folder: Path, step: int | None) -> None:
    """Of the states that ``save_best`` wrote, all but that of ``step``."""
    for path in folder.glob("best-*.safetensors"):
        if path != _best(folder, step):
            path.unlink()


@contextmanager
def disk_errors(folder: Path, of_training: bool = False) -> Iterator[None]:
    """Turn errors of a full disk into an ``InputError`` that says what to do. ``of_training``: the folder is a
    training's own, from which what was not written to the end is removed."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in _DISK_FULL and not any(text in str(error) for text in _DISK_FULL_TEXTS):
            raise
        if of_training:
            remove_torn(folder)
        kept = newest(folder) if of_training else None
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free / 2**20
        onward = f"goes on from {kept.name}" if kept else "goes on from the last checkpoint, or begins again"
        raise InputError(
            f"{folder}: not everything could be written, the disk is full ({error}; {free:,.0f} MiB are free). Make"
            f" room; the same command {onward}"
        ) from error


def _best(folder: Path, step: int | None) -> Path:
    return folder / f"best-{step}.safetensors"


def _damaged(checkpoint: Path) -> str:
    try:
        sums = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        changed = [
            name
            for name, digest in sums.items()
            if not (checkpoint / name).exists() or sha256_file(checkpoint / name) != digest
        ]
    except (OSError, ValueError, AttributeError) as error:
        return f"{SEAL} cannot be read ({error})"
    return f"{changed[0]} is not what was written" if changed else ""


def _step(checkpoint: Path) -> int:
    step = checkpoint.name.partition("-")[2]
    return int(step) if step.isdigit() else -1
