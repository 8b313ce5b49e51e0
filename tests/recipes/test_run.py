"""The real command line, on twelve documents, with the embedded LLM and a real encoder."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import read_qrels
from sharpen.evaluation.packaged_llms import locate_llm
from sharpen.recipes.engine import rare_full_collections
from sharpen.recipes.load import load_recipe
from sharpen.sdg.llm.embedded import serve
from tests.conftest import encoder_weights, write_rows
from tests.processes import environment, sharpen, start_sharpen
from tests.servers import serve_replies

POOLS = Path(__file__).parents[2] / "recipes" / "pools"
STAGES = ["corpus", "before", "queries", "pairs", "negatives", "training", "model", "after", "systems", "diagnosis"]


def _metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_leaves_report_metrics_and_a_model_and_every_stage_says_what_it_did(undisturbed):
    tmp_path, _recipe, result = undisturbed
    folder = tmp_path / "runs" / "topics"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {
        *STAGES,
        "metrics.json",
        "report.md",
        "report.html",
        "recipe.yaml",
        "curves.png",
    }
    metrics = _metrics(folder)
    assert (
        set(metrics["before"])
        == set(metrics["after"])
        == set(metrics["delta"])
        == {"ndcg@10", "hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@100", "mrr@10", "map@10"}
    )
    assert metrics["verdict"] in ("better", "worse", "not distinguishable") and metrics["queries"] == 6
    for metric, d in metrics["delta"].items():
        assert d["value"] == pytest.approx(metrics["after"][metric]["value"] - metrics["before"][metric]["value"])
        assert d["interval"][0] <= d["value"] <= d["interval"][1] and d["wins"] + d["ties"] + d["losses"] == 6
    assert "ndcg@10" in result.stdout and "The tuned model is" in result.stdout
    report = (folder / "report.md").read_text()
    assert "| ndcg@10 |" in report and "Queries won most" in report
    manifest = json.loads((folder / "queries" / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["asked"] == 24 == counts["kept"] + sum(counts["rejected"].values())
    assert sum(1 for _ in (folder / "queries" / "rejected.jsonl").open()) == 24 - counts["kept"]
    assert SentenceTransformer(str(folder / "model")).encode("x").shape == (128,)


def test_the_system_to_serve_is_chosen_on_other_queries_than_it_is_confirmed_on(undisturbed):
    tmp_path, _recipe, result = undisturbed
    folder = tmp_path / "runs" / "topics"
    metrics = _metrics(folder)
    systems = metrics["systems"]
    by_name = {row["name"]: row for row in systems["systems"]}
    for name, side in (("base", "before"), ("tuned", "after"), ("BM25", "bm25")):
        assert by_name[name]["test"]["value"] == pytest.approx(metrics[side]["ndcg@10"]["value"])
    assert by_name["base"]["difference"]["value"] == 0
    assert systems["first"] == max(by_name, key=lambda name: by_name[name]["chosen_by"])
    assert systems["best"] == (systems["first"] if systems["lead"]["verdict"] == "better" else "base")
    assert systems["comparison"]["names"] == ["base", systems["best"]]
    for encoder, curve in systems["curves"].items():
        assert curve["0.0"] == pytest.approx(by_name[encoder]["chosen_by"])
        fused = [row for row in by_name.values() if row["weights"].get(encoder) and "BM25" in row["weights"]]
        assert [row["chosen_by"] for row in fused] in ([], [pytest.approx(max(curve.values()))])
    timed = json.loads((folder / "systems" / "systems.json").read_text())["systems"]
    for row in timed:
        assert row["needs"] and min(row["milliseconds"], row["documents_per_second"], row["bytes_per_document"]) > 0
    assert len(timed) == len(by_name) and not {"milliseconds", "documents_per_second"} & set(systems["systems"][0])
    # of the tiny encoder's 128 numbers
    sizes = {name: by_name[name]["bytes_per_document"] for name in ("tuned", "tuned, int8", "tuned, binary")}
    assert sizes == {"tuned": 512, "tuned, int8": 128, "tuned, binary": 16}
    assert re.search(r"^Deploy .+: [\d.]+ ms a query, [\d,]+ documents a second to index", result.stdout, re.M)
    assert "encoder, 0.0 MB of vectors" in by_name["base"]["needs"] and by_name["BM25"]["needs"] == "inverted index"
    assert "Which system to deploy" in (folder / "report.md").read_text()
    assert f" on {systems['queries']} {systems['chosen_on']}" in result.stdout


def test_what_was_generated_is_a_beir_folder_with_ids_that_hold(undisturbed):
    from beir.datasets.data_loader import GenericDataLoader

    folder = undisturbed[0] / "runs" / "topics"
    corpus, queries, qrels = GenericDataLoader(str(folder / "pairs")).load(split="train")
    assert (
        len(corpus) == 12
        and set(qrels) == set(queries)
        and all(d in corpus for grades in qrels.values() for d in grades)
    )
    for line in (folder / "negatives" / "negatives.jsonl").open():
        negative = json.loads(line)
        assert negative["doc_id"] in corpus and negative["miner"] == "bm25"
        assert negative["verdict"] == "dropped" or negative["doc_id"] not in qrels[negative["query_id"]]


def test_a_second_run_reuses_everything_and_a_change_runs_only_what_depends_on_it(undisturbed):
    tmp_path, recipe_file, _ = undisturbed
    folder = tmp_path / "runs" / "topics"
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/manifest.json")}
    again = sharpen("run", str(recipe_file), cwd=tmp_path)
    assert again.stdout.count("unchanged, reused") == len(STAGES)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/manifest.json")} == before
    other = sharpen("run", str(recipe_file), "name=other", "negatives.per_query=0", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    # same prompts, so every answer came from the journal that the runs share
    queries = [(tmp_path / "runs" / name / "queries" / "queries.jsonl").read_text() for name in ("topics", "other")]
    assert queries[0] == queries[1] and queries[0]
    changed = sharpen("run", str(recipe_file), "name=other", "negatives.per_query=0", "training.epochs=1", cwd=tmp_path)
    assert changed.returncode == 0 and re.findall(r"✓ (\w+) +unchanged", changed.stdout) == STAGES[:-5]
    (tmp_path / "runs" / "other" / "after" / "after.json").write_text("{}")  # a damaged file is noticed
    assert (
        "after      unchanged"
        not in sharpen(
            "run", str(recipe_file), "name=other", "negatives.per_query=0", "training.epochs=1", cwd=tmp_path
        ).stdout
    )


@pytest.mark.slow
def test_without_real_questions_the_generated_ones_of_held_out_documents_are_compared_on(recipe_file, tmp_path):
    text = recipe_file.read_text()
    recipe_file.write_text(text[: text.index("evaluation:")] + "split: {dev: 0.4}\n")
    result = sharpen("run", str(recipe_file), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "topics"
    sides = {
        side: {
            line.split("\t")[1] for line in (folder / "pairs" / "qrels" / f"{side}.tsv").read_text().splitlines()[1:]
        }
        for side in ("train", "dev")
    }
    assert sides["train"] and sides["dev"] and not sides["train"] & sides["dev"]
    judged = {line.split()[0] for line in (folder / "after" / "after.trec").read_text().splitlines()}
    assert _metrics(folder)["queries"] == len(judged) and "generated queries of held-out documents" in result.stdout
    assert "split.dev is 0" in _fails(str(recipe_file), "split.dev=0", cwd=tmp_path)


def test_show_validate_and_list(undisturbed):
    tmp_path, recipe_file, result = undisturbed
    shown = sharpen("show", "runs/topics", cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout.splitlines()[-1] in result.stdout.replace("\n\n", "\n")
    assert sharpen("show", "runs", cwd=tmp_path).returncode == 2
    valid = sharpen("validate", str(recipe_file), "seed=9", cwd=tmp_path)
    assert valid.returncode == 0 and "seed: 9" in valid.stdout
    listed = sharpen("recipes", cwd=tmp_path)
    assert re.search(r"^quickstart +Tune a small encoder", listed.stdout, re.M) and "scifact" in listed.stdout


def test_estimate_preview_and_inspect(undisturbed, tmp_path):
    source, recipe_file, _ = undisturbed
    priced = ["llm={embedded: gemma-3-270m, prices: {input: 1.5, output: 2}}", f"runs={tmp_path}"]
    before = sharpen("estimate", str(recipe_file), *priced, cwd=source)
    assert before.returncode == 0, before.stderr
    assert (
        re.search(r"document +│ +24 │", before.stdout)
        and "?" in before.stdout
        and "encoder's tokenizer" in before.stdout.replace("\n", " ")
    )
    assert not list(tmp_path.iterdir())  # nothing was asked, and nothing written
    preview = sharpen("preview", str(recipe_file), *priced, "--documents", "4", cwd=source)
    assert preview.returncode == 0, preview.stderr
    assert _answers(tmp_path) == 8 and "of 8 kept" in preview.stdout and "USD spent" in preview.stdout
    after = sharpen("estimate", str(recipe_file), *priced, cwd=source)
    assert "8 answers in the journal" in after.stdout and "?" not in after.stdout
    shown = sharpen("inspect", str(source / "runs" / "topics"), cwd=source)
    assert shown.returncode == 0, shown.stderr
    manifest = {
        name: json.loads((source / "runs" / "topics" / name / "manifest.json").read_text())["counts"]
        for name in ("queries", "pairs")
    }
    kept = manifest["pairs"]["train"] + manifest["pairs"]["dev"]
    assert re.search(rf"document +│ +{kept} │ +{24 - kept} │", shown.stdout)
    assert (
        "no query of a strategy named 'other'"
        in sharpen("inspect", str(source / "runs" / "topics"), "--strategy", "other", cwd=source).stderr
    )
    assert sharpen("inspect", str(source), cwd=source).returncode == 2


def test_diagnose_puts_generated_queries_beside_the_real_ones(undisturbed):
    source = undisturbed[0]
    run = str(source / "runs" / "topics")
    result = sharpen("diagnose", run, "--against", run, cwd=source)
    assert result.returncode == 0, result.stderr
    assert re.search(r"queries +│ +\d+ │ +\d+ │ +6 │", result.stdout) and re.search(
        r"document or topics: document +│ +0% │ +0% │", result.stdout
    )
    assert "the splits there are test" in sharpen("diagnose", run, "--split", "dev", cwd=source).stderr


def test_a_run_is_exported(undisturbed, tmp_path):
    run = str(undisturbed[0] / "runs" / "topics")
    for layout in ("beir", "nvidia", "sentence-transformers", "tevatron", "flag-embedding"):
        result = sharpen("export", run, "--layout", layout, "--to", layout, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert any((tmp_path / layout).rglob("*")) and "train" in result.stdout
    assert "did you mean tevatron" in sharpen("export", run, "--layout", "tevatorn", "--to", "x", cwd=tmp_path).stderr
    assert "exists already" in sharpen("export", run, "--layout", "beir", "--to", "beir", cwd=tmp_path).stderr
    assert "no pairs there" in sharpen("export", str(tmp_path), "--layout", "beir", "--to", "x", cwd=tmp_path).stderr


@pytest.mark.slow
def test_several_strategies_and_filters_account_for_every_query(undisturbed, tmp_path):
    source, recipe_file, _ = undisturbed
    labelled = tmp_path / "labelled"
    (labelled / "qrels").mkdir(parents=True)
    write_rows(
        labelled / "queries.jsonl",
        [
            {"_id": "r1", "text": "wax is full of cracks"},
            {"_id": "r2", "text": "why is the strings' pitch off"},
            {"_id": "r3", "text": "Flat tire, what now"},
        ],
    )
    (labelled / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nr1\tcandle\t1\nr2\tguitar\t1\nr2\tpiano\t1\nr3\tbicycle\t1\n"
    )
    strategies = (
        "[{kind: document, documents: 4}, {kind: sentence, sentences: 1, documents: 2}, {kind: document, name: several,"
        " documents: 1, queries: 2, form: json}, {kind: paraphrase, pool: pool.yaml, examples_per_prompt:"
        f" 2}},{{kind: multi_hop, documents: 1, max_tokens: 200, pool: {POOLS / 'multi_hop.yaml'}, bundle: {{documents:"
        f" 2}}}}, {{kind: back_translation, pool: {POOLS / 'translations_german.yaml'}}}]"
    )
    filters = (
        "{copying: {max_fraction: 0.7}, near_duplicates: {threshold: 0.97}, round_trip: {top_k: 8}, judge:"
        " {threshold: 0, llm: {embedded: smollm2-135m-instruct}}}"
    )
    result = sharpen(
        "run",
        str(recipe_file),
        f"runs={tmp_path}",
        f"queries.strategies={strategies}",
        f"filters={filters}",
        f"labelled={{data: {labelled}, fraction: 0.2}}",
        "split.test=0.2",
        "queries.per_document=1",
        cwd=source,
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "topics"
    tallies = json.loads((folder / "queries" / "strategies.json").read_text())
    assert list(tallies) == ["document", "sentence", "several", "paraphrase", "multi_hop", "back_translation"]
    assert [tallies[name]["asked"] for name in ("document", "sentence", "several", "multi_hop")] == [4, 2, 2, 1]
    # the one with the text of a question that is compared on is left out
    counts = json.loads((folder / "queries" / "manifest.json").read_text())["counts"]
    assert (counts["labelled"], counts["labelled_left_out"]) == (2, {"without_document": 0, "evaluated_on": 1})
    assert tallies["paraphrase"]["asked"] == 2 + sum(
        tallies[name]["kept"] for name in ("document", "sentence", "several")
    )
    steps = [json.loads(line) for line in (folder / "queries" / "first_steps.jsonl").open()]
    assert {step["strategy"] for step in steps} == {"multi_hop", "back_translation"}
    for tally in tallies.values():
        assert tally["asked"] == tally["kept"] + sum(tally["rejected"].values())
    passed = json.loads((folder / "pairs" / "filters.json").read_text())
    assert list(passed) == ["generated", "copying", "near_duplicates", "round_trip", "judge", "split"]
    assert passed["generated"] == {name: tally["kept"] for name, tally in tallies.items() if tally["kept"]}
    rejected = [json.loads(line) for line in (folder / "pairs" / "rejected.jsonl").open()]
    assert sum(passed["generated"].values()) == sum(passed["split"].values()) + len(rejected) and all(
        row["step"] in passed for row in rejected
    )
    queries = {row["_id"]: row["metadata"] for row in map(json.loads, (folder / "pairs" / "queries.jsonl").open())}
    assert all(
        ("scores" in metadata and metadata["strategy"] in tallies) or metadata["strategy"] == "labelled"
        for metadata in queries.values()
    )
    split = {row["_id"]: row["split"] for row in map(json.loads, (folder / "pairs" / "split.jsonl").open())}
    sides = {side: read_qrels(folder / "pairs" / "qrels" / f"{side}.tsv") for side in ("train", "dev", "test")}
    assert all(split[doc_id] == side for side, qrels in sides.items() for grades in qrels.values() for doc_id in grades)
    real = [q for q in sides["train"] if queries[q]["strategy"] == "labelled"]
    assert len(real) <= round(0.2 * len(sides["train"])) and len(real) <= sum(
        "train" in (split[i], split[j]) for i, j in (("candle", "candle"), ("guitar", "piano"))
    )
    assert not any(queries[q]["strategy"] == "labelled" for side in ("dev", "test") for q in sides[side])
    assert "labelled queries were mixed in" in (folder / "model" / "README.md").read_text()


@pytest.mark.slow
def test_killed_in_every_stage_a_run_goes_on_and_ends_with_the_same_metrics(undisturbed, tmp_path):
    source, recipe_file, _ = undisturbed
    arguments = ["run", str(recipe_file), f"runs={tmp_path}"]
    for stage in STAGES:
        partial, finished_folder = tmp_path / "topics" / f".{stage}.partial", tmp_path / "topics" / stage
        process = start_sharpen(*arguments, cwd=source)
        deadline = time.monotonic() + 120
        while (
            not partial.exists() and not finished_folder.exists() and process.is_alive() and time.monotonic() < deadline
        ):
            time.sleep(0.0005)
        if stage == "queries":  # in the midst of asking
            while _answers(tmp_path) < 9 and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
        assert process.is_alive(), f"the run ended before it could be killed in {stage}"
        process.kill()
        process.join()
        assert load_recipe(str(tmp_path / "topics"), []).recipe.name == "topics"  # its folder alone says how to go on
        assert (_answers(tmp_path) >= 9) == (stage not in ("corpus", "before"))
        # the other stages take milliseconds here, and may have ended before the signal came
        assert not finished_folder.exists() or stage in ("corpus", "pairs", "negatives")
    kept = _answers(tmp_path)
    finished = sharpen("run", str(tmp_path / "topics"), cwd=source)
    assert finished.returncode == 0, finished.stderr
    assert _metrics(tmp_path / "topics") == _metrics(source / "runs" / "topics")
    assert (tmp_path / "topics" / "queries" / "queries.jsonl").read_text() == (
        source / "runs" / "topics" / "queries" / "queries.jsonl"
    ).read_text()
    assert not list((tmp_path / "topics").glob(".*.partial"))
    assert kept == _answers(tmp_path) == 24


def _answers(runs: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{runs / 'llm_answers.sqlite'}?mode=ro", uri=True) as db:
            return db.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_no_answer_is_asked_for_twice_however_often_the_run_is_killed(recipe_file, tmp_path):
    """A real LLM behind a server that counts what it has answered."""
    answered: Counter[str] = Counter()
    lock = threading.Lock()
    with serve(locate_llm("gemma-3-270m")) as endpoint:

        def pass_on(path, body, headers):
            request = urllib.request.Request(
                endpoint.base_url.removesuffix("/v1") + path,
                json.dumps(body).encode(),
                {"Content-Type": "application/json", "Authorization": headers["Authorization"]},
            )
            with urllib.request.urlopen(request) as response:
                content = response.read()
            with lock:
                answered[json.dumps(body, sort_keys=True)] += 1
            return 200, {}, content

        with serve_replies(pass_on) as base_url:
            llm = f"llm={{base_url: '{base_url}', model: gemma, chat: false, concurrency: 1, api_key_env: TEST_KEY}}"
            command, key = ["run", str(recipe_file), llm], {"TEST_KEY": endpoint.api_key}
            for wanted in (5, 14):
                process = start_sharpen(*command, cwd=tmp_path, **key)
                while answered.total() < wanted and process.is_alive():
                    time.sleep(0.005)
                process.kill()
                process.join()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(*next(iter(key.items())))
                result = sharpen(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(answered) == 24
    # what was under way when the process was killed had no chance to be written down: at most one a kill
    assert answered.total() <= 24 + 2
    leaked = [p for p in (tmp_path / "runs").rglob("*") if p.is_file() and endpoint.api_key.encode() in p.read_bytes()]
    assert not leaked and endpoint.api_key not in result.stdout + result.stderr


@pytest.mark.slow
def test_two_processes_do_everything_once_and_agree_with_one(undisturbed, tmp_path):
    source, recipe_file, _ = undisturbed
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "sharpen.recipes",
    ]
    result = subprocess.run(
        [*command, "run", str(recipe_file), f"runs={tmp_path}"],
        cwd=source,
        env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("✓ corpus") == 1 and result.stdout.count("The tuned model is") == 1
    assert _answers(tmp_path) == 24
    one, two = _metrics(source / "runs" / "topics"), _metrics(tmp_path / "topics")
    assert two["before"] == one["before"] and two["bm25"] == one["bm25"]
    trained_on = [
        json.loads((runs / "topics" / "training" / "manifest.json").read_text())["counts"]["triplets"]
        for runs in (tmp_path, source / "runs")
    ]
    assert trained_on[0] == trained_on[1]
    # the last batches are smaller, and two processes leave a row out where its size is odd: they learn nearly the same
    folders = ("packaged:tiny-bert", *(str(runs / "topics" / "model") for runs in (source / "runs", tmp_path)))
    base, alone, together = (encoder_weights(f) for f in folders)
    assert torch.cosine_similarity(alone - base, together - base, dim=0) > 0.99


def _fails(*arguments: str, cwd: Path) -> str:
    result = sharpen("run", *arguments, cwd=cwd)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr and result.stderr.startswith("error: ")
    return result.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=2", "did you mean 'epochs'?"),
        ("corpus.source=nowhere/at/all", "nowhere/at/all"),
        ("queries.pool=none.yaml", "none.yaml: no such file"),
        ("queries.pool=bad_pool.yaml", "bad_pool.yaml, line 2: an example has the keys document and query"),
        ("training.base=packaged:nothing", "no such packaged encoder"),
        ("evaluation.split=validation", "the splits there are test"),
        ("llm={base_url: 'http://127.0.0.1:9/v1', model: m, api_key_env: NOT_SET}", "NOT_SET is not set"),
    ],
)
def test_what_can_be_known_beforehand_stops_before_anything_is_written(recipe_file, tmp_path, override, said):
    (tmp_path / "bad_pool.yaml").write_text("- {document: a, query: b}\n- {document: c}\n")
    assert said in _fails(str(recipe_file), override, cwd=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_bad_data_is_named_and_nothing_half_written_is_left(recipe_file, dataset, tmp_path):
    good = (dataset / "corpus.jsonl").read_text()
    (dataset / "corpus.jsonl").write_text(good + '{"_id": "bread", "text": "again"}\n')
    assert "corpus.jsonl, line 13: the ID 'bread'" in _fails(str(recipe_file), cwd=tmp_path)
    (dataset / "corpus.jsonl").write_text(good[:-10])
    assert "line 12: not valid JSON" in _fails(str(recipe_file), cwd=tmp_path)
    # nothing but how to go on
    assert [path.name for path in (tmp_path / "runs" / "topics").glob("[!.]*")] == ["recipe.yaml"]
    write_rows(dataset / "corpus.jsonl", [{"_id": "a", "text": ""}])
    assert "no document with any text" in _fails(str(recipe_file), cwd=tmp_path)
    (dataset / "corpus.jsonl").write_text(good)
    with (dataset / "qrels" / "test.tsv").open("a") as file:
        file.write("t-bread\tcake\t1\n")
    assert "test.tsv, line 8: document 'cake' is not in the corpus" in _fails(str(recipe_file), cwd=tmp_path)


def test_an_endpoint_that_is_not_there_and_one_that_answers_garbage(recipe_file, tmp_path):
    llm = "llm={base_url: 'http://127.0.0.1:9/v1', model: m, max_retries: 1}"
    message = _fails(str(recipe_file), llm, cwd=tmp_path)
    assert "cannot reach http://127.0.0.1:9/v1 after 1 retries" in message and "llm.base_url" in message
    assert not (tmp_path / "runs" / "topics" / "queries").exists()
    with serve_replies(
        lambda *_: (200, {}, b'{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}')
    ) as base_url:
        message = _fails(str(recipe_file), f"llm={{base_url: '{base_url}', model: m, max_retries: 1}}", cwd=tmp_path)
    assert "none of the 24 queries asked for was usable" in message and "'empty': 24" in message


@pytest.fixture
def two_splits(undisturbed):
    """The topics with most of their test queries in a dev split, for one test: others count on the test queries."""
    data = undisturbed[0] / "topics"
    rows = (data / "qrels" / "test.tsv").read_text().splitlines()
    (data / "qrels" / "test.tsv").write_text("\n".join(rows[:4]) + "\n")
    (data / "qrels" / "dev.tsv").write_text("\n".join([rows[0], *rows[4:]]) + "\n")
    yield data
    (data / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    (data / "qrels" / "dev.tsv").unlink()


@pytest.mark.slow
def test_a_teacher_is_learnt_from_and_checkpoint_and_base_weight_are_chosen_on_validation(undisturbed, two_splits):
    tmp_path, recipe_file, _ = undisturbed
    data = two_splits
    chosen = [
        "name=chosen",
        "training.loss=kl",
        "training.teacher=encoder:packaged:all-MiniLM-L6-v2",
        "training.teacher_temperature=0.1",
        "training.base_weight=[0, 0.5]",
        "training.checkpoint_steps=1",
    ]
    by = [f"training.validation={{data: '{data}', split: dev, evaluations: 2, documents: 8}}"]
    result = sharpen("run", str(recipe_file), *chosen, *by, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "chosen"
    log = json.loads((folder / "training" / "training_log.json").read_text())
    assert (
        len(log["validated"]) == 2
        and log["kept_step"] == max(log["validated"], key=lambda row: (row["ndcg@10"], -row["step"]))["step"]
    )
    choice = json.loads((folder / "model" / "choice.json").read_text())
    assert [row["base_weight"] for row in choice["ndcg@10"]] == [0, 0.5, 1]
    values = {row["base_weight"]: row["value"] for row in choice["ndcg@10"]}
    assert values[choice["base_weight"]] == max(values[0], values[0.5]) and choice["base_weight"] < 1
    teacher = json.loads((folder / "teacher" / "manifest.json").read_text())["counts"]
    assert teacher["training_positive_first"] > 0 and not list(folder.glob(".*work*"))
    assert (
        "weight of the base | ndcg@10 on validation" in (folder / "report.md").read_text()
        and "(kept)" in (folder / "report.md").read_text()
    )
    again = sharpen("run", str(recipe_file), *chosen, *by, "training.base_weight=[0.25, 1]", cwd=tmp_path)
    assert again.returncode == 0 and re.findall(r"✓ (\w+) +unchanged", again.stdout) == [
        "corpus",
        "before",
        "queries",
        "pairs",
        "negatives",
        "teacher",
        "training",
    ]
    for overrides, said in (
        (
            ["training.validation={split: dev, data: 'D'}", "evaluation.split=dev"],
            "these are the queries that are compared on",
        ),
        (["training.base_weight=[0, 1]"], "base_weight: give one, or validation"),
        (["training.loss=margin_mse"], "learns a teacher's scores"),
        (["training.loss=gist", "negatives.per_query=2"], "use cached_gist"),
        (["training.loss=mnlr"], "did you mean 'mnrl'"),
    ):
        assert said in _fails(str(recipe_file), *(o.replace("'D'", f"'{data}'") for o in overrides), cwd=tmp_path)


@pytest.mark.slow
def test_a_reranker_is_trained_beside_the_retriever_and_teaches_it(undisturbed):
    tmp_path, recipe_file, _ = undisturbed
    part = "reranker={base: 'packaged:tiny-bert', negatives: 2, depth: 6, learning_rate: 1.0e-4}"
    more = [
        "training.loss=margin_mse",
        "training.teacher=reranker",
        "training.matryoshka=[128, 32]",
        "training.trackers=[tensorboard]",
    ]
    shutil.copytree(tmp_path / "topics", tmp_path / "elsewhere")
    more.append(f"evaluation.others=[{{data: '{tmp_path / 'elsewhere'}'}}]")
    result = sharpen("run", str(recipe_file), "name=reranked", part, *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "reranked"
    metrics = _metrics(folder)
    elsewhere = metrics["others"]["elsewhere, split test"]
    assert [elsewhere[side] for side in ("before", "after")] == [metrics[side] for side in ("before", "after")]
    assert (
        "## On other collections" in (folder / "report.md").read_text()
        and "on other collections" in (folder / "model" / "README.md").read_text()
    )
    assert metrics["reranker"]["before"] == metrics["bm25"] and metrics["reranker"]["queries"] == 6
    assert (
        "The reranker over the first 6 of BM25 is" in result.stdout
        and "## The reranker" in (folder / "report.md").read_text()
    )
    names = {row["name"]: row["reranked"] for row in metrics["systems"]["systems"]}
    alone = {name for name in names if not names[name] and "," not in name}
    assert {name for name in names if names[name]} == {f"{name}, reranked" for name in alone} and len(alone) >= 3
    runs = [{}, {}]
    for run, name in zip(runs, ("before/bm25", "reranked/reranked"), strict=True):
        for line in (folder / f"{name}.trec").open():
            run.setdefault(line.split()[0], []).append(line.split()[2])
    # the first six in another order, and those below as they were
    assert (
        all(set(runs[0][q][:6]) == set(runs[1][q][:6]) and runs[0][q][6:] == runs[1][q][6:] for q in runs[0])
        and runs[0] != runs[1]
    )
    report = (folder / "report.md").read_text()
    assert (
        re.search(r"\| 32 \| \d+ \| 0\.\d{4} \|", report)
        and "## What to try" in report
        and "6 queries were compared on" in report
    )
    assert list((folder / "tensorboard" / "training").glob("events*")) and (
        folder / "curves.png"
    ).read_bytes().startswith(b"\x89PNG")
    # the retriever's negatives are those that it has without a reranker
    first = [
        [json.loads(line) for line in (tmp_path / "runs" / name / "negatives" / "negatives.jsonl").open()]
        for name in ("topics", "reranked")
    ]
    kept = [
        {
            q: next(r["doc_id"] for r in rows if r["query_id"] == q and r["verdict"] == "kept")
            for q in {r["query_id"] for r in rows if r["verdict"] == "kept"}
        }
        for rows in first
    ]
    assert kept[0] == kept[1] and len(first[1]) > len(first[0])
    shown = sharpen("show", str(folder), cwd=tmp_path)
    assert (
        shown.returncode == 0
        and "The reranker over the first 6 of BM25 is" in shown.stdout
        and "Elsewhere: The tuned model is" in shown.stdout
    )
    assert "give the part reranker" in _fails(
        str(recipe_file), "training.loss=kl", "training.teacher=reranker", cwd=tmp_path
    )
    assert "evaluation.bm25 is false" in _fails(str(recipe_file), part, "evaluation.bm25=false", cwd=tmp_path)


def test_full_collections_are_rare_within_a_run_and_as_before_after_it():
    before = gc.get_threshold()
    with pytest.raises(RuntimeError, match="stop"), rare_full_collections():
        assert gc.get_threshold() == (*before[:2], 100 * before[2]) and gc.isenabled()
        raise RuntimeError("stop")
    assert gc.get_threshold() == before


def test_the_model_card_says_where_the_model_comes_from(undisturbed):
    folder = undisturbed[0] / "runs" / "topics" / "model"
    card = (folder / "README.md").read_text()
    assert (
        card.startswith("---\n")
        and "library_name: sentence-transformers" in card
        and "| ndcg@10 |" in card
        and "gemma-3-270m" in card
        and "No human label" in card
    )
    assert (folder / "recipe.yaml").read_text() == (folder.parent / "recipe.yaml").read_text()
