"""Files and folders that are written whole or not at all, and the error that every reader raises."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(Exception):
    """Something that the user gave is wrong. The message names the file, line or key, and what to do."""


def check_new_folder(target: Path) -> None:
    """Raise ``InputError`` for what a folder cannot be written as without losing something; an empty one may be."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a folder that does not, and nothing is written over")


def first_line(error: BaseException) -> str:
    """What an error says first, for a sentence about it; its name where it says nothing.

    >>> first_line(ValueError("no such key\\nand a page of details")), first_line(KeyError())
    ('no such key', 'KeyError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the name ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(descriptor)
    Path(temporary).chmod(0o666 & ~_umask())  # mkstemp's 0600 would lock out the user's colleagues
    try:
        yield Path(temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces ``path`` when the block ends without an error.

    Leftovers of killed runs (``.<name>.partial``, ``.<name>.old``) are cleared first, so only one process may write
    one folder at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = path.parent / f".{path.name}.partial", path.parent / f".{path.name}.old"
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            path.replace(old)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no such thing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def slug(text: str, otherwise: str = "system") -> str:
    """A file's name made of a text; ``otherwise``, where that has only signs."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.") or otherwise


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, record) for each line that is not blank; of a ``.gz`` file, what it unpacks to.

    Raises ``InputError`` for a file that is missing or not UTF-8 and for a line that is not a JSON object.
    """
    try:
        # Windows writes a byte order mark
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as file
        ):
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); each line must"
                        " be one JSON object"
                    ) from None
                except RecursionError:
                    raise InputError(f"{path}, line {number}: JSON nested too deeply") from None
                if "\\ud" in line.lower() and not _is_text(record):
                    raise InputError(
                        f"{path}, line {number}: half of a surrogate pair (a character cut in two, like \\ud83d alone);"
                        " repair the text"
                    )
                if not isinstance(record, dict):
                    raise InputError(
                        f'{path}, line {number}: expected a JSON object like {{"_id": ..., "text": ...}}, found'
                        f" {type(record).__name__}"
                    )
                yield number, record
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); make or fetch it anew") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert the file to UTF-8"
        ) from None


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(path: Path, files: Iterable[Path] | None = None) -> str:
    """Hash of a file, or of the relative names and contents of ``files`` below a folder (default: all but hidden
    ones)."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(visible_files(path) if files is None else files):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """``$SHARPEN_CACHE``, else ``$XDG_CACHE_HOME/sharpen``, else ``~/.cache/sharpen``: what can be made again."""
    if folder := os.environ.get("SHARPEN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharpen"


def visible_files(folder: Path) -> Iterator[Path]:
    """The files below a folder of which no part of the name, from there on, begins with a dot."""
    return (
        p
        for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
