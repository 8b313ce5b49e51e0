"""What a map of rows is, and what an engine has to do with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sharpen.evaluation.files import atomic_file
from sharpen.evaluation.truncation import collect_truncations


class Map(Protocol):
    """What becomes of rows: a value that can be sent to another process, and is made ready there.

    ``name`` and ``version`` (to be raised when the same rows would give others) stand for the code, ``fingerprint()``
    for the settings and for the content of models that are named. ``inputs`` and ``outputs``: columns. ``batch_size``:
    rows of a call; None: all of a shard. ``setup`` loads what the calls need, once in each worker.

    >>> class Lengths:
    ...     name, version, batch_size = "lengths", 1, None
    ...     inputs, outputs = ("text",), ("length",)
    ...     def fingerprint(self):
    ...         return None
    ...     def setup(self):
    ...         pass
    ...     def __call__(self, table):
    ...         return pa.table({"length": list(map(len, table["text"].to_pylist()))})
    >>> ready(Lengths())(pa.table({"text": ["ice", "bread"]}))["length"].to_pylist()
    [3, 5]
    """

    name: ClassVar[str]
    version: ClassVar[int]
    inputs: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]
    batch_size: int | None

    def fingerprint(self) -> Any: ...

    def setup(self) -> None: ...

    def __call__(self, table: pa.Table) -> pa.Table: ...


@dataclass(frozen=True)
class Task:
    """One shard: ``target`` is written whole or not at all. ``rows``: what gives the table, or the parquet file that
    has it; ``extra``: columns of the table that are written beside the map's own."""

    target: Path
    rows: Callable[[], pa.Table] | Path
    extra: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.target.exists()

    def table(self) -> pa.Table:
        return pq.read_table(self.rows, partitioning=None) if isinstance(self.rows, Path) else self.rows()


class Engine(Protocol):
    """Has tasks done that are not done yet. When ``run`` comes back, all targets are there."""

    def run(self, to_do: Map, tasks: list[Task], advance: Callable[[int], None]) -> None:
        """``advance`` is called with the number of rows of each finished shard. An error of the map is raised; what was
        finished before stays."""
        ...


def digest_of(to_do: Map) -> str:
    """What stands for a map: 16 hexadecimal digits."""
    parts = [to_do.name, to_do.version, to_do.fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def ready(to_do: Map) -> Map:
    """A copy that is set up, so that what it has loaded goes with it."""
    worker = copy(to_do)
    worker.setup()
    return worker


def do(worker: Map, task: Task) -> int:
    """Compute a shard with a map that is set up, and write it. Returns its number of rows."""
    table = task.table()
    with collect_truncations(apart=True):  # whoever reads the rows says it, of those that he asked for
        parts = [worker(batch.select(worker.inputs)) for batch in _batches(table, worker.batch_size)]
    result = pa.concat_tables(parts).select(worker.outputs)
    for name in task.extra:
        result = result.append_column(name, table[name])
    with atomic_file(task.target) as temporary:
        pq.write_table(result, temporary)
    return len(table)


def _batches(table: pa.Table, size: int | None) -> Iterator[pa.Table]:
    size = size or max(1, len(table))
    for start in range(0, max(1, len(table)), size):
        yield table.slice(start, size)
