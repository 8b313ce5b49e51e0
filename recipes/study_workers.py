"""Runs of a comparison side by side, each in a process of its own, none doing what another one does."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from sharpen.evaluation.cores import cores
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import use_threads
from sharpen.recipes.study_runs import StudyRun

Execute = Callable[..., Any]


@dataclass(frozen=True)
class Task:
    """``arguments``: of what is executed. ``makes``: what it makes where nobody has made it before; no two tasks do so
    at the same time, and the later one finds it done. ``asks``: what of that an LLM is asked for."""

    run: StudyRun
    arguments: tuple[Any, ...]
    makes: frozenset[str]
    asks: frozenset[str] = frozenset()


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """So many processes, each with a GPU of its own as far as there are any, and its share of the cores; None for one
    job, which needs no other process."""
    if jobs == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _begin, (context.Value("i", 0), jobs))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run_tasks(
    tasks: Sequence[Task],
    execute: Execute,
    pool: ProcessPoolExecutor | None,
    jobs: int,
    say: Callable[[StudyRun], None],
) -> Iterator[tuple[Task, Any]]:
    """Each task with what ``execute(task.run, *task.arguments)`` returns, as they end.

    A task starts when nothing that it would make is being made, and no LLM is asked where it would ask one, in the
    order given as far as that allows. ``pool``: where they run, so many ``jobs`` at a time (None: here, one after the
    other); ``execute`` is then a function of a module. ``say`` is told of each that starts. Raises ``InputError`` if a
    process is lost.
    """
    if pool is None:
        for task in tasks:
            say(task.run)
            yield task, execute(task.run, *task.arguments)
        return
    waiting, running, made = list(tasks), dict[Future, Task](), set[str]()
    while waiting or running:
        for task in list(waiting):
            if len(running) < jobs and _is_free(task, running.values(), made):
                waiting.remove(task)
                say(task.run)
                running[pool.submit(execute, task.run, *task.arguments)] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool:
                raise InputError(
                    f"{task.run.folder}: a process has ended, perhaps for want of memory; start again with fewer --jobs"
                    " to go on"
                ) from None
            made |= task.makes
            yield task, result


def _is_free(task: Task, running: Collection[Task], made: set[str]) -> bool:
    makes = task.makes - made
    asks = task.asks - made and any(other.asks - made for other in running)
    return not asks and not any(makes & other.makes for other in running)


def _begin(number: Synchronized, jobs: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    import torch

    use_threads(max(1, cores() // jobs))
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = given.split(",") if given else [str(n) for n in range(torch.cuda.device_count())]
    if gpus:  # before anything is computed on one
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[mine % len(gpus)]


def _end_with_parent() -> None:
    """A process that goes on alone would hold the lock of its run."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
