"""Checkpoints that are whole or are not there: sealed with the sums of their files when all of them are written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sharpen.evaluation.files import InputError, sha256_file, write_json

SEAL = "sealed.json"


def seal(checkpoint: Path) -> None:
    """Say that ``checkpoint`` is whole: its files with their sums, in a file that is written last."""
    write_json(
        checkpoint / SEAL,
        {p.relative_to(checkpoint).as_posix(): sha256_file(p) for p in sorted(checkpoint.rglob("*")) if p.is_file()},
    )


def newest(folder: Path) -> Path | None:
    """The last checkpoint that was written to the end, or None. What was not sealed, as the program was killed while it
    wrote, is removed. Raises ``InputError`` for one whose files have changed since."""
    found = sorted((p for p in folder.glob("checkpoint-*") if p.is_dir()), key=_step)
    whole = [p for p in found if (p / SEAL).exists()]
    for torn in set(found) - set(whole):
        shutil.rmtree(torn)
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
