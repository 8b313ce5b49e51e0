"""What the benchmarks share: tables that are printed row by row, the machine's name, and processes of their own.

Nothing here loads torch: a process that is started for one measurement would otherwise inherit the most memory that
this one ever had.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sharpen.evaluation.datasets import Task
    from sharpen.evaluation.significance import Groups

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
MODEL = "packaged:all-MiniLM-L6-v2"
SEED = 13


class Table:
    """A Markdown table, printed as it grows. Its heading names the CPU, the line below it commit, date and versions."""

    def __init__(self, title: str, columns: Sequence[str], packages: Sequence[str] = ()) -> None:
        print(f"\n### {title}, on {cpu()}\n\n{provenance(packages)}\n", flush=True)
        print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)

    def row(self, *cells: object) -> None:
        """Print a row now, whatever is still to be measured."""
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def quality_cells(values: dict[str, float], first: dict[str, float], groups: Groups) -> tuple[str, str]:
    """Mean over the queries, and the difference to the first system's with its interval; of the first none."""
    from sharpen.evaluation.significance import OF_DIFFERENCES, estimate

    mean = f"{fmean(values.values()):.4f}"
    if values is first:
        return mean, ""
    difference = estimate({q: values[q] - first[q] for q in values}, groups=groups, widest=OF_DIFFERENCES)
    return mean, f"{difference.value:+.4f} ({difference.interval[0]:+.4f} to {difference.interval[1]:+.4f})"


def note(sentence: str) -> None:
    """A line outside of a table."""
    print(f"\n{sentence}", flush=True)


def cpu() -> str:
    """The CPU's model, the cores that this process may use, and whether it multiplies in bf16.

    The names of the instructions are those of Linux, the one system that lists them.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    bf16 = [f"{'' if name in flags else 'no '}{name}" for name in ("avx512_bf16", "amx_bf16")]
    name = fields.get("model name", platform.machine())
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {', '.join(bf16)}"


def provenance(packages: Sequence[str]) -> str:
    """Commit, date, and versions of ``packages``, as a result is to be quoted with."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    parts = [f"Commit {described or 'unknown'}", f"{datetime.now(UTC):%Y-%m-%d}"]
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"{package} not installed")
    return ", ".join(parts) + "."


def as_help(docstring: str) -> str:
    """A docstring whose indented lines ``--help`` leaves as they are."""
    return docstring.replace("\n\n    ", "\n\n\b\n    ")


@dataclass(frozen=True)
class Moment:
    """The clock, and the CPU time of all threads of this process, in seconds."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.perf_counter(), time.process_time())


def cores_used(start: Moment, end: Moment) -> float:
    """Cores that this process had from start to end. Fewer than there are: it waited, or others were at work."""
    return (end.cpu - start.cpu) / (end.clock - start.clock)


@dataclass
class Stopwatch:
    """Seconds of a block, and the cores that it had, once it has ended."""

    seconds: float = 0.0
    cores: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """A block whose seconds count."""
    watch, start = Stopwatch(), Moment.now()
    yield watch
    end = Moment.now()
    watch.seconds, watch.cores = end.clock - start.clock, cores_used(start, end)


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """What ``function``, of a module's top level, returns in a new Python process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_gib() -> float:
    """The most memory that this process has had, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def subset(task: Task, documents: int | None) -> Task:
    """The task with so many of its documents (None: all), drawn by a fixed seed, half of them relevant ones; and those
    of its queries whose relevant documents are all among these."""
    from dataclasses import replace

    if documents is None or documents >= len(task.corpus):
        return task
    rng = random.Random(SEED)
    queries = rng.sample(sorted(task.qrels), len(task.qrels))
    chosen: dict[str, None] = {}
    for query in queries:
        relevant = [i for i in task.qrels[query] if i in task.corpus]
        if len(chosen) + len(relevant) <= max(1, documents // 2):
            chosen |= dict.fromkeys(relevant)
    others = [i for i in rng.sample(sorted(task.corpus), len(task.corpus)) if i not in chosen]
    chosen |= dict.fromkeys(others[: documents - len(chosen)])
    kept = [q for q, grades in task.qrels.items() if all(i in chosen for i in grades)]
    return replace(
        task,
        corpus={i: document for i, document in task.corpus.items() if i in chosen},
        queries={q: task.queries[q] for q in kept},
        qrels={q: task.qrels[q] for q in kept},
    )
