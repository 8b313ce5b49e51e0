"""Shards by the workers of a Ray cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sharpen.evaluation.cores import cores
from sharpen.evaluation.files import InputError, first_line
from sharpen.evaluation.partitions.contract import Map, Task, digest_of, do, ready
from sharpen.evaluation.partitions.settings import EngineSettings
from sharpen.evaluation.processes import on_main, use_threads

TRIES = 5
"""Of a shard, beyond the first, by workers that are lost; what kills so many is the shard, or the machines' size."""


def check_ray() -> None:
    """Raise ``InputError`` if Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError(f"engine: ray needs Ray: pip install 'sharpen[ray]' ({error})") from None


class RayEngine:
    """Actors, one for each ``cpus`` and ``gpus`` of the cluster, to which shards are handed one by one.

    A shard's rows are read from parquet by a worker, and its result is written by that worker under its own name,
    whole; so it does not matter how often, or where, it is done again when a worker or a node is lost. All nodes see
    ``folder``. Workers stay for the next map, as importing torch takes seconds; those with a GPU do not, as training
    may need it. (Ray Data would start anew for every map, and its blocks are not our shards.) Where no cluster runs,
    one is started on this machine for as long as the program runs.
    """

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self._workers: list[Any] = []

    def run(self, to_do: Map, tasks: list[Task], advance: Callable[[int], None]) -> None:
        """As ``Engine.run``; under ``accelerate launch`` the first process has it done, and all wait for it. Raises
        ``InputError`` where Ray cannot be reached, where a shard was lost with six workers one after the other, and for
        what the map raises it for."""
        on_main(lambda: self._have_done(to_do, tasks, advance))

    def _have_done(self, to_do: Map, tasks: list[Task], advance: Callable[[int], None]) -> None:
        missing = [task for task in tasks if not task.is_done]
        if not missing:
            return
        self._connect()
        self.folder.mkdir(parents=True, exist_ok=True)
        inputs = Path(tempfile.mkdtemp(prefix="inputs-", dir=self.folder))
        try:
            self._run(to_do, missing, inputs, advance)
        finally:
            shutil.rmtree(inputs, ignore_errors=True)
            if self.settings.gpus:
                self._workers.clear()
        if lost := [task.target for task in missing if not task.is_done]:
            raise InputError(
                f"engine: {len(lost)} shards, as {lost[0]}, were computed and are not there; engine.folder must be one"
                " that all nodes share"
            )

    def _run(self, to_do: Map, tasks: list[Task], inputs: Path, advance: Callable[[int], None]) -> None:
        import ray

        self._workers += [self._worker() for _ in range(min(len(tasks), self._room()) - len(self._workers))]
        digest, waiting, running = digest_of(to_do), list(reversed(tasks)), {}

        def hand_out(worker: Any) -> None:
            # one more than it is at, so that it does not wait for this program
            while waiting and sum(each is worker for each, _ in running.values()) < 2:
                task = waiting.pop()
                running[worker.do.remote(digest, to_do, _on_disk(task, inputs))] = worker, task

        for worker in self._workers:
            hand_out(worker)
        while running:
            (finished,), _ = ray.wait(list(running), num_returns=1)
            worker, task = running.pop(finished)
            try:
                advance(ray.get(finished))
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError) else error from None
            except ray.exceptions.RayError as error:
                raise InputError(
                    f"engine: the shard {task.target.stem} of {to_do.name} was lost with {TRIES + 1} workers"
                    f" ({first_line(error)}); smaller shards (engine.rows) need less memory"
                ) from error
            with suppress(OSError):
                (inputs / task.target.name).unlink()
            hand_out(worker)

    def _room(self) -> int:
        """How many workers the cluster has room for, and at least one, for which it may grow."""
        import ray

        total, settings = ray.cluster_resources(), self.settings
        room = total.get("CPU", 0) // settings.cpus
        if settings.gpus:
            room = min(room, total.get("GPU", 0) // settings.gpus)
        return max(1, min(int(room), settings.workers or int(room)))

    def _worker(self) -> Any:
        import ray

        options = {"num_cpus": self.settings.cpus, "num_gpus": self.settings.gpus}
        actor = ray.remote(max_restarts=-1, max_task_retries=TRIES, scheduling_strategy="SPREAD", **options)
        return actor(_Worker).remote(self.settings.cpus)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here: dict[str, Any] = {}
        if self.settings.address is None:
            here = {"num_cpus": cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(address=self.settings.address, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"engine.address: no Ray cluster at {self.settings.address!r} ({first_line(error)}); start one with"
                " `ray start --head`, or leave the address out"
            ) from error


class _Worker:
    """An actor; the last map that it did is set up."""

    def __init__(self, cpus: float) -> None:
        use_threads(max(1, int(cpus)))
        self._digest, self._ready = "", None

    def do(self, digest: str, to_do: Map, task: Task) -> int:
        if task.is_done:  # by a worker that was lost before it could say so
            return pq.read_metadata(task.target).num_rows
        if self._digest != digest:
            self._ready = None  # before there are two models in memory
            self._digest, self._ready = digest, ready(to_do)
        return do(self._ready, task)


def _on_disk(task: Task, folder: Path) -> Task:
    if isinstance(task.rows, Path):
        return task
    path = folder / task.target.name
    pq.write_table(task.rows(), path)
    return replace(task, rows=path)
