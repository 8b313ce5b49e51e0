"""The README's Python, as it stands there, on real documents with a real LLM and a real encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TOPICS
from tests.processes import environment, sharpen
from tests.support.readme import ROOT, blocks

RECIPES = ROOT / "recipes" / "README.md"
POOL = Path(__file__).parents[1] / "recipes" / "pools" / "python_docs.yaml"


@pytest.mark.slow
def test_from_documents_to_a_report_in_the_lines_of_the_readme(tmp_path):
    from sharpen import sdg

    (tmp_path / "docs").mkdir()
    documents = list(sdg.read_documents("python-docs").values())
    for n, document in enumerate(documents[:: len(documents) // 24][:24]):
        (tmp_path / "docs" / f"{n}.txt").write_text(f"{document.title}\n{document.text[:600]}")
    (tmp_path / "pool.yaml").write_text(POOL.read_text())
    code = next(block for block in blocks("python") if "ev.compare(" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 18
    # more of so few documents are held out
    (tmp_path / "walk.py").write_text(code.replace("test=0.1", "test=0.4"))
    result = subprocess.run(
        [sys.executable, "walk.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr
    assert "ndcg@10" in result.stdout and any(
        verdict in result.stdout for verdict in ("better", "worse", "not distinguishable")
    )
    assert "<html" in (tmp_path / "report.html").read_text() and (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_users_own_miner_and_strategy_run_in_a_recipe(recipe_file, tmp_path):
    from ruamel.yaml import YAML

    code = next(block for block in blocks("python", RECIPES) if "class SameModule" in block)
    (tmp_path / "mine.py").write_text(code)
    parts = YAML(typ="safe").load(next(block for block in blocks("yaml", RECIPES) if "mine.py:Titles" in block))
    parts["negatives"]["per_query"] = 2
    overrides = [f"{key}.{name}={json.dumps(value)}" for key, part in parts.items() for name, value in part.items()]
    # of an override, files lie in the working directory, which here is the recipe's
    result = sharpen("run", str(recipe_file), *overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "topics"
    stats = json.loads((folder / "queries" / "strategies.json").read_text())
    assert (
        stats["titles"]["asked"] == len(TOPICS) == stats["titles"]["kept"] + sum(stats["titles"]["rejected"].values())
    )
    miners = {json.loads(line)["miner"] for line in (folder / "negatives" / "negatives.jsonl").open()}
    assert miners == {"bm25", "module"}
    # another miner under the same name is another input
    before = json.loads((folder / "negatives" / "manifest.json").read_text())["fingerprint"]["sha256"]
    (tmp_path / "mine.py").write_text(code.replace("1.0 for i", "2.0 for i"))
    assert sharpen("run", str(recipe_file), *overrides, cwd=tmp_path).returncode == 0
    after = json.loads((folder / "negatives" / "manifest.json").read_text())["fingerprint"]["sha256"]
    assert before != after
    (tmp_path / "mine.py").write_text("raise ValueError('broken')\n")
    broken = sharpen("run", str(recipe_file), *overrides, cwd=tmp_path)
    assert broken.returncode == 2 and "cannot be imported: ValueError: broken" in broken.stderr


@pytest.mark.slow
def test_a_run_inside_a_folder_with_packages_of_the_same_names(recipe_file, tmp_path):
    for name in ("evaluation", "training", "recipes", "sdg", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} of the user')\n")
    result = sharpen("run", str(recipe_file), "queries.per_document=1", cwd=tmp_path, process=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "topics" / "metrics.json").exists()
