"""MTEB reads what `sharpen evaluate` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpen.evaluation.mteb import TASKS, TaskResult, task_name
from tests.processes import sharpen


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    from tests.conftest import make_dataset

    folder = tmp_path_factory.mktemp("evaluated")
    make_dataset(folder / "scifact")
    result = sharpen("evaluate", "bm25", "--data", "scifact", "--out", "out", cwd=folder)
    assert result.returncode == 0, result.stderr
    means = json.loads((folder / "out" / "scifact-split-test" / "bm25" / "evaluation.json").read_text())["metrics"]
    return folder / "out" / "mteb", means


def test_the_result_is_in_its_layout(evaluated):
    folder, means = evaluated
    path = folder / "results" / "bm25" / "no_revision_available" / "SciFact.json"
    result = TaskResult.model_validate_json(path.read_text())
    (scores,) = result.scores["test"]
    assert scores.main_score == scores.ndcg_at_10 == pytest.approx(means["ndcg@10"])
    assert scores.recall_at_100 == pytest.approx(means["recall@100"]) and scores.languages == ["eng-Latn"]


def test_mteb_itself_reads_it(evaluated):
    mteb = pytest.importorskip("mteb")
    folder, means = evaluated
    path = folder / "results" / "bm25" / "no_revision_available" / "SciFact.json"
    read = mteb.TaskResult.from_disk(path, load_historic_data=False)
    assert read.task_name == "SciFact" and read.get_score() == pytest.approx(means["ndcg@10"])
    assert read.task.metadata.type == "Retrieval" and read.languages == ["eng"]
    loaded = mteb.ResultCache(folder).load_results(models=["bm25"], tasks=["SciFact"], require_model_meta=False)
    (model,) = loaded.model_results
    assert model.task_results[0].get_score() == pytest.approx(means["ndcg@10"])


def test_names_are_those_of_mteb():
    pytest.importorskip("mteb")
    from mteb.get_tasks import _TASKS_REGISTRY as KNOWN

    from sharpen.evaluation.datasets import BEIR_DATASETS, CQADUPSTACK, CQADUPSTACK_PARTS, NANOBEIR

    parts = [f"{CQADUPSTACK}/{part}" for part in CQADUPSTACK_PARTS]
    for name in {*BEIR_DATASETS, *NANOBEIR, *parts} - {CQADUPSTACK}:
        assert task_name(name) in KNOWN, name
    assert set(TASKS.values()) <= set(KNOWN) and not Path(task_name("a/b")).is_absolute()
