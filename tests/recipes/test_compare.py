"""Miners and filters in real runs, and matrices of them, on twelve documents whose queries the embedded LLM has
written."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from sharpen.evaluation.beir import read_qrels
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.files import sha256_file
from sharpen.recipes.load import comparison_files
from sharpen.recipes.study import runs_of
from sharpen.recipes.study_file import read_study
from sharpen.sdg.negatives.record import Reason, read_negatives
from sharpen.sdg.strategies.settings import asks_llm
from tests.processes import kill_when, sharpen, start_sharpen

POOL = Path(__file__).parents[2] / "recipes" / "pools" / "negatives.yaml"


@pytest.fixture(scope="module")
def place(undisturbed, tmp_path_factory) -> tuple[Path, Path]:
    """The recipe, beside the journal of its LLM's answers and the run that has its queries."""
    source, recipe_file, _ = undisturbed
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    text = recipe_file.read_text().replace(str(source), str(folder)).replace("queries: {", "queries: {seed: 3, ")
    (folder / "topics.yaml").write_text(text)
    torch.manual_seed(0)
    load_cross_encoder("packaged:tiny-bert", new_head=True).save_pretrained(str(folder / "reranker"))
    return folder, folder / "topics.yaml"


def _run(place: tuple[Path, Path], name: str, negatives: str, *more: str) -> tuple[Path, dict]:
    folder, recipe_file = place
    result = sharpen("run", str(recipe_file), f"name={name}", f"negatives={negatives}", *more, cwd=folder)
    assert result.returncode == 0, result.stderr + result.stdout
    run = folder / "runs" / name
    return run, json.loads((run / "negatives" / "manifest.json").read_text())["counts"] | {"said": result.stdout}


@pytest.mark.slow
def test_every_miner_and_every_filter_in_one_run(place):
    reranker = place[0] / "reranker"
    run, counts = _run(
        place,
        "all",
        "{per_query: 2, too_few: random, miners: [{kind: bm25, ranks: [1, 9]}, {kind: dense}, {kind: hybrid},"
        f" {{kind: random}}, {{kind: cross_encoder, model: {reranker}}}, {{kind: llm, negatives: 2, max_tokens: 90,"
        f" pool: {POOL}}}], filters: [{{kind: guide}}, {{kind: percentage}}, {{kind: margin}}, {{kind: absolute, max:"
        f" 0.97}}, {{kind: cross_encoder, model: {reranker}, max: 1.0}}]}}",
        few := "filters.max_queries=10",
    )
    rows = read_negatives(run / "negatives" / "negatives.jsonl")
    qrels = read_qrels(run / "pairs" / "qrels" / "train.tsv")
    kept = [n for n in rows if n.verdict == "kept"]
    assert len(kept) == counts["negatives"] == 2 * counts["queries"] and sum(counts["by_miner"].values()) == len(kept)
    assert all(n.doc_id not in qrels[n.query_id] for n in kept)
    assert sum(counts.get("filled", {}).values()) == sum(
        n.reason in (Reason.FROM_OTHER_MINER, Reason.DRAWN_AT_RANDOM) for n in kept
    )
    assert sum(counts["dropped"].values()) == sum(n.verdict == "dropped" for n in rows)
    written = [json.loads(line) for line in (run / "negatives" / "written.jsonl").open()]
    rejected = [json.loads(line) for line in (run / "negatives" / "rejected.jsonl").open()]
    assert (
        len(written) + len(rejected) == 2 * counts["queries"]
        and len(written) > 0
        and sum(counts["rejected"].values()) == len(rejected)
    )
    assert counts["completion_tokens"] > 0
    for number, kind in enumerate(("guide", "percentage", "margin", "absolute", "cross_encoder"), start=1):
        assert (
            0
            < counts[f"filter {number}, {kind}"]["dense: candidates"]
            <= counts["filter 1, guide"]["dense: candidates"]
        )
    chain = [counts[f"filter {n}, {k}"] for n, k in enumerate(("guide", "percentage", "margin"), start=1)]
    assert all(
        second[f"{m}: candidates"] == first[f"{m}: candidates"] - first[f"{m}: dropped"]
        for first, second in itertools.pairwise(chain)
        for m in ("bm25", "dense", "llm")
    )
    again = sharpen("run", str(place[1]), "name=all", few, "negatives.per_query=2", cwd=place[0])
    assert again.returncode == 0 and "negatives.filters" not in again.stdout


@pytest.mark.slow
def test_written_negatives_are_trained_on_and_exported(place):
    run, counts = _run(
        place, "written", f"{{per_query: 1, miners: [{{kind: llm, negatives: 2, max_tokens: 90, pool: {POOL}}}]}}"
    )
    assert (
        json.loads((run / "training" / "manifest.json").read_text())["counts"]["triplets"]
        == counts["queries"] - counts["queries_with_too_few"]
        > 3
    )
    target = place[0] / "exported"
    assert sharpen("export", str(run), "--layout", "flag-embedding", "--to", str(target), cwd=place[0]).returncode == 0
    texts = {json.loads(line)["text"] for line in (run / "negatives" / "written.jsonl").open()}
    assert all(set(json.loads(line)["neg"]) <= texts for line in (target / "train.jsonl").open())
    assert "written:" in (run / "report.md").read_text()


@pytest.mark.slow
def test_a_concatenation_has_a_row_of_each_miner_and_shares_mix_within_one(place):
    mixed = (
        "{per_query: 2, miners: [{kind: bm25, ranks: [1, 9]}, {kind: random, ranks: [1, 9]}], too_few: random, mix: %s}"
    )
    rows = {}
    for mix in ("instance", "concatenation"):
        run, counts = _run(place, mix, mixed % mix)
        rows[mix] = json.loads((run / "training" / "manifest.json").read_text())["counts"]["triplets"]
    assert rows["concatenation"] == 2 * rows["instance"] == 2 * counts["queries"]
    run, _ = _run(place, "few", mixed % "concatenation", "training.triplets=5")
    assert json.loads((run / "training" / "manifest.json").read_text())["counts"]["triplets"] == 5


def test_too_few_negatives_are_said(place):
    _, counts = _run(place, "too-few", "{per_query: 3, miners: [{kind: bm25, ranks: [1, 4]}]}")
    assert 0 < counts["queries_with_too_few"] < counts["queries"] and "are left out of the training" in counts["said"]


@pytest.mark.slow
def test_negatives_are_mined_again_before_each_epoch_and_a_killed_training_goes_on_in_its_epoch(place):
    folder, recipe_file = place
    negatives = "{per_query: 1, refresh: true, miners: [{kind: dense, ranks: [1, 4]}], filters: [{kind: guide}]}"
    more = ["training.epochs=3", "training.learning_rate=1.0e-3", "training.checkpoint_steps=1"]
    whole, _ = _run(place, "refreshed", negatives, *more)
    log = json.loads((whole / "training" / "training_log.json").read_text())
    assert [row["step"] for row in log["log"]] == list(range(1, log["last_step"] + 1))
    rates = [row["learning_rate"] for row in log["log"]]
    assert rates[-1] == pytest.approx(1e-3 / 3) and sum(rate == pytest.approx(1e-3 * 2 / 3) for rate in rates) >= 2
    process = start_sharpen("run", str(recipe_file), "name=killed", f"negatives={negatives}", *more, cwd=folder)
    works = folder / "runs" / "killed" / ".training.work"
    kill_when(process, lambda: list(works.glob("*/epoch-1/training.json")))
    first = {path: path.stat().st_mtime_ns for path in works.glob("*/epoch-1/training.json")}
    again, _ = _run(place, "killed", negatives, *more)
    assert first and sha256_file(again / "training" / "model.safetensors") == sha256_file(
        whole / "training" / "model.safetensors"
    )
    refused = sharpen(
        "run", str(recipe_file), "name=x", "negatives={refresh: true, miners: [{kind: bm25}]}", cwd=folder
    )
    assert refused.returncode == 2 and "a dense or hybrid miner" in refused.stderr


def test_labelled_queries_alone_need_no_llm(place):
    folder, recipe_file = place
    other = folder / "labelled"
    shutil.copytree(folder / "topics", other)
    (other / "qrels" / "test.tsv").rename(other / "qrels" / "train.tsv")
    lines = (folder / "topics" / "queries.jsonl").read_text().splitlines()
    extra = {"_id": "n-1", "text": "why does lava come out"}
    (other / "queries.jsonl").write_text(
        "\n".join([*lines, json.dumps(extra), json.dumps({"_id": "n-2", "text": "keys and dust"})]) + "\n"
    )
    with (other / "qrels" / "train.tsv").open("a") as file:
        file.write("n-1\tvolcano\t1\nn-2\tpiano\t1\n")
    llm = "llm={base_url: 'http://127.0.0.1:9/v1', model: nobody}"  # where nobody listens
    result = sharpen(
        "run",
        str(recipe_file),
        "name=own-labels",
        llm,
        f"labelled={{data: {other}, fraction: 1}}",
        "split.dev=0",
        "training.batch_size=2",
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    counts = json.loads((folder / "runs" / "own-labels" / "pairs" / "manifest.json").read_text())["counts"]
    assert counts["train"] == 2 == counts["labelled_in_train"]  # the six others are evaluated on
    held_out = sharpen(
        "run",
        str(recipe_file),
        "name=own-labels-held-out",
        llm,
        f"labelled={{data: {other}, fraction: 1}}",
        "split={dev: 0.5, near_duplicates: null}",
        "training.validation={evaluations: 1}",
        "training.batch_size=2",
        "seed=1",
        "--until",
        "pairs",
        cwd=folder,
    )
    assert held_out.returncode == 0, held_out.stderr
    counts = json.loads((folder / "runs" / "own-labels-held-out" / "pairs" / "manifest.json").read_text())["counts"]
    assert counts["train"] + counts["dev"] == 2 and counts["dev"] == 1 and counts["labelled_held_out"] == 0
    with (other / "qrels" / "train.tsv").open("a") as file:
        file.write("n-1\tbread\t1\nn-2\tchess\t1\n")
    pairs = ("training.validation={evaluations: 1}", "training.batch_size=2", "--until", "pairs")
    of_two = [llm, f"labelled={{data: {other}, fraction: 1}}", "split={dev: 0.5, near_duplicates: null}", *pairs]
    for seed in (0, 1):  # whatever is drawn, no query has a document on the other side
        result = sharpen("run", str(recipe_file), "name=two", *of_two, f"seed={seed}", cwd=folder)
        assert result.returncode == 0, result.stderr
        qrels = folder / "runs" / "two" / "pairs" / "qrels"
        assert [len((qrels / f"{split}.tsv").read_text().splitlines()) for split in ("train", "dev")] == [3, 3]
    of_none = ["split.dev=0.01" if each.startswith("split=") else each for each in of_two]
    result = sharpen("run", str(recipe_file), "name=none", *of_none, cwd=folder)
    assert result.returncode == 2 and "no query is held out to choose a state by. Raise split.dev" in result.stderr
    assert (
        "calls"
        in sharpen("estimate", str(recipe_file), llm, f"labelled={{data: {other}, fraction: 1}}", cwd=folder).stdout
    )
    refused = sharpen(
        "run", str(recipe_file), f"labelled={{data: {other}, fraction: 1}}", "evaluation.data=null", cwd=folder
    )
    assert refused.returncode == 2 and "labelled.fraction is 1" in refused.stderr


STUDY = """# Two miners and none, on twelve documents.
recipe: topics.yaml
seeds: [3, 4]
baseline: none
arms:
  none: [negatives.per_query=0]
  bm25: ["negatives={per_query: 1, miners: [{kind: bm25, ranks: [1, 9]}]}"]
  random, with a filter: ["negatives={per_query: 1, miners: [{kind: random}], filters: [{kind: percentage}]}"]
published: {bm25: 0.359}
"""


@pytest.mark.slow
def test_a_study_shares_its_stages_trains_on_as_many_rows_and_goes_on_where_it_was(place):
    folder, _ = place
    (folder / "small").mkdir()
    study = folder / "small" / "compare.yaml"
    study.write_text(STUDY.replace("recipe: topics", "recipe: ../topics"))
    process = start_sharpen("compare", str(study), cwd=folder)
    root = folder / "runs" / "small" / "topics"
    kill_when(process, lambda: list(root.glob("*/scores.json")))
    first = {path: path.stat().st_mtime_ns for path in root.glob("*/scores.json")}
    done = sharpen("compare", str(study), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in first} == first
    scores = {path.parent.name: json.loads(path.read_text()) for path in root.glob("*/scores.json")}
    assert set(scores) == {f"{arm}-{seed}" for arm in ("none", "bm25", "random-with-a-filter") for seed in (3, 4)}
    for seed in (3, 4):
        own = [s for name, s in scores.items() if name.endswith(f"-{seed}")]
        assert len({s["triplets"] for s in own}) == 1 and own[0]["triplets"] == min(s["available"] for s in own)
        trained = [
            json.loads((root / f"{arm}-{seed}" / "after" / "manifest.json").read_text()) for arm in ("none", "bm25")
        ]
        assert trained[0]["fingerprint"]["sha256"] != trained[1]["fingerprint"]["sha256"]
    inodes = {
        (root / f"{arm}-{seed}" / "queries" / "queries.jsonl").stat().st_ino
        for arm in ("none", "bm25")
        for seed in (3, 4)
    }
    assert len(inodes) == 1  # made once, and linked
    assert not (root / "bm25-3" / "model").exists()
    table = (folder / "runs" / "small" / "comparison.md").read_text()
    assert table in done.stdout and "the baseline" in table and "| 0.359 |" in table and "dropped by filters" in table
    results = {row["arm"]: row for row in json.loads((folder / "runs" / "small" / "comparison.json").read_text())}
    assert sorted(row["rank"] for row in results.values()) == [1, 2, 3] and results["none"]["difference"] is None
    assert results["bm25"]["difference"]["value"] == pytest.approx(results["bm25"]["mean"] - results["none"]["mean"])
    assert "<svg" in (folder / "runs" / "small" / "comparison.svg").read_text()
    again = sharpen("compare", str(study), cwd=folder)
    assert "running" not in again.stdout and table in again.stdout


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("baseline: none", "baseline: nothing", "there is no arm 'nothing'; there are none, bm25"),
        ("seeds: [3, 4]", "seeds: [3, 3]", "a seed is named twice"),
        ("seeds: [3, 4]", "seads: [3, 4]", "seads"),
        ("negatives.per_query=0", "negatives.per_qery=0", "none: override 'negatives.per_qery=0': unknown key"),
        ("recipe: topics", "recipe: topic", "topic.yaml: no such recipe file"),
        ("arms:", "arms: {}\nother:", "arms"),
        (
            "seeds: [3, 4]",
            "seeds: [3, 4]\noverrides: [evaluation.data=null, split.dev=0.2]",
            "evaluation.data: arms are compared on the same queries",
        ),
        (
            "seeds: [3, 4]",
            "seeds: [3, 4]\nprepare: {until: rerank}",
            "prepare.until: no stage 'rerank'; there are corpus, before",
        ),
        ("  none: [", "  'bm25!': []\n  none: [", "differ in signs only"),
    ],
)
def test_mistakes_in_a_study_are_told_before_anything_runs(place, old, new, said):
    path = place[0] / "wrong.yaml"
    path.write_text(STUDY.replace(old, new, 1))
    result = sharpen("compare", str(path), cwd=place[0])
    assert result.returncode == 2 and said in result.stderr and "wrong.yaml" in result.stderr


def test_scores_belong_to_what_variables_stand_for(place, monkeypatch):
    path = place[0] / "variables.yaml"
    path.write_text(
        STUDY.replace("seeds: [3, 4]", "seeds: [3]\noverrides: ['llm={base_url: http://h/v1, model: \"${MODEL}\"}']")
    )
    digests = []
    for model in ("a", "b", "a"):
        monkeypatch.setenv("MODEL", model)
        digests.append([run.digest for run in runs_of(read_study(path), path)])
    assert digests[0] == digests[2] and not set(digests[0]) & set(digests[1])


@pytest.mark.slow
@pytest.mark.parametrize("path", comparison_files(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_study_that_comes_with_sharpen_is_one_from_any_folder(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    study = read_study(path)
    runs = runs_of(study.model_copy(update={"seeds": study.seeds[:1]}), path)
    assert len({run.folder for run in runs}) == len(runs) >= 4
    for run in runs:
        assert all(s.pool for s in run.loaded.recipe.queries.all_strategies() if asks_llm(s))
        run.loaded.recipe.negatives.prompts(run.loaded.recipe.llm)  # reads the pools
    opening = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert all(
        any(part in line for line in opening)
        for part in ("What it does", "What it needs", "How to run it", "How to change it")
    )
