"""The examples in docstrings, and what the package exports."""

import doctest
import importlib
import pkgutil

import pytest

import sharpen.evaluation

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(sharpen.evaluation.__path__, "sharpen.evaluation.")
    if "templates" not in module.name
)


@pytest.mark.parametrize("name", ["sharpen.evaluation", *MODULES])
def test_examples_are_right(name: str):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = {m for m in MODULES for t in finder.find(importlib.import_module(m)) if t.examples}
    assert len(with_examples) >= 15


def test_all_names_that_are_exported_are_there():
    for name in sharpen.evaluation.__all__:
        assert getattr(sharpen.evaluation, name).__module__.startswith("sharpen.evaluation")
    required = "Task compare Report BM25 Dense Hybrid Reranked Encoder Models InputError read_corpus read_queries"
    required += " read_qrels evaluate search_task load_encoder"
    assert set(required.split()) <= set(sharpen.evaluation.__all__)
