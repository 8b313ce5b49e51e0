"""The examples in the docstrings of ``sharpen.sdg`` run, and say what they say."""

import doctest
import importlib
import pkgutil

import pytest

import sharpen.sdg

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(module.name for module in pkgutil.walk_packages(sharpen.sdg.__path__, "sharpen.sdg."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    attempted = sum(len(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert attempted > 40
