"""Which files of a folder are documents."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from sharpen.sdg.documents.formats import FORMATS, no_reader, not_installed
from sharpen.sdg.documents.settings import ReadingSettings
from sharpen.sdg.documents.skipping import Skipped

_DATASET = ({"dataset_info.json", "state.json"}, {"dataset_dict.json"})


def find_files(
    folder: Path, settings: ReadingSettings, exclude: Path | None = None
) -> tuple[list[Path], list[Skipped]]:
    """The files that are to be read, in the order of their names, and what else lies there.

    A folder that ``datasets`` saved counts as a file. Links to folders are followed, each folder once: one that leads
    to a folder that is read anyway, or that holds ``folder``, is skipped. What lies below ``exclude`` is neither.
    """
    files: list[Path] = []
    skipped: list[Skipped] = []
    for item in _walk(folder, exclude and exclude.resolve()):
        found = item if isinstance(item, Skipped) else _unwanted(item, folder, settings)
        if found:
            skipped.append(found)
        else:
            files.append(item)
    return sorted(files), sorted(skipped, key=lambda s: s.file)


def shown(path: Path, folder: Path) -> str:
    """A path in a folder as text, with bytes that are no UTF-8 as \\x."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode(errors="backslashreplace")


def is_dataset(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _DATASET)


def _walk(folder: Path, outside: Path | None) -> Iterator[Path | Skipped]:
    root = folder.resolve()
    seen = {root}
    real, links = deque([folder]), deque[Path]()
    while real or links:
        # folders before links to folders, so that what has two places is read where it lies
        here, is_link = (real.popleft(), False) if real else (links.popleft(), True)
        target = here.resolve()
        if is_link and (target in seen or root.is_relative_to(target)):
            yield Skipped(shown(here, folder), "link", "to a folder that is read anyway, or that holds this one", True)
            continue
        if target == outside and here != folder:
            continue
        seen.add(target)
        if is_dataset(here):
            yield here
            continue
        try:
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError as error:
            yield Skipped(shown(here, folder), "cannot be opened", error.strerror or str(error))
            continue
        for entry in entries:
            path = here / entry.name
            if entry.name.startswith("."):
                yield Skipped(shown(path, folder) + "/" * entry.is_dir(), "hidden", by_choice=True)
            elif entry.is_dir():
                if entry.is_symlink():
                    links.append(path)
                elif path.resolve() not in seen:
                    real.append(path)
            else:
                yield path


def _unwanted(path: Path, folder: Path, settings: ReadingSettings) -> Skipped | None:
    """Why a file is not read; None if it is."""
    name, suffix = shown(path, folder), path.suffix.lower()
    if settings.file_pattern and not matches(name, settings.file_pattern):
        return Skipped(name, "not in file_pattern", by_choice=True)
    if settings.file_extensions is not None and not any(
        map(settings.has_extension, (suffix, "".join(path.suffixes[-2:])))  # .gz stands for .jsonl.gz, and so does that
    ):
        return Skipped(name, "not in file_extensions", by_choice=True)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Skipped(name, "name is not UTF-8", "rename it")
    if path.is_dir():
        return None
    if not path.is_file():
        return (
            Skipped(name, "link", "to nothing") if path.is_symlink() else Skipped(name, "no file", "a pipe or device")
        )
    format_ = FORMATS.get(suffix)
    if format_ is None:
        return None if settings.has_extension(suffix) else Skipped(name, no_reader(suffix))
    return None if format_.is_installed() else Skipped(name, not_installed(suffix))


def matches(path: str, pattern: str) -> bool:
    """Whether a path in a folder fits a pattern: by its name alone, or, where the pattern has a slash, as a whole.

    >>> [matches(p, "manual/**/*.md") for p in ("manual/a.md", "manual/b/c/d.md", "other/a.md")]
    [True, True, False]
    """
    if "/" not in pattern:
        return fnmatchcase(path.rpartition("/")[2], pattern)
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def expression(part: str) -> str:
        is_set = len(part) > 2 and part[0] + part[-1] == "[]"
        return "[" + re.sub("^!", "^", part[1:]) if is_set else signs.get(part) or re.escape(part)

    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\[\]]+\])", pattern.removeprefix("./"))
    return re.fullmatch("".join(map(expression, parts)), path) is not None
