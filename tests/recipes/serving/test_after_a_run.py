"""The walk from a finished run to use, as the program of scripts/ does it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

SCRIPT = Path(__file__).parents[3] / "scripts" / "after_a_run.py"


@pytest.mark.slow
def test_a_run_is_searched_marked_compared_exported_verified_and_indexed(run: Path, tmp_path: Path):
    pytest.importorskip("qdrant_client")
    command = [sys.executable, str(SCRIPT), str(run), "--out", str(tmp_path / "after")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "'queries': 6, 'marks': 12" in done.stdout and "6 queries of marks" in done.stdout
    assert done.stdout.count("a cosine of 1.00000 in the mean") == 2 and "serves this model." in done.stdout
    assert "12 documents, 128 numbers each" in done.stdout
