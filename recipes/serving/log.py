"""Lines that people add to a file of a run, from several windows at once: none is lost, and none is there by half."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from sharpen.evaluation.files import atomic_file

Row = dict[str, Any]


def append(path: Path, row: Row, then: Callable[[], None] = lambda: None) -> None:
    """Add a line to a file, or to none if that fails. ``then``: is called before another process may write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        before = path.read_bytes() if path.exists() else b""
        if before and not before.endswith(b"\n"):  # as an editor may leave it
            before += b"\n"
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with atomic_file(path) as partial:
            partial.write_bytes(before + line)
        then()


def now() -> str:
    """The time of a decision: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Who sits here: the login name, or nobody's where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
