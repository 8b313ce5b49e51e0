"""Processes of ``accelerate launch``, the threads of one, and the memory that they share."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from threadpoolctl import threadpool_limits

from sharpen.evaluation.cores import cores

SHARED_FROM = 2**24
"""Bytes of an array from which it is one file that all processes map."""
THREADS = "OMP_NUM_THREADS"


def process_state() -> PartialState | OneProcess:
    """Which of the processes of ``accelerate launch`` this is, and its device.

    The time-out is long because all processes wait while the first one asks an LLM.
    """
    if _alone:
        return _alone[-1]
    # under FSDP, all but the first process would load models without their weights, and encode with what lay there
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=3))
    if state.num_processes > 1:
        _share_cores(_local_processes(state), state.is_main_process)
    return state


@dataclass(frozen=True)
class OneProcess:
    """What ``process_state`` is for a process that works by itself: no other one takes part in what it computes."""

    device: torch.device
    num_processes: int = 1
    process_index: int = 0
    is_main_process: bool = True
    is_local_main_process: bool = True

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""


_alone: list[OneProcess] = []


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process computes what it is given by itself, and the others may be at something else.

    >>> with alone():
    ...     process_state().num_processes
    1
    """
    _alone.append(OneProcess(process_state().device))
    try:
        yield
    finally:
        _alone.pop()


def on_main(function: Callable[[], Any]) -> Any:
    """Call ``function`` on the first process and return its value on all of them. An error is raised on all of them.

    The value is sent by pickling, so it should be small.

    >>> on_main(lambda: 2 + 2)
    4
    """
    state = process_state()
    if state.num_processes == 1:
        return function()
    value, error = None, None
    if state.is_main_process:
        try:
            value = function()
        except BaseException as raised:  # the others wait for a value and would wait for ever
            error = raised
    value, error = broadcast_object_list([value, error])
    if error is not None:
        raise error
    return value


def from_main(value: Any) -> Any:
    """The first process's ``value``, on all processes.

    >>> from_main("a")
    'a'
    """
    return on_main(lambda: value)


def end_processes() -> None:
    """Wait for all processes of ``accelerate launch`` and take their connection down.

    Leaving that to the end of the interpreter aborts a process now and then: its threads still wait for another one.
    """
    state = process_state()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()


class SharedRows:
    """A float32 array of which each process computes some rows, and all get all.

    A large one is a file without a name that the processes of one machine map, so that it is in memory once and not
    once for each of them; of several machines, and where there is no room for the file, the rows are sent.

    >>> shared = SharedRows((2, 3))
    >>> shared.values[:] = 1
    >>> float(shared.exchange(np.arange(2)).sum())
    6.0
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._file = shape, None
        state = process_state()
        size = 4 * int(np.prod(shape))
        if state.num_processes > 1 and size >= SHARED_FROM and _local_processes(state) == state.num_processes:
            path = on_main(lambda: _reserved(size))
            if path:
                self._file = path.open("r+b")
                state.wait_for_everyone()
                if state.is_main_process:
                    path.unlink()  # the file is there as long as it is open
        self.values = np.empty(shape, dtype=np.float32) if self._file is None else self._mapped("r+")

    def exchange(self, rows: np.ndarray) -> np.ndarray:
        """The whole array, once all processes have computed their ``rows`` of it, and call this. What one of them
        writes into it then, it alone sees."""
        if self._file is not None:
            process_state().wait_for_everyone()
            self.values = self._mapped("c")
            self._file.close()
        elif process_state().num_processes > 1:
            for other_rows, other_values in gather_object([(rows, self.values[rows])]):
                self.values[other_rows] = other_values
        return self.values

    def _mapped(self, mode: str) -> np.ndarray:
        return np.asarray(np.memmap(self._file, dtype=np.float32, mode=mode, shape=self._shape))


def _reserved(size: int) -> Path | None:
    """A new file for so many bytes; None where there is no room for it."""
    descriptor, name = tempfile.mkstemp(prefix="sharpen-", suffix=".shared")
    try:
        os.posix_fallocate(descriptor, 0, size)  # or a full disk would end the process when it writes
    except (OSError, AttributeError):
        Path(name).unlink()
        return None
    finally:
        os.close(descriptor)
    return Path(name)


def _local_processes(state: PartialState) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))


@cache
def _share_cores(processes: int, is_main: bool) -> None:
    """Give each process of this machine its part of the cores, where the launcher has set one thread for each because
    the user has said nothing."""
    threads = cores() // processes
    if threads < 2 or os.environ.get(THREADS) != "1" or _user_set_threads():
        return
    use_threads(threads)
    if is_main:
        warnings.warn(
            f"accelerate launch has set one thread for each process ({THREADS}=1); {threads} are used, this machine's"
            f" cores divided by its processes ({processes}); set {THREADS} to choose another number",
            stacklevel=3,
        )


def use_threads(number: int) -> None:
    """Have this process compute with so many threads, in libraries that are loaded later, too."""
    torch.set_num_threads(number)
    threadpool_limits(number)
    os.environ[THREADS] = str(number)


def _user_set_threads() -> bool:
    """Whether the launcher was told how many; what it sets for its processes does not show in itself."""
    try:
        launcher = psutil.Process(os.getppid())  # parent() compares times, and clocks are set
        said = " ".join(launcher.cmdline()).replace("-", "_")
        return THREADS in launcher.environ() or "num_cpu_threads_per_process" in said
    except (psutil.Error, AttributeError):
        return True


@contextmanager
def workers(number: int) -> Iterator[Callable]:
    """``map`` over ``number`` threads, among which torch's cores are shared out evenly."""
    if number == 1:
        yield map
        return
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(max(1, cores // number),)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(cores)  # a thread that starts later takes the number that was set last
