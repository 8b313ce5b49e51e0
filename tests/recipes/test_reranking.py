"""Rerankers in a recipe: what they put in order, and several of them as one."""

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
from sharpen.recipes.stages.reranker import RerankerStage
from sharpen.recipes.stages.teacher import read_teacher
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


def test_one_reranker_is_known_as_it_was_before_there_were_committees(recipe_file):
    one, three = (RerankerStage.of(_recipe(recipe_file, f"reranker.committee={n}")).fingerprint() for n in (1, 3))
    assert three["settings"].pop("committee") == 3 and one == three and "committee" not in str(one)


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


@pytest.mark.slow
def test_a_committee_ranks_and_teaches_and_serves_by_its_folder(recipe_file, tmp_path):
    part = f"{RERANKER}, committee: 2}}"
    learns = ["training.loss=kl", "training.teacher=reranker", "negatives.per_query=2"]
    result = sharpen("run", str(recipe_file), *NO_LLM, part, *learns, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "topics"
    folder = run / "reranker"
    assert {p.name for p in folder.iterdir()} == {
        "committee.json", "manifest.json", "member-1", "member-2", "training_log.json"
    }  # fmt: skip
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts["members"] == 2 and counts["steps"] >= 2
    assert "The committee of 2 rerankers over the first 6 of BM25 is" in result.stdout
    systems = json.loads((run / "systems" / "systems.json").read_text())["systems"]
    reranked = {system["name"]: system for system in systems if system["reranked"]}
    assert all(row["needs"].endswith("2 cross-encoders") for row in reranked.values())
    assert [reranked[f"{name}, reranked"]["models"] for name in ("BM25", "tuned")] == [2, 3]
    # its scores of the rows are those that its folder gives
    inputs = Inputs(run)
    scores = read_teacher(inputs, "training")
    again = Models().score(str(folder), list(scores), inputs.train_queries(), inputs.corpus())
    assert again == pytest.approx(scores, abs=1e-4)
    evaluated = sharpen("evaluate", "bm25", "--rerank", str(folder), "--data", str(tmp_path / "topics"), cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    teachers = sharpen("teachers", str(recipe_file), *NO_LLM, part, *learns, "--scorer", "reranker", cwd=tmp_path)
    assert teachers.returncode == 0 and str(folder.relative_to(tmp_path)) in teachers.stdout, teachers.stderr
    uses = [
        f"filters.cross_encoder={{model: {folder}, min_score: -100}}",
        f"negatives.miners=[{{kind: cross_encoder, model: {folder}, ranks: [1, 5], depth: 6}}]",
        f"negatives.filters=[{{kind: percentage, scorer: {folder}}}]",
    ]
    other = sharpen("run", str(recipe_file), *NO_LLM, *uses, "name=other", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs" / "other" / "negatives" / "negatives.jsonl").open()]
    assert {row["miner"] for row in rows} == {"cross_encoder"}
    assert "✓ reranker   unchanged" in sharpen("run", str(recipe_file), *NO_LLM, part, *learns, cwd=tmp_path).stdout
