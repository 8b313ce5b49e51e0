"""IDs as they are spelt in several files: the same name may be written in two Unicode normal forms."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path


class KnownIds:
    """IDs that there are, found also under another Unicode spelling: macOS has file names in NFD, where an umlaut is
    two characters, and most else writes NFC.

    ``respelt``: what was asked for in another spelling than it is known by, with the known one.

    >>> known = KnownIds(["u\\u0308ber.md", "b.md"])
    >>> known.find("\\u00fcber.md") == "u\\u0308ber.md", known.find("c.md")
    (True, None)
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = set(ids)
        self._normal: dict[str, str | None] | None = None
        self.respelt: dict[str, str] = {}

    def find(self, name: str) -> str | None:
        """The known ID; None where there is none, or two that differ in their spelling only."""
        if name in self._ids:
            return name
        if name.isascii():
            return None
        if self._normal is None:
            self._normal = {}
            for known in self._ids:
                normal = unicodedata.normalize("NFC", known)
                self._normal[normal] = None if normal in self._normal else known
        found = self._normal.get(unicodedata.normalize("NFC", name))
        if found is not None:
            self.respelt[name] = found
        return found

    def first(self, number: int = 2) -> str:
        """The first ``number`` by alphabet, for a message."""
        return ", ".join(repr(name) for name in sorted(self._ids)[:number]) or "none"

    def warn(self, path: Path, what: str) -> None:
        """Say how many ``what`` of the file were found under another spelling, if any were."""
        if self.respelt:
            name = next(iter(self.respelt))
            warnings.warn(
                f"{path}: {len(self.respelt):,} IDs of {what} were found after Unicode normalisation only (NFC and NFD"
                f" differ), as {name!r}",
                stacklevel=3,
            )
