import io
from pathlib import Path

import pytest
from rich.console import Console

from sharpen.evaluation.datasets import BEIR_DATASETS
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import parse_metric
from sharpen.recipes.reproduce import read_expected, reproduce


def test_every_baseline_is_whole_and_needs_what_it_says():
    expected = read_expected()
    for baseline in (*expected.here, *expected.network):
        parse_metric(baseline.metric)
        assert 0 < baseline.expected < 1 and 0 < baseline.tolerance < 0.1 and baseline.source
    assert all(b.system.split(":")[0] in ("bm25", "packaged", "hybrid") for b in expected.here)
    assert all(b.data in BEIR_DATASETS for b in expected.network)


@pytest.mark.parametrize(("value", "fine"), [(0.85, True), (0.5, False)])
def test_what_is_off_is_said(tmp_path: Path, dataset: Path, value: float, fine: bool):
    (tmp_path / "expected.yaml").write_text(
        f"here:\n  - {{system: bm25, data: {dataset}, expected: {value}, tolerance: 0.15, source: by hand}}\nnetwork:"
        " []\n"
    )
    console = Console(file=io.StringIO(), width=200)
    assert reproduce(console, path=tmp_path / "expected.yaml") is fine
    assert ("OFF" in console.file.getvalue()) is not fine and "by hand" in console.file.getvalue()


def test_what_cannot_be_run_is_off(tmp_path: Path):
    (tmp_path / "expected.yaml").write_text(
        "here:\n  - {system: bm25, data: ./nowhere/x, expected: 0.5, tolerance: 0.1, source: none}\nnetwork: []\n"
    )
    assert reproduce(Console(file=io.StringIO()), path=tmp_path / "expected.yaml") is False
    (tmp_path / "expected.yaml").write_text("here:\n  - {system: bm25}\n")
    with pytest.raises(InputError, match=r"expected\.yaml"):
        read_expected(tmp_path / "expected.yaml")
