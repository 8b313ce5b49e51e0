"""Rerankers in a recipe: what they put in order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.candidates import standardized_rows
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import ranking
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages.comparison import RERANKED, RerankedStage
from tests.processes import sharpen

NO_LLM = ["llm=null", "queries={strategies: [{kind: harvested}]}", "split={dev: 0.2}", "training.batch_size=8"]
RERANKER = "reranker={base: 'packaged:tiny-bert', negatives: 2, depth: 6, epochs: 1"


def _recipe(recipe_file: Path, *more: str):
    return load_recipe(str(recipe_file), [*NO_LLM, f"{RERANKER}}}", *more]).recipe


def _ran(folder: Path, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (folder / f"{name}.trec").open():
        found.setdefault(line.split()[0], []).append(line.split()[2])
    return found


def test_bm25_and_the_tuned_retriever_are_one_first_stage_by_z_scores(recipe_file, dataset, tmp_path):
    load_encoder("packaged:tiny-bert").save_pretrained(str(tmp_path / "model"))
    recipe = _recipe(recipe_file, "reranker.first_stage=fused", "reranker.bm25_weight=0.5")
    part, task = RerankedStage.of(recipe), load_task(str(dataset))
    run = part.first(Inputs(tmp_path), Models(), task).search(task.texts, 12)
    texts = list(task.texts.values())
    scores = [
        standardized_rows(np.concatenate(list(retriever.score_blocks(texts, 12))))
        for retriever in (Dense(task.corpus, str(tmp_path / "model")), BM25(task.corpus))
    ]
    for query, row in zip(task.texts, scores[0] + 0.5 * scores[1], strict=True):
        assert ranking(run[query]) == [list(task.corpus)[n] for n in np.argsort(-row)]


def test_the_weight_is_in_the_fingerprint_of_the_fused_stage_only(recipe_file):
    parts = {
        (stage, weight): RerankedStage.of(
            _recipe(recipe_file, f"reranker.first_stage={stage}", f"reranker.bm25_weight={weight}")
        )
        for stage in ("bm25", "retriever", "fused")
        for weight in (0.3, 0.5)
    }
    differ = {s: parts[s, 0.3].fingerprint() != parts[s, 0.5].fingerprint() for s in ("bm25", "retriever", "fused")}
    assert differ == {"bm25": False, "retriever": False, "fused": True}
    assert "bm25_weight" not in parts["bm25", 0.3].fingerprint()
    assert {s: "model" in parts[s, 0.3].reads() for s in differ} == {"bm25": False, "retriever": True, "fused": True}
    assert RERANKED.part is RerankedStage


@pytest.mark.slow
def test_a_report_names_what_was_put_in_order(recipe_file, tmp_path):
    part = f"{RERANKER}, first_stage: fused}}"
    result = sharpen("run", str(recipe_file), *NO_LLM, part, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "topics"
    name = "reranker over the first 6 of the tuned retriever + 0.3 BM25"
    metrics = json.loads((run / "metrics.json").read_text())["reranker"]
    assert metrics["names"] == ["tuned retriever + 0.3 BM25", name]
    assert f"The {name} is" in result.stdout and name in (run / "report.md").read_text()
    first, reranked = (_ran(run / "reranked", name) for name in ("first", "reranked"))
    # six in another order, and those below as they were
    assert all(set(first[q][:6]) == set(reranked[q][:6]) and first[q][6:] == reranked[q][6:] for q in first)
    assert first != reranked and len(first) == 6
