"""The examples in docstrings."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["marks", "why"])
def test_examples_are_right(name: str):
    result = doctest.testmod(importlib.import_module(f"sharpen.recipes.serving.{name}"))
    assert result.failed == 0 and result.attempted
