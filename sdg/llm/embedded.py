"""An LLM from a package, served on the loopback address through the OpenAI protocol.

The server is llama.cpp's own (``xllamacpp``) in a process of its own, which ends when its parent does, however that
ends.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sharpen.evaluation.cores import cores
from sharpen.evaluation.files import InputError

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class ServedLLM:
    """Where a served model answers, and the key that it asks for."""

    base_url: str
    api_key: str


@contextmanager
def serve(gguf: Path, slots: int = 1, context: int = 4096, threads: int | None = None) -> Iterator[ServedLLM]:
    """Serve ``gguf`` for the length of the block.

    ``slots``: requests at once. One is the default, as it makes an answer a function of the request alone: with more, a
    request is computed in one batch with whatever else is running, and the sums, and now and then a word, come out
    differently. On two cores it is no slower either. ``context``: tokens a slot. ``threads``: default, one a core.

    Memory is bounded by the weights and ``slots * context`` tokens of keys and values; the server's own store of past
    prompts is off. A slot still keeps the prompt before, so a shared prefix is computed once.
    Raises ``InputError`` if ``xllamacpp`` is not installed or the server does not come up.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise InputError("llm: embedded needs the package xllamacpp; run: pip install 'sharpen[embedded]'")
    key = secrets.token_urlsafe(24)
    # -P: a folder of the user beside the run, say one named json, shadows nothing
    command = [sys.executable, "-P", "-m", "sharpen.sdg.llm.embedded", str(gguf), str(slots), str(context)]
    command.append(str(threads or cores()))
    log: list[str] = []
    # the key travels in the environment: arguments can be read by every user of the machine
    environment = os.environ | {"SHARPEN_SERVER_KEY": key}
    process = subprocess.Popen(
        command,
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
            raise InputError(f"the embedded LLM server did not start ({gguf}). Its last words:\n" + "\n".join(log[-8:]))
        yield ServedLLM(f"{address}/v1", key)
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


def _main(gguf: str, slots: str, context: str, threads: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.model_alias = {"embedded"}
    parameters.n_parallel = int(slots)
    parameters.n_ctx = int(context) * int(slots)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    # threads without work sleep at once: those that poll take the core that a busy one waits for, where other processes
    # want it, too; on a quiet machine it is as quick as polling
    parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
    parameters.n_gpu_layers = 0
    parameters.offline = True
    parameters.use_jinja = True
    # keep the whole context of models with sliding-window attention (Gemma 3), or a prefix could not be reused
    parameters.swa_full = True
    parameters.cache_ram_mib = 0
    parameters.n_ctx_checkpoints = 0
    parameters.endpoint_slots = False
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [os.environ.pop("SHARPEN_SERVER_KEY")]
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()  # until the parent closes it, or dies
    os._exit(0)  # the server's threads need no farewell


if __name__ == "__main__":
    _main(*sys.argv[1:])
