"""Recipes of sparse and multi-vector encoders, from validation to verdict, and comparisons across families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentence_transformers import MultiVectorEncoder, SparseEncoder

from sharpen.evaluation.contents import Contents
from sharpen.evaluation.files import InputError
from sharpen.recipes.engine import fingerprint_of
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages import check_recipe, stages_of
from tests.processes import sharpen
from tests.support.tiny_models import encoder

WALK = [
    "llm=null",
    "queries={strategies: [{kind: harvested, per_document: 2}]}",
    "filters.round_trip=null",
    "split={dev: 0.3}",
    "training.validation={evaluations: 2}",
    "training.base_weight=[0, 0.5]",
]
SPARSE = ["training.family=sparse", "training.loss=cached_mnrl", "training.mini_batch_size=4"]
MULTI_VECTOR = ["training.family=multi_vector"]


@pytest.mark.parametrize(("family", "overrides"), [("sparse", SPARSE), ("multi_vector", MULTI_VECTOR)])
def test_a_family_walks_the_whole_way(family, overrides, recipe_file: Path, dataset: Path, tmp_path: Path):
    overrides = [*WALK, *overrides]
    result = sharpen("run", str(recipe_file), *overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    run = tmp_path / "runs" / "topics"
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["delta"]["ndcg@10"]) >= {"value", "interval"} and metrics["verdict"]
    counts = json.loads((run / "training" / "manifest.json").read_text())["counts"]
    assert counts["kept_step"] > 0
    kind = {"sparse": SparseEncoder, "multi_vector": MultiVectorEncoder}[family]
    model = kind(str(run / "model"), device="cpu")
    assert len(model.encode_query(["bread"])) == 1 and not list(run.rglob("*.bin"))
    card = (run / "model" / "README.md").read_text()
    assert f"from sentence_transformers import {kind.__name__}" in card and family.partition("_")[0] in card
    # the same figures by the folder alone, and fused with BM25
    out = ["--out", "out", "--data", str(dataset)]
    for system in (str(run / "model"), f"fused:0.3:{run / 'model'}"):
        again = sharpen("evaluate", system, *out, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        if not system.startswith("fused"):
            assert f"{metrics['after']['ndcg@10']['value']:.4f}" in again.stdout
    approximate = sharpen("evaluate", str(run / "model"), "--approximate", *out, cwd=tmp_path)
    assert approximate.returncode and f"the model is {family}" in " ".join(approximate.stderr.split())
    assert "unchanged, reused" in sharpen("run", str(recipe_file), *overrides, cwd=tmp_path).stdout


@pytest.mark.slow
def test_families_are_compared_on_the_same_pairs_and_negatives(recipe_file: Path, tmp_path: Path):
    study = tmp_path / "families.yaml"
    study.write_text(
        f"recipe: {recipe_file}\nseeds: [3]\noverrides: {json.dumps(WALK[:3])}\nbaseline: dense\narms:\n"
        f"  dense: []\n  sparse: {json.dumps(SPARSE)}\n  multi-vector: {json.dumps(MULTI_VECTOR)}\n"
    )
    plan = sharpen("compare", str(study), "--plan", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    result = sharpen("compare", str(study), cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    assert all(arm in result.stdout for arm in ("dense", "sparse", "multi-vector"))
    runs = sorted((tmp_path / "runs" / "families").rglob("negatives/negatives.jsonl"))
    assert len(runs) == 3 and len({path.read_bytes() for path in runs}) == 1


def test_before_is_the_base_as_it_is_and_shared_with_the_dense_arm(recipe_file: Path, tmp_path: Path):
    base, file = f"training.base={encoder(tmp_path / 'encoder')}", str(recipe_file)

    def fingerprints(*overrides: str) -> dict[str, str]:
        recipe = load_recipe(file, [*WALK, *overrides]).recipe
        parts = {stage.name: (stage, part) for stage, part in stages_of(recipe)}
        nothing = {name: {"outputs": {}} for name in parts}
        return {name: fingerprint_of(*parts[name], nothing, Contents())["sha256"] for name in ("before", "training")}

    dense, multi = fingerprints(base), fingerprints(base, *MULTI_VECTOR)
    assert dense["before"] == multi["before"] and dense["training"] != multi["training"]
    plain, sparse = fingerprints(), fingerprints(*SPARSE)
    assert plain["before"] != sparse["before"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["negatives={refresh: true, miners: [{kind: dense}]}"], "negatives.refresh: mines with dense encoders only"),
        (["evaluation.approximate=true"], "evaluation.approximate: cells are made of dense vectors"),
        (["training.documents=kept"], "documents: only dense encoders have it"),
        (["training.lora={}"], "lora: only dense encoders have it, and family is sparse"),
        (["training.loss=embedding", "training.teacher=encoder:packaged:tiny-bert"], "loss: embedding is of dense"),
        (["filters.near_duplicates={}"], "filters.near_duplicates: compares the dense vectors of training.base, and"),
    ],
)
def test_wrong_combinations_are_refused_with_the_key(recipe_file, overrides, message):
    with pytest.raises(InputError, match=message):
        check_recipe(load_recipe(str(recipe_file), [*WALK, *SPARSE, *overrides]).recipe)
