"""An LLM from a package, served on the loopback address through the OpenAI protocol, by llama.cpp's own server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharpen.evaluation.cores import cores
from sharpen.evaluation.llama_cpp import Served as ServedLLM
from sharpen.evaluation.llama_cpp import serve_gguf

__all__ = ["ServedLLM", "serve"]


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
    settings = {
        "n_parallel": slots,
        "n_ctx": context * slots,
        "use_jinja": True,
        # keep the whole context of models with sliding-window attention (Gemma 3), or a prefix could not be reused
        "swa_full": True,
    }
    with serve_gguf(gguf, settings, threads or cores(), "llm: embedded needs") as served:
        yield served
