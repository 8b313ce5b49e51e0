"""Mixtures of query types and simulated users in a recipe, with a real LLM and a real encoder."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sharpen import sdg
from sharpen.evaluation.beir import Document, read_queries
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.recipes.load import load_recipe
from sharpen.recipes.stages import stages_of
from tests.conftest import TOPICS
from tests.processes import environment, sharpen
from tests.servers import chat_answer, serve_replies

POOLS = Path(__file__).parents[2] / "recipes" / "pools"
MIXED = f"{{kind: mixed, typos: 0.5, pool: {POOLS / 'query_types.yaml'}}}"
USER = f"{{kind: simulated_user, rounds: 2, top_k: 1, documents: 6, pool: {POOLS / 'sessions.yaml'}}}"


def test_the_encoder_counts_only_where_a_user_searches_by_it(recipe_file: Path):
    def fingerprint(*overrides: str) -> dict:
        recipe = load_recipe(str(recipe_file), overrides).recipe
        return next(part.fingerprint() for stage, part in stages_of(recipe) if stage.name == "queries")

    other = "training.document_prompt='x: '"
    for strategies in (f"[{MIXED}]", f"[{USER.replace('rounds', 'retriever: bm25, rounds')}]"):
        assert "encoder" not in fingerprint(f"queries.strategies={strategies}")
        assert fingerprint(f"queries.strategies={strategies}") == fingerprint(f"queries.strategies={strategies}", other)
    searching = f"queries.strategies=[{USER}]"
    assert fingerprint(searching) != fingerprint(searching, other)
    # documents are drawn as without it
    assert fingerprint(searching)["encoder"] and "select" not in fingerprint(searching)["queries"]


@pytest.mark.slow
def test_types_and_sessions_are_counted_from_the_estimate_to_the_report(recipe_file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # every name on one line
    arguments = [
        str(recipe_file),
        f"queries.strategies=[{MIXED}, {USER}]",
        "queries.per_document=1",
        "filters.round_trip={retriever: dense, top_k: 12}",
        "training.epochs=1",
    ]
    estimate = sharpen("estimate", *arguments, cwd=tmp_path)
    assert estimate.returncode == 0, estimate.stderr
    calls = dict(re.findall(r"(mixed-\w+|simulated_user(?:: \w+)?) +│ +(\d+) │", estimate.stdout))
    assert sum(int(n) for name, n in calls.items() if name.startswith("mixed")) == len(TOPICS)
    sessions = {name: n for name, n in calls.items() if name.startswith("sim")}
    assert set(sessions.values()) == {"6"} and len(sessions) == 3
    assert "as if no query but the last found its document" in " ".join(estimate.stdout.split())
    preview = sharpen("preview", *arguments, "--documents", "3", cwd=tmp_path)
    assert preview.returncode == 0, preview.stderr
    before = _answers(tmp_path)
    run = sharpen("run", *arguments, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "runs" / "topics"
    stats = json.loads((folder / "queries" / "strategies.json").read_text())
    prompts = sum(row["prompts"] for row in stats.values())
    assert before >= 3 + 2 * 3 and _answers(tmp_path) == prompts  # the preview's answers are the run's
    mixed = {name: row for name, row in stats.items() if name.startswith("mixed-")}
    assert {name: str(row["asked"]) for name, row in mixed.items()} == {n: calls[n] for n in mixed}
    user = stats["simulated_user"]
    assert 6 <= user["asked"] <= 12 and user["prompts"] == 6 + user["asked"]
    assert all(row["asked"] == row["kept"] + sum(row["rejected"].values()) for row in stats.values())
    queries = list(read_queries(folder / "queries" / "queries.jsonl").values())
    assert {q.metadata["query_type"] for q in queries if q.metadata["strategy"] in mixed} == {
        name.removeprefix("mixed-") for name, row in mixed.items() if row["kept"]
    }
    typed = [q.metadata for q in queries if q.metadata["strategy"] == "simulated_user"]
    assert typed and all({"session", "round", "rank", "found"} <= set(metadata) for metadata in typed)
    assert len([json.loads(line)["need"] for line in (folder / "queries" / "first_steps.jsonl").open()]) <= 6
    shown = sharpen("inspect", "runs/topics", cwd=tmp_path).stdout
    assert re.search(r"simulated_user +│ +1 │ +\d+ │ +\d+ │", shown) and "mixed-" in shown
    report = (folder / "report.md").read_text()
    assert "Queries by strategy" in report and "| strategy | asked for | generated | round trip | split |" in report
    assert all(f"| `{name}` | {row['asked']} | {row['kept']} |" in report for name, row in stats.items())
    diagnosed = sharpen("diagnose", "runs/topics", cwd=tmp_path)
    assert diagnosed.returncode == 0, diagnosed.stderr
    assert "mixed" in diagnosed.stdout and not re.search(r"drift mixed-", diagnosed.stdout)
    assert "mixed or simulated_user" in diagnosed.stdout


@pytest.mark.slow
def test_with_the_same_seed_a_real_llm_writes_the_same(tmp_path: Path):
    corpus = {i: Document(i, text, title) for i, (title, text) in TOPICS.items()}
    strategies = [
        sdg.Mixed(pool=str(POOLS / "query_types.yaml"), examples_per_prompt=2),
        sdg.SimulatedUser(
            pool=str(POOLS / "sessions.yaml"), retriever=BM25(corpus), top_k=1, rounds=2, examples_per_prompt=2
        ),
    ]

    def generate(journal: str) -> list[tuple]:
        llm = sdg.LLM(embedded="gemma-3-270m", journal=tmp_path / journal)
        queries = sdg.generate_queries(corpus, llm, strategies, seed=3, documents=4)
        return [(q.id, q.text, q.metadata) for q in queries]

    first = generate("a.sqlite")
    assert len(first) >= 4 and first == generate("b.sqlite") == generate("a.sqlite")


SHARED = """
import json
from pathlib import Path

from sharpen.evaluation.beir import Document
from sharpen.evaluation.processes import end_processes, process_state
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.retrievers.shared import SharedSearch

corpus = {f"d{n}": Document(f"d{n}", text) for n, text in enumerate(["bread", "a guitar", "lava and ash"])}
with SharedSearch(Dense(corpus, "packaged:tiny-bert")) as retriever:
    if process_state().is_main_process:
        for queries in ({"q": "bread", "r": "lava and ash"}, {"s": "a guitar"}):
            found = {q: max(hits, key=hits.get) for q, hits in retriever.search(queries, 2).items()}
            Path(f"found-{'-'.join(found)}").write_text(json.dumps(found))
Path(f"through-{process_state().process_index}").touch()  # not printed: lines of two processes mix
end_processes()
"""


@pytest.mark.slow
def test_all_processes_take_part_in_the_first_one_s_searches(tmp_path: Path):
    (tmp_path / "search.py").write_text(SHARED)
    command = [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "search.py",
    ]
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "found-q-r").read_text()) == {"q": "d0", "r": "d2"}
    assert json.loads((tmp_path / "found-s").read_text()) == {"s": "d1"}
    assert {path.name for path in tmp_path.glob("through-*")} == {"through-0", "through-1"}


def test_a_preview_asks_for_no_queries_that_the_run_does_not_ask_for(recipe_file, dataset):
    """Of labelled queries alone; the LLM is there for the judge."""
    (dataset / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nn-1\tvolcano\t1\n")
    with (dataset / "queries.jsonl").open("a") as file:
        file.write('{"_id": "n-1", "text": "why does lava come out"}\n')
    asked = []
    with serve_replies(lambda *request: (asked.append(request), chat_answer("how is it done"))[1]) as url:
        given = [f"llm={{base_url: '{url}', model: m}}", "negatives.filters=[{kind: judge}]"]
        labelled = f"labelled={{data: {dataset}, split: train, fraction: 1}}"
        result = sharpen("preview", str(recipe_file), *given, labelled, cwd=dataset.parent)
        assert result.returncode == 0 and "no queries are generated" in result.stdout, result.stderr
        assert not asked and not (dataset.parent / "runs").exists()
        mixed = labelled.replace("fraction: 1", "fraction: 0.5")
        result = sharpen("preview", str(recipe_file), *given, mixed, "--documents", "2", cwd=dataset.parent)
        assert result.returncode == 0 and len(asked) == 4, result.stderr


def _answers(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "runs" / "llm_answers.sqlite")) as journal:
        return journal.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
