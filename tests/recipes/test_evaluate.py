import json
import shutil
from pathlib import Path

import pytest

from sharpen.evaluation.datasets import CQADUPSTACK_PARTS, load_task
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.retrievers.base import search_task
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.recipes.evaluate import default_folder
from tests.processes import sharpen


def test_two_systems_are_compared_and_their_run_files_again(tmp_path: Path, dataset: Path):
    result = sharpen(
        "evaluate",
        "bm25",
        "--data",
        str(dataset),
        "--against",
        "hybrid:packaged:tiny-bert",
        "--out",
        "out",
        "--metrics",
        "precision@2",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "out" / "topics-split-test"
    metrics = json.loads((folder / "metrics.json").read_text())
    task = load_task(str(dataset))
    mine = evaluate(task.qrels, search_task(task, BM25(task.corpus)), ["ndcg@10", "precision@2"])
    assert json.loads((folder / "bm25" / "queries.json").read_text()) == mine and set(metrics["after"]) == set(mine)
    assert metrics["names"] == ["hybrid:packaged:tiny-bert", "bm25"] and "bm25 is" in result.stdout
    assert (
        "<title>hybrid:packaged:tiny-bert and bm25 on topics, split test</title>"
        in (folder / "report.html").read_text()
    )
    again = sharpen(
        "evaluate", str(folder / "bm25" / "run.trec"), "--data", str(dataset), "--out", "again", cwd=tmp_path
    )
    assert again.returncode == 0 and f"ndcg@10       {sum(mine['ndcg@10'].values()) / 6:.4f}" in again.stdout
    for first, second, more in (
        (folder / "hybrid-packaged-tiny-bert", folder / "bm25", []),
        (folder / "hybrid-packaged-tiny-bert" / "run.trec", folder / "bm25" / "run.trec", ["--data", str(dataset)]),
    ):
        different = sharpen("diff", str(first), str(second), *more, "--out", "diff", cwd=tmp_path)
        assert different.returncode == 0, different.stderr
        assert (
            json.loads((tmp_path / "diff" / "metrics.json").read_text())["delta"]["ndcg@10"]
            == metrics["delta"]["ndcg@10"]
        )


def test_systems_that_are_called_alike_are_told_apart(tmp_path: Path, dataset: Path):
    rows = "".join(f"t-{i} Q0 {i} 1 1.0 mine\n" for i in ("bread", "bicycle", "tomato", "glacier", "coffee", "chess"))
    files = [tmp_path / name / "run.trec" for name in ("first", "second")]
    for file, text in zip(files, (rows, rows.replace(" bread ", " piano ")), strict=True):
        file.parent.mkdir()
        file.write_text(text)
    given = ("evaluate", str(files[0]), "--against", str(files[1]), "--data", str(dataset))
    result = sharpen(*given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (out,) = (tmp_path / "runs").glob("evaluate-*")
    assert json.loads(next(out.glob("*/metrics.json")).read_text())["names"] == [str(files[1]), str(files[0])]
    assert len(list((out / "mteb").rglob("topics*.json"))) == 2
    # all runs' models are called so
    assert default_folder(["/runs/a/model"]) != default_folder(["/runs/b/model"])


def test_what_the_model_cuts_off_is_said(tmp_path: Path, dataset: Path):
    options = ("--data", str(dataset), "--max-seq-length", "36", "--out", "out")
    result = sharpen("evaluate", "packaged:tiny-bert", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "of 12 documents are longer than the 36 tokens that the encoder reads (the longest: " in result.stdout


def test_a_model_is_fused_with_bm25_by_a_weight(tmp_path: Path, dataset: Path):
    scores = {}
    for system in ("packaged:tiny-bert", "fused:0:packaged:tiny-bert", "fused:0.5:packaged:tiny-bert"):
        result = sharpen("evaluate", system, "--data", str(dataset), "--out", f"out{len(scores)}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        scores[system] = next(line for line in result.stdout.splitlines() if line.startswith("ndcg@10"))
    dense, nothing, half = scores.values()
    assert dense == nothing != half


def test_runs_of_recipes_are_compared(undisturbed, tmp_path: Path):
    folder = undisturbed[0] / "runs" / "topics"
    shutil.copytree(folder, tmp_path / "other")
    same = sharpen("diff", str(folder), str(tmp_path / "other"), cwd=tmp_path)
    assert (
        same.returncode == 0
        and "not distinguishable" in same.stdout
        and (tmp_path / "diff-topics-other" / "report.html").exists()
    )
    assert "run files do" not in same.stderr
    refused = sharpen("diff", str(folder), str(tmp_path), cwd=tmp_path)
    assert refused.returncode == 2 and "neither a run file, nor the folder" in refused.stderr


def test_what_was_not_evaluated_on_the_same_is_not_compared(tmp_path: Path, dataset: Path):
    shutil.copytree(dataset, tmp_path / "fewer")
    qrels = tmp_path / "fewer" / "qrels" / "test.tsv"
    qrels.write_text("\n".join(qrels.read_text().splitlines()[:-1]) + "\n")
    for name in ("topics", "fewer"):
        assert sharpen("evaluate", "bm25", "--data", str(tmp_path / name), "--out", "out", cwd=tmp_path).returncode == 0
    refused = sharpen("diff", "out/topics-split-test/bm25", "out/fewer-split-test/bm25", cwd=tmp_path)
    assert refused.returncode == 2 and "compare runs of the same queries" in refused.stderr


def test_questions_in_a_file_and_the_mean_over_collections(tmp_path: Path, dataset: Path):
    (tmp_path / "q.csv").write_text("question,document\nhow long does dough rest,bread\nbeans per litre,coffee\n")
    alone = sharpen(
        "evaluate",
        "bm25",
        "--data",
        "q.csv",
        "--corpus",
        str(dataset / "corpus.jsonl"),
        "--data",
        str(dataset),
        "--out",
        "out",
        cwd=tmp_path,
    )
    assert alone.returncode == 0 and "mean of 2 collections, bm25: ndcg@10" in alone.stdout


def test_cqadupstack_is_averaged_over_its_parts(tmp_path: Path, dataset: Path, monkeypatch):
    for place, part in enumerate(CQADUPSTACK_PARTS):
        folder = Path(shutil.copytree(dataset, tmp_path / "data" / "cqadupstack" / part))
        rows = (folder / "qrels" / "test.tsv").read_text().splitlines()
        (folder / "qrels" / "test.tsv").write_text(
            "\n".join(rows[: 7 if place else 2]) + "\n"
        )  # one query in the first part
    monkeypatch.setenv("SHARPEN_DATA", str(tmp_path / "data"))
    result = sharpen(
        "evaluate", "bm25", "--against", "packaged:tiny-bert", "--data", "cqadupstack", "--out", "out", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    parts = [
        json.loads((tmp_path / "out" / f"cqadupstack-{part}-split-test" / "metrics.json").read_text())
        for part in CQADUPSTACK_PARTS
    ]
    overall = json.loads((tmp_path / "out" / "cqadupstack" / "metrics.json").read_text())
    assert overall["queries"] == 1 + 11 * 6
    for side in ("before", "after"):
        assert overall[side]["ndcg@10"]["value"] == pytest.approx(sum(p[side]["ndcg@10"]["value"] for p in parts) / 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bm25", "--data", "nowhere/at/all"], "no dataset there"),
        (["./none", "--data", "DATA"], "no such model folder"),
        (["bm25", "--data", "DATA", "--metrics", "ndgc@10"], "--metrics: unknown metric 'ndgc@10'"),
        (["none.trec", "--data", "DATA"], "none.trec: no such file"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, dataset: Path, arguments: list[str], said: str):
    result = sharpen("evaluate", *(str(dataset) if a == "DATA" else a for a in arguments), cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and said in result.stderr


def test_a_reranker_puts_the_first_in_order(tmp_path: Path, dataset: Path):
    from sharpen.evaluation.encoders.load import load_cross_encoder

    load_cross_encoder("packaged:tiny-bert", new_head=True).save_pretrained(str(tmp_path / "ranker"))
    result = sharpen(
        "evaluate", "bm25", "--rerank", str(tmp_path / "ranker"), "--data", str(dataset), "--out", "out", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    task = load_task(str(dataset))
    plain = search_task(task, BM25(task.corpus))
    lines = [
        line.split() for line in (tmp_path / "out" / "topics-split-test" / "bm25" / "run.trec").read_text().splitlines()
    ]
    assert {(q, d) for q, _, d, *_ in lines} == {(q, d) for q, scores in plain.items() for d in scores}
