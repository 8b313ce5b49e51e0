"""Processes of ``accelerate launch``, and the threads of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def process_state() -> PartialState:
    """Which of the processes of ``accelerate launch`` this is, and its device.

    The time-out is long because all processes wait while the first one asks an LLM.
    """
    # under FSDP, all but the first process would load models without their weights, and encode with what lay there
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=3))


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
