"""The command line in tests; processes to be killed start at once, forked from one that has imported everything and
computed nothing."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["sharpen.recipes.cli", "sharpen.recipes.run", "sharpen.training.retriever", "sharpen.training.reranker"]
)


def start_sharpen(*arguments: str, cwd: Path, **environment: str) -> BaseProcess:
    """The command line in a process of its own; what it prints is dropped, and its exit status is the process's."""
    return start(_sharpen, arguments, str(cwd), environment)


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def kill_when(process: BaseProcess, reached: Callable[[], object], seconds: float = 240) -> None:
    """Kill a process in the midst of its work; it is an error if it ends by itself before that."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()


def _sharpen(arguments: tuple[str, ...], cwd: str, environment: dict[str, str]) -> None:
    from sharpen.recipes.cli import main

    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = ["sharpen", *arguments]
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    main()


def sharpen(*arguments: str, cwd: Path, process: bool = False) -> subprocess.CompletedProcess:
    """The command line: ``process``, as a process of its own, else within this one, which saves the seconds that
    imports take."""
    if process:
        return subprocess.run(
            [sys.executable, "-m", "sharpen.recipes", *arguments],
            cwd=cwd,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
    from sharpen.recipes.cli import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["sharpen", *arguments])
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1"} | more


def environment_with_tests(**more: str) -> dict[str, str]:
    """The same, for a program that imports from ``tests``."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment(PYTHONPATH=os.pathsep.join(paths), **more)
