"""Processes to be killed, which start at once: forked from one that has imported everything and computed nothing."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["recipes.cli", "recipes.run", "training.retriever", "training.reranker"])


def start_sharpen(*arguments: str, cwd: Path, **environment: str) -> BaseProcess:
    """The command line in a process of its own; what it prints is dropped, and its exit status is the process's."""
    return start(_sharpen, arguments, str(cwd), environment)


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def _sharpen(arguments: tuple[str, ...], cwd: str, environment: dict[str, str]) -> None:
    from recipes.cli import main

    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = ["sharpen", *arguments]
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    main()
