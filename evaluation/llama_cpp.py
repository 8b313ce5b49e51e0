"""llama.cpp's server (``xllamacpp``) on the loopback address, which speaks the OpenAI protocol: for a GGUF file of an
LLM or of an encoder.

It is a process of its own, which ends when its parent does, however that ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sharpen.evaluation.files import InputError

START_TIMEOUT_S = 120
ServedPooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True)
class Served:
    """Where a model answers, and the key that its server asks for."""

    base_url: str
    api_key: str


def has_llama_cpp() -> bool:
    """Whether ``xllamacpp`` is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


@contextmanager
def serve_encoder(
    gguf: Path, context: int, threads: int = 1, pooling: ServedPooling | None = None, normalize: bool = True
) -> Iterator[Served]:
    """Serve the vectors of an encoder for the length of the block, as ``llama-server --embedding`` does.

    ``context``: tokens of the longest text; the server refuses longer ones. ``pooling``: in place of what the file
    says. ``normalize``: to length 1. Raises ``InputError`` as ``serve_gguf`` does.
    """
    settings = {"embedding": True, "n_ctx": context, "n_batch": context, "n_ubatch": context, "n_parallel": 1}
    settings |= {"embd_normalize": 2 if normalize else -1, "pooling": pooling}
    with serve_gguf(gguf, settings, threads, "vectors of a GGUF file need") as served:
        yield served


@contextmanager
def serve_gguf(gguf: Path, settings: Mapping[str, Any], threads: int, needed_by: str) -> Iterator[Served]:
    """Serve ``gguf`` for the length of the block.

    ``settings``: values of ``xllamacpp.CommonParams``, as JSON has them. ``needed_by``: how the error begins that says
    that ``xllamacpp`` is not installed. Raises ``InputError`` for that, and if the server does not come up.
    """
    if not has_llama_cpp():
        raise InputError(f"{needed_by} the package xllamacpp; run: pip install 'sharpen[embedded]'")
    key = secrets.token_urlsafe(24)
    # -P: a folder of the user beside the run, say one named json, shadows nothing
    command = [sys.executable, "-P", "-m", "sharpen.evaluation.llama_cpp", str(gguf), str(threads)]
    log: list[str] = []
    # the key travels in the environment: arguments can be read by every user of the machine
    environment = os.environ | {"SHARPEN_SERVER_KEY": key}
    process = subprocess.Popen(
        [*command, json.dumps(dict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        errors="replace",
    )
    reader = threading.Thread(target=_keep_tail, args=(process.stderr, log), daemon=True)
    reader.start()
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        address = process.stdout.readline().strip()
        watchdog.cancel()
        if not address:
            process.wait(timeout=10)
            raise InputError(f"the embedded server did not start ({gguf}). Its last words:\n" + "\n".join(log[-8:]))
        yield Served(f"{address}/v1", key)
    finally:
        watchdog.cancel()
        process.stdin.close()  # the server ends when its standard input does
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _keep_tail(stream, lines: list[str]) -> None:
    for line in stream:
        lines.append(line.rstrip())
        del lines[:-50]


def _main(gguf: str, threads: str, settings: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.model_alias = {"embedded"}
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    # threads without work sleep at once: those that poll take the core that a busy one waits for, where other processes
    # want it, too; on a quiet machine it is as quick as polling
    parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
    parameters.n_gpu_layers = 0
    parameters.offline = True
    # its own store of past prompts, which would grow
    parameters.cache_ram_mib = 0
    parameters.n_ctx_checkpoints = 0
    parameters.endpoint_slots = False
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [os.environ.pop("SHARPEN_SERVER_KEY")]
    values = json.loads(settings)
    if pooling := values.pop("pooling", None):
        kinds = xllamacpp.llama_pooling_type
        parameters.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    for name, value in values.items():
        setattr(parameters, name, value)
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()  # until the parent closes it, or dies
    os._exit(0)  # the server's threads need no farewell


if __name__ == "__main__":
    _main(*sys.argv[1:])
