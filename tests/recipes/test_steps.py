"""A run step by step: generated here, carried elsewhere, trained there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from sharpen.sdg.llm import batches
from tests.conftest import make_dataset, make_recipe, write_rows
from tests.processes import sharpen
from tests.sdg.test_llm_batches import SECRET, BatchServer
from tests.servers import chat_answer, serve_replies


def _title(body: dict) -> str:
    """What the last document of a prompt is called."""
    prompt = body["messages"][0]["content"]
    return re.findall(r"^Document \d+: (?:<.*?> )?([^:\n]+)", prompt, re.MULTILINE)[-1]


def made(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/manifest.json")}


@pytest.fixture
def recipe(tmp_path) -> Path:
    """Of twelve documents, asking a server whose address it is to be told."""
    here = tmp_path / "here"
    here.mkdir()
    path = make_recipe(here, make_dataset(here / "topics"))
    text = path.read_text().replace("llm: embedded\n", "").replace("epochs: 2", "epochs: 1")
    path.write_text(text.replace(f"runs: {here / 'runs'}", "runs: runs"))
    return path


def ask(recipe: Path, *command: str, asked: list | None = None):
    """The command with a server that asks for what a document's title says."""

    def reply(_path, body, _headers):
        if asked is not None:
            asked.append(body)
        return chat_answer(f"who can tell me about {_title(body).lower()} at home")

    with serve_replies(reply) as url:
        result = sharpen(
            *command[:1], str(recipe), *command[1:], f"llm={{base_url: '{url}', model: m}}", cwd=recipe.parent
        )
    assert result.returncode == 0, result.stderr
    return result


def test_what_was_generated_is_trained_elsewhere_without_llm_documents_and_pool(recipe, tmp_path, monkeypatch):
    here, there = recipe.parent, tmp_path / "there"
    ask(recipe, "generate")
    assert made(here / "runs" / "topics") == {"corpus", "queries"}
    ask(recipe, "mine", "split.dev=0.1")
    assert made(here / "runs" / "topics") == {"corpus", "queries", "pairs", "negatives"}
    there.mkdir()
    shutil.move(here / "runs" / "topics", there / "topics")
    shutil.rmtree(here)
    # the other machine computes in other numbers, too; what is made stays as it is
    monkeypatch.setattr("sharpen.evaluation.encoders.precision.precision_digest", lambda _precision: "elsewhere")
    result = sharpen("train", "topics", cwd=there)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"✓ (\w+) +unchanged", result.stdout) == ["corpus", "queries", "pairs", "negatives"]
    assert made(there / "topics") == {"corpus", "queries", "pairs", "negatives", "training", "model"}
    assert (there / "topics" / "model" / "model.safetensors").exists()
    again = sharpen("train", "topics", cwd=there)
    assert again.stdout.count("unchanged, reused") == 6
    # nothing is said to be made of what it was not made of
    assert f"{here / 'topics'}" in again.stdout and "not here; what was made of it before is taken" in again.stdout
    mistyped = sharpen("train", "topics", f"corpus.source={there / 'mistyped' / 'topics'}", cwd=there)
    assert mistyped.returncode == 2 and "mistyped" in mistyped.stderr
    # what hangs on the missing documents alone cannot be made anew, and says so before anything runs
    other = sharpen("train", "topics", "corpus.chunk.max_words=20", cwd=there)
    assert other.returncode == 2 and "topics" in other.stderr and "Traceback" not in other.stderr


def test_until_a_stage_runs_what_it_needs_and_from_takes_what_lies_there(recipe):
    here = recipe.parent
    ask(recipe, "run", "--until", "pairs")
    folder = here / "runs" / "topics"
    assert made(folder) == {"corpus", "queries", "pairs"}
    queries = (folder / "queries" / "queries.jsonl").read_text()
    # another recipe of queries: without --from they would be asked for anew, and nobody answers
    changed = ("run", "runs/topics", "queries.per_document=3", "--until", "negatives", "--from", "negatives")
    result = sharpen(*changed, cwd=here)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"✓ (\w+) +as it is", result.stdout) == ["corpus", "queries", "pairs"]
    assert made(folder) == {"corpus", "queries", "pairs", "negatives"}
    assert (folder / "queries" / "queries.jsonl").read_text() == queries
    (folder / "pairs" / "queries.jsonl").write_text("")
    result = sharpen(*changed, cwd=here)
    assert result.returncode == 2 and "pairs: not there, or not as it was made" in result.stderr


def test_what_the_recipe_has_no_more_is_put_aside_and_taken_again(plain, tmp_path):
    shutil.copytree(plain.parent.parent, tmp_path / "copy")
    run = tmp_path / "copy" / "runs" / "plain"
    mined = (run / "negatives" / "negatives.jsonl").read_text()
    other = ("training.loss=embedding", "training.teacher=encoder:packaged:tiny-bert")
    without = sharpen("run", str(run), *other, "evaluation.systems=false", cwd=tmp_path)
    assert without.returncode == 0, without.stderr
    assert not made(run) & {"negatives", "systems"} and "| bm25" not in (run / "report.md").read_text()
    exported = sharpen("export", str(run), "--layout", "flag-embedding", "--to", "exported", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert not any(json.loads(line)["neg"] for line in (tmp_path / "exported" / "train.jsonl").open())
    again = sharpen(
        "run", str(run), "training.loss=mnrl", "training.teacher=null", "evaluation.systems=true", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert re.findall(r"✓ (negatives|systems) +unchanged", again.stdout)[0] == "negatives"
    assert (run / "negatives" / "negatives.jsonl").read_text() == mined
    # stopped between new pairs and new negatives
    stopped = sharpen("run", str(run), "split.dev=0.3", "--until", "pairs", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    for command in (["export", str(run), "--layout", "beir", "--to", "other"], ["negatives", str(run), "--sheet", "3"]):
        result = sharpen(*command, cwd=tmp_path)
        assert result.returncode == 2 and "mined of other pairs" in result.stderr, result.stdout


def test_a_stage_that_the_recipe_has_not_is_named_before_anything_runs(recipe):
    for wrong in ("reranker", "trainning"):
        result = sharpen("run", str(recipe), "llm=embedded", "--until", wrong, cwd=recipe.parent)
        assert result.returncode == 2 and f"no stage {wrong!r}" in result.stderr and "negatives" in result.stderr
    result = sharpen("run", str(recipe), "llm=embedded", "--until", "pairs", "--from", "training", cwd=recipe.parent)
    assert result.returncode == 2 and "training is not needed for pairs" in result.stderr
    assert not (recipe.parent / "runs").exists()


def test_a_manifest_says_what_the_stage_was_made_from(recipe):
    ask(recipe, "generate")
    folder = recipe.parent / "runs" / "topics"
    contents = json.loads((folder / "queries" / "manifest.json").read_text())["fingerprint"]["contents"]
    assert {name.split()[0] for name in contents} == {"pool", "llm"} and str(recipe.parent) not in str(contents)


def test_what_another_program_made_is_converted_and_mined(tmp_path):
    source = make_dataset(tmp_path / "topics")
    gpl = tmp_path / "gpl"
    gpl.mkdir()
    shutil.copy(source / "corpus.jsonl", gpl / "corpus.jsonl")
    names = ("passport", "guitar", "piano", "volcano")
    write_rows(gpl / "qgen-queries.jsonl", [{"_id": f"g{i}", "text": f"asking for {i} at home"} for i in names])
    (gpl / "qgen-qrels").mkdir()
    rows = "".join(f"g{i}\t{i}\t1\n" for i in names)
    (gpl / "qgen-qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    mined = [{"qid": f"g{i}", "pos": [i], "neg": {"bm25": ["bread", i, "coffee"]}} for i in names]
    write_rows(gpl / "hard-negatives.jsonl", mined)
    result = sharpen("convert", "gpl", "converted", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (tmp_path / "r.yaml").write_text(
        "name: r\nsplit: {dev: 0}\ntraining: {base: 'packaged:tiny-bert'}\n"
        f"evaluation: {{data: {source}, others: []}}\n" + result.stdout.split("in a recipe:\n")[1].replace("  ", "")
    )
    result = sharpen("mine", "r.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in (tmp_path / "runs" / "r" / "negatives" / "negatives.jsonl").open()]
    assert {(row["query_id"], row["miner"]) for row in found} == {(f"labelled-g{i}", "given") for i in names}
    assert {row["doc_id"] for row in found if row["verdict"] == "kept"} <= {"bread", "coffee"}
    result = sharpen("convert", "topics/qrels", "more", cwd=tmp_path)
    assert result.returncode == 2 and "Looked for were" in result.stderr


def test_generate_asks_by_the_batch_api_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setattr(batches, "FIRST_POLL", 0.01)
    recipe = make_recipe(tmp_path, make_dataset(tmp_path / "topics"))
    server = BatchServer()
    with serve_replies(server) as url:
        llm = f"llm={{base_url: '{url}', model: m, api_key_env: TEST_KEY}}"
        result = sharpen("generate", str(recipe), "--batch", llm, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    counts = json.loads((tmp_path / "runs/topics/queries/manifest.json").read_text())["counts"]
    assert counts["asked"] == 24 == counts["kept"] + sum(counts["rejected"].values())
    assert len(server.batches) == 1 and server.in_batches.total() == 23 and server.direct.total() == 1
