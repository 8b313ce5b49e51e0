"""What stood for files, models and the machine in a fingerprint, so that it can be made again where they are not.

A stage's folder may be carried to another machine, without the documents, pools and models that it was made from. What
it was made from is known by name and sum, and as long as nothing else is there under that name, this is what counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpen.evaluation.files import InputError

_current: ContextVar[Contents | None] = ContextVar("contents", default=None)


@dataclass
class Contents:
    """``known``: what stood for each name when the stage was made. ``moved``: whether something of the run is known
    only by that, so that what the machine is like is taken from it, too. ``taken``: what stands for each name now.
    ``missing``: the names of which that is what stood for them."""

    known: Mapping[str, Any] = field(default_factory=dict)
    moved: bool = False
    taken: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    _times: Counter = field(default_factory=Counter)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the block runs, ``content`` notes here what it finds."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def find(self, kind: str, name: Any, compute: Callable[[], Any], of_machine: bool) -> Any:
        key = f"{kind} {Path(name).name if isinstance(name, str) else name}"
        self._times[key] += 1
        key = key if self._times[key] == 1 else f"{key} ({self._times[key]})"
        if of_machine and self.moved and key in self.known:
            self.taken[key] = self.known[key]
            return self.taken[key]
        try:
            self.taken[key] = compute()
        except (InputError, OSError):
            if key not in self.known:
                raise
            self.moved, self.taken[key] = True, self.known[key]
            self.missing.append(str(name))
        return self.taken[key]


class Names(Contents):
    """In which everything stands for itself by its name, so that nothing has to be there: in a mapping, as files stand
    there by their sums."""

    def find(self, kind: str, name: Any, compute: Callable[[], Any], of_machine: bool) -> Any:
        return {kind: str(name)}


def content(kind: str, name: Any, compute: Callable[[], Any], of_machine: bool = False) -> Any:
    """What ``compute`` gives; within ``Contents.in_use``, where it raises ``InputError`` or ``OSError``, what stood for
    it before. ``name``: of a file or model, of which only what follows the last slash counts, as folders are others on
    other machines. ``of_machine``: it says what this machine is like.

    >>> def gone():
    ...     raise InputError("pool.yaml: no such file")
    >>> first = Contents()
    >>> with first.in_use():
    ...     _ = content("pool", "/here/pool.yaml", lambda: "a sum")
    >>> with Contents(first.taken).in_use():
    ...     content("pool", "/there/pool.yaml", gone)
    'a sum'
    """
    contents = _current.get()
    return compute() if contents is None else contents.find(kind, name, compute, of_machine)
