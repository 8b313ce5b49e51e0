"""The examples in docstrings are run."""

import doctest
import importlib
import pkgutil

import pytest

import sharpen.training

try:
    from sharpen.training.fast_cpu.kernels import HAS_NUMBA
except ModuleNotFoundError:
    MISSING = ("sharpen.training.fast_cpu",)
else:
    MISSING = () if HAS_NUMBA else ("sharpen.training.fast_cpu.compiled",)

MODULES = ["sharpen.training"] + [
    module.name
    for module in pkgutil.walk_packages(sharpen.training.__path__, "sharpen.training.")
    if not module.name.startswith(MISSING)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    "name", ["make_triplets", "Validation", "RetrieverSettings", "RerankerSettings", "TrainingRun"]
)
def test_what_needs_no_model_has_an_example(name):
    assert ">>>" in getattr(sharpen.training, name).__doc__


def test_every_name_that_is_exported_is_there():
    assert all(hasattr(sharpen.training, name) for name in sharpen.training.__all__)
