"""Recipes that learn a teacher's scores of lists: no LLM, no label, nothing mined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.null_result import Cause
from sharpen.training.lists import CandidateLists
from sharpen.training.vectors import TeacherVectors
from tests.conftest import write_rows
from tests.processes import sharpen

LISTS = [
    "llm=null",
    "queries={strategies: [{kind: harvested}]}",
    "split={dev: 0.2}",
    "training.loss=kl",
    "training.candidates=6",
    "training.base_weight=0",
    "training.batch_size=8",
    "training.dropout=0",
]


def _run(recipe_file: Path, folder: Path, *more: str) -> tuple[Path, dict, str]:
    result = sharpen("run", str(recipe_file), *LISTS, *more, cwd=folder)
    assert result.returncode == 0, result.stderr
    run = folder / "runs" / "topics"
    return run, json.loads((run / "metrics.json").read_text()), result.stdout


def _questions(folder: Path) -> str:
    """Questions that are not those that are compared on."""
    questions = {"bread": "dough that rests", "glacier": "what does ice do downhill", "coffee": "how many beans"}
    (folder / "dev" / "qrels").mkdir(parents=True)
    write_rows(folder / "dev" / "queries.jsonl", [{"_id": f"d-{i}", "text": text} for i, text in questions.items()])
    rows = "".join(f"d-{i}\t{i}\t1\n" for i in questions)
    (folder / "dev" / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return f"{{data: '{folder / 'dev'}', split: dev}}"


def test_queries_learn_from_a_fitted_mixture_and_the_index_stays(recipe_file, tmp_path):
    more = (
        "training.teacher=[base, bm25]",
        f"training.validation={_questions(tmp_path)}",
        "training.documents=kept",
        "training.learning_rate=1e-3",
    )
    run, metrics, _ = _run(recipe_file, tmp_path, *more)
    assert not (run / "negatives").exists()
    counts = json.loads((run / "teacher" / "manifest.json").read_text())["counts"]
    weights = json.loads((run / "teacher" / "teachers.json").read_text())["training"]
    assert set(weights) <= {"base", "bm25"} and counts["training_teacher"]["ndcg@10"] > 0
    lists = CandidateLists.read(run / "teacher" / "training.parquet")
    assert lists.size == 6 and len(lists) == counts["training_lists"] == counts["training_masked"]
    queries = {row["_id"]: row for row in map(json.loads, (run / "pairs" / "queries.jsonl").open())}
    for q, documents in zip(lists.queries, lists.documents, strict=True):
        assert not set(documents) & set(queries[q]["metadata"]["positives"])  # a copy is not learnt
    model = SentenceTransformer(str(run / "model"))
    base = load_encoder("packaged:tiny-bert")
    text = "the dough rises"
    np.testing.assert_allclose(model.encode_document(text), base.encode(text), atol=1e-4)
    assert np.abs(model.encode_query(text) - base.encode(text)).max() > 0.01
    card = (run / "model" / "README.md").read_text()
    assert "model.encode_query(texts)" in card and "lists of 6 documents" in card
    assert metrics["verdict"] in ("better", "worse", "not distinguishable")
    again = sharpen("run", str(recipe_file), *LISTS, *more, cwd=tmp_path)
    assert again.returncode == 0 and "✓ training   unchanged, reused" in again.stdout


def test_a_cross_encoder_rescores_the_lists_and_both_sides_are_trained(recipe_file, tmp_path):
    folder = tmp_path / "cross-encoder"
    load_cross_encoder("packaged:tiny-bert", new_head=True).save_pretrained(str(folder))
    more = (f"training.teacher={{base: 1, bm25: 0.5, {folder}: 2}}", "training.candidates=4", "name=both")
    result = sharpen("run", str(recipe_file), *LISTS, *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "both"
    lists = CandidateLists.read(run / "teacher" / "training.parquet")
    assert lists.size == 4 and (np.diff(lists.scores) <= 0).all()
    model = SentenceTransformer(str(run / "model"))
    base = load_encoder("packaged:tiny-bert")
    assert np.abs(model.encode("the dough rises") - base.encode("the dough rises")).max() > 0.001


def test_a_null_result_is_explained_from_what_the_run_measured(recipe_file, tmp_path):
    run, metrics, _ = _run(recipe_file, tmp_path, "training.teacher=bm25", "training.learning_rate=1e-9")
    assert metrics["why"]["cause"] == Cause.nothing_moved and metrics["why"]["measured"]["query_cosine"] > 0.9999
    report = (run / "report.md").read_text()
    assert (
        "## Why" in report and "**Nothing moved.**" in report and "Nothing moved" in (run / "report.html").read_text()
    )

    model = load_encoder("packaged:tiny-bert")
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    model.save_pretrained(str(tmp_path / "noise"), create_model_card=False)
    more = (
        f"training.teacher=encoder:{tmp_path / 'noise'}",
        f"training.validation={_questions(tmp_path)}",
        "training.learning_rate=3e-3",
        "training.epochs=4",
    )
    _, metrics, _ = _run(recipe_file, tmp_path, *more)
    measured = metrics["why"]["measured"]
    assert metrics["why"]["cause"] == Cause.teacher_not_better and measured["teacher"] < measured["base"] + 0.005
    assert min(measured["query_cosine"], measured["document_cosine"]) < 0.999


def test_teachers_are_measured_before_training_and_the_line_that_is_printed_is_a_recipe_s(recipe_file, tmp_path):
    result = sharpen("teachers", str(recipe_file), *LISTS, "training.teacher=fused", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "generated dev queries, copied from documents" in result.stdout and "| bm25 |" in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("teacher: {"))
    teacher = line.partition(": ")[2]
    assert not (tmp_path / "runs" / "topics" / "training").exists()
    valid = sharpen("validate", str(recipe_file), *LISTS, f"training.teacher={teacher}", cwd=tmp_path)
    assert valid.returncode == 0, valid.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["training.teacher=null"], "loss: kl learns a teacher's scores; give teacher"),
        (["training.teacher=[base, ./nowhere]"], "teacher: "),
        (["training.teacher=fused", "training.documents=kept", "training.candidates=null"], "documents: kept needs"),
        (["training.teacher=fused", "training.triplets=10"], "triplets: rows are lists"),
        (
            ["training.teacher=base", "training.triplets=10", "training.loss=embedding", "training.candidates=null"],
            "triplets: rows are pairs",
        ),
        (["training.teacher={base: 1, bm25: 0}"], "weights are above 0, and bm25 has 0"),
        (["training.teacher={}"], "a mixture names at least one scorer"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(recipe_file, tmp_path, more, said):
    result = sharpen("run", str(recipe_file), *LISTS, *more, cwd=tmp_path)
    assert result.returncode != 0 and said in " ".join(result.stderr.split())
    assert not (tmp_path / "runs" / "topics" / "queries").exists()


def test_a_small_encoder_learns_the_vectors_of_a_larger_one(recipe_file, tmp_path):
    more = (
        "training.loss=embedding",
        "training.candidates=null",
        "training.teacher={'encoder:packaged:all-MiniLM-L6-v2': 1, base: 0.1}",
        "training.learning_rate=3e-4",
        "training.epochs=4",
    )
    run, _, _ = _run(recipe_file, tmp_path, *more)
    assert not (run / "negatives").exists()
    vectors = TeacherVectors.read(run / "teacher" / "vectors.parquet")
    assert vectors.weights == {"encoder:packaged:all-MiniLM-L6-v2": 1.0, "base": 0.1}
    assert vectors.vectors["encoder:packaged:all-MiniLM-L6-v2"].shape == (len(vectors.row_of), 384)
    log = json.loads((run / "training" / "training_log.json").read_text())
    assert log["log"][-1]["loss"] < log["log"][0]["loss"]
    assert json.loads((run / "diagnosis" / "manifest.json").read_text())["counts"]["document_cosine"] < 0.999
    for wrong, said in (
        ("training.teacher=bm25", "embedding learns encoders' vectors, and bm25 has none"),
        ("training.teacher=[base]", "those of vectors are not fitted"),
    ):
        result = sharpen("run", str(recipe_file), *LISTS, *more, wrong, cwd=tmp_path)
        assert result.returncode == 2 and said in result.stderr


def test_ways_without_negatives_are_compared(recipe_file, tmp_path):
    path = tmp_path / "ways.yaml"
    path.write_text(
        f"recipe: {recipe_file}\n"
        "seeds: [3]\n"
        f"overrides: {json.dumps([*LISTS, 'training.teacher=fused'])}\n"
        "arms:\n"
        "  lists: []\n"
        "  vectors: [training.loss=embedding, training.candidates=null, training.teacher=base]\n"
    )
    result = sharpen("compare", str(path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = {p.parent.name: json.loads(p.read_text())["triplets"] for p in tmp_path.rglob("scores.json")}
    pairs = (next(tmp_path.rglob("vectors-3/pairs/qrels/train.tsv"))).read_text().count("\n") - 1
    assert rows["vectors-3"] == pairs > 3 and rows["lists-3"] > 3
