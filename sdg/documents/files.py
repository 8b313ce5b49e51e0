"""A file to be read, wherever it lies: on disk, in an archive, attached to a letter."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sharpen.sdg.documents.skipping import Unreadable

READ_LIMIT = 256 * 2**20
"""Bytes of a file that is read whole, of an entry of an archive, and of a line: what is larger is refused."""
UNPACKED_LIMIT = 16 * 2**30
"""Bytes of a compressed file that is read line by line."""
DEPTH_LIMIT = 3
"""Archives within archives."""


@dataclass(frozen=True)
class Entry:
    """A document that a reader found. ``title``: None for the file's name. ``name``: what its ID has behind the
    file's, where a file holds several."""

    text: str
    title: str | None = None
    name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InputFile:
    """``id``: what its documents are called. ``name``: whose suffix says what it is. ``path``: where it is on disk, if
    it is. ``depth``: in how many archives it lies."""

    id: str
    name: str
    opener: Callable[[], BinaryIO]
    path: Path | None = None
    depth: int = 0

    @classmethod
    def of(cls, path: Path, doc_id: str) -> InputFile:
        return cls(doc_id, path.name, lambda: path.open("rb"), path)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def open(self) -> BinaryIO:
        return self.opener()

    def read(self) -> bytes:
        """All of it. Raises ``Unreadable`` beyond ``READ_LIMIT``."""
        with self.open() as file:
            data = file.read(READ_LIMIT + 1)
        if len(data) > READ_LIMIT:
            raise Unreadable("too large", f"more than {READ_LIMIT >> 20} MiB; cut it into several files")
        return data

    def inner(self, name: str, opener: Callable[[], BinaryIO], doc_id: str | None = None) -> InputFile:
        """A file within this one."""
        return InputFile(doc_id or self.place(name), name, opener, depth=self.depth + 1)

    def place(self, name: str) -> str:
        """The ID of what is called so within this file."""
        return f"{self.id}/{name}" if self.id else name


class Bounded(io.RawIOBase):
    """A stream that raises ``Unreadable`` once more than ``limit`` bytes were read from it."""

    def __init__(self, stream: BinaryIO, limit: int = UNPACKED_LIMIT) -> None:
        self.stream, self.left = stream, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise Unreadable("too large", "unpacks to more than is read")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def limited_lines(stream: io.TextIOBase) -> Iterator[tuple[int, str]]:
    """Number from 1 and text of each line. Raises ``Unreadable`` for one beyond ``READ_LIMIT``."""
    number = 0
    while line := stream.readline(READ_LIMIT):
        number += 1
        if len(line) == READ_LIMIT:
            raise Unreadable("too large", f"line {number} has more than {READ_LIMIT >> 20} Mi characters")
        yield number, line
