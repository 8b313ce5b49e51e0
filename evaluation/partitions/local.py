"""Shards by this process, or shared out among those of ``accelerate launch``."""

from __future__ import annotations

from collections.abc import Callable

from accelerate.utils import gather_object

from sharpen.evaluation.partitions.contract import Map, Task, do, ready
from sharpen.evaluation.processes import alone, process_state


class LocalEngine:
    """One shard after the other; under ``accelerate launch`` every process calls ``run`` with the same tasks, and does
    its part of them. Processes of several machines need a file system that they share.
    """

    def run(self, to_do: Map, tasks: list[Task], advance: Callable[[int], None]) -> None:
        """As ``Engine.run``. An error is raised in all processes, once each has stopped."""
        state = process_state()
        # by the place among all: what another process has finished meanwhile must not change whose a shard is
        mine = [task for task in tasks[state.process_index :: state.num_processes] if not task.is_done]
        error = None
        try:
            with alone():
                worker = ready(to_do) if mine else None
                for task in mine:
                    advance(do(worker, task) * state.num_processes)
        except Exception as raised:  # the others wait at the end of their part
            error = raised
        if state.num_processes > 1:
            errors = gather_object([error])
            error = error or next((other for other in errors if other), None)
        if error:
            raise error
