"""What maps have made of rows, kept by the rows' content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharpen.evaluation.files import InputError
from sharpen.evaluation.partitions.contract import Engine, Map, Task, digest_of
from sharpen.evaluation.processes import from_main, process_state

KEY = "key"
KEY_BYTES = 16


def row_keys(*columns: Sequence[str]) -> np.ndarray:
    """What stands for the content of each row: 16 bytes, of shape (rows,).

    >>> keys = row_keys(["ice", "ice", "bread"], ["a", "b", "a"])
    >>> len(set(keys.tolist()))
    3
    """
    keys = [
        hashlib.blake2b("\0".join(row).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        for row in zip(*columns, strict=True)
    ]
    return np.array(keys, dtype=f"S{KEY_BYTES}")


@dataclass(frozen=True)
class KeptRows:
    """Where the result of each row lies: ``rows[n]`` of the shard ``paths[shards[n]]``; both of shape (rows,)."""

    paths: tuple[Path, ...]
    shards: np.ndarray
    rows: np.ndarray

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Shard by shard: which rows it has the results of, and these, in their order."""
        for shard in np.unique(self.shards):
            here = np.flatnonzero(self.shards == shard)
            table = pq.read_table(self.paths[shard], columns=list(columns), partitioning=None)
            yield here, table.take(pa.array(self.rows[here]))

    def column(self, name: str) -> list:
        """The values of a column, in the order of the rows."""
        values = [None] * len(self.rows)
        for here, table in self.parts([name]):
            for n, value in zip(here.tolist(), table[name].to_pylist(), strict=True):
                values[n] = value
        return values


@dataclass(frozen=True)
class Partitions:
    """An engine with a folder in which what it has computed is kept, and which several programs may use at once.

    ``rows``: of a shard at most.
    """

    engine: Engine
    folder: Path
    rows: int = 10_000

    def map(
        self,
        to_do: Map,
        keys: np.ndarray,
        table: Callable[[np.ndarray], pa.Table],
        advance: Callable[[int], None] = lambda _rows: None,
    ) -> KeptRows:
        """What ``to_do`` makes of rows, of which only those are computed that have not been before.

        ``keys``: what stands for the content of each row, as ``row_keys`` gives it; ``table(numbers)`` gives rows by
        their numbers. ``advance`` is called with numbers of rows that are done. Under ``accelerate launch`` every
        process calls this, and all get the same. Raises ``InputError`` for rows that were computed and are not there.
        """
        folder = self.folder_of(to_do)
        unique, first = np.unique(keys, return_index=True)
        known = _find(_shards(folder), unique)
        process_state().wait_for_everyone()  # nobody adds to the folder before all have looked
        missing = np.sort(first[known.shards < 0])
        advance(len(keys) - len(missing))
        if len(missing):
            shards = [missing[start : start + self.rows] for start in range(0, len(missing), self.rows)]
            self.engine.run(to_do, [_task(folder, keys, table, numbers) for numbers in shards], advance)
            known = _find(_shards(folder), unique)
            if lost := int((known.shards < 0).sum()):
                raise InputError(f"{folder}: {lost:,} rows were computed and are not there; run the same again")
        places = np.searchsorted(unique, keys)
        return KeptRows(known.paths, known.shards[places], known.rows[places])

    def folder_of(self, to_do: Map) -> Path:
        """Where the shards of a map lie."""
        return self.folder / f"{to_do.name}-{digest_of(to_do)}"


def _task(folder: Path, keys: np.ndarray, table: Callable[[np.ndarray], pa.Table], numbers: np.ndarray) -> Task:
    def rows() -> pa.Table:
        own = pa.array([key.ljust(KEY_BYTES, b"\0") for key in keys[numbers].tolist()], pa.binary(KEY_BYTES))
        return table(numbers).append_column(KEY, own)

    name = hashlib.sha256(keys[numbers].tobytes()).hexdigest()[:32]
    return Task(folder / f"{name}.parquet", rows, (KEY,))


def _shards(folder: Path) -> tuple[Path, ...]:
    """What is there, as the first process sees it: another program may add to it before the others look, and all must
    agree on what is missing."""
    return from_main(tuple(sorted(folder.glob("*.parquet"))))


def _find(paths: tuple[Path, ...], keys: np.ndarray) -> KeptRows:
    """Where rows lie, by their sorted keys; in shard -1 what is not there."""
    paths = paths if len(keys) else ()
    found = KeptRows(paths, np.full(len(keys), -1, dtype=np.int32), np.zeros(len(keys), dtype=np.int64))
    for number, path in enumerate(paths):
        try:
            column = pq.read_table(path, columns=[KEY], partitioning=None)[KEY]
        except (pa.ArrowInvalid, KeyError, FileNotFoundError):  # a disk's fault: whatever is written here is whole
            with suppress(OSError):
                path.unlink()
            continue
        of_shard = np.array(column.to_pylist(), dtype=f"S{KEY_BYTES}")
        places = np.searchsorted(keys, of_shard)
        here = (places < len(keys)) & (keys[np.minimum(places, len(keys) - 1)] == of_shard)
        found.shards[places[here]], found.rows[places[here]] = number, np.flatnonzero(here)
    return found
