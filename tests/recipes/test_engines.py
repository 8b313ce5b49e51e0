"""The same recipe in one process, under accelerate with two, and on a Ray of two nodes; and what kills leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from sharpen.evaluation.encoders.load import load_cross_encoder
from tests.conftest import TOPICS, make_dataset, make_recipe
from tests.processes import environment, kill_when, sharpen, start_sharpen
from tests.servers import chat_answer, serve_replies

pytestmark = pytest.mark.slow

ROWS = 5
"""Of a shard, so that there are several of twelve documents."""


@contextmanager
def serve_counting(seconds: float = 0.0) -> Iterator[tuple[str, Counter[str]]]:
    """An LLM that asks for words of the text that it is shown, the same of the same prompt. Yields its URL and how
    often each prompt was answered."""
    answered, lock = Counter(), threading.Lock()

    def reply(_path: str, body: dict, _headers: dict):
        prompt = body["messages"][-1]["content"] + json.dumps(body.get("seed"))
        topic = next(t for t in TOPICS if TOPICS[t][1][:40] in prompt)
        words = TOPICS[topic][1].split()
        start = sum(prompt.encode()) % (len(words) - 6)
        time.sleep(seconds)
        with lock:
            answered[prompt] += 1
        return chat_answer(f"how to {' '.join(words[start : start + 6])}?")

    with serve_replies(reply) as url:
        yield url, answered


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    load_cross_encoder("packaged:tiny-bert", new_head=True).save_pretrained(str(folder / "cross-encoder"))
    return make_recipe(folder, make_dataset(folder / "topics"))


def overrides(recipe_file: Path, runs: Path, url: str) -> list[str]:
    cross_encoder = f"{{kind: cross_encoder, model: {recipe_file.parent}/cross-encoder}}"
    return [
        f"runs={runs}",
        f"llm={{base_url: {url}, model: m, concurrency: 1}}",
        "filters.round_trip=null",
        f"negatives.miners=[{{kind: bm25}}, {{kind: dense, block: 4}}, {cross_encoder}]",
        "negatives.per_query=3",
        "training.epochs=1",
        "training.precision=float32",  # in bf16 a batch of another size is rounded otherwise
    ]


@pytest.fixture(scope="module")
def in_one_process(recipe_file, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("one")
    with serve_counting() as (url, answered):
        result = sharpen("run", str(recipe_file), *overrides(recipe_file, runs, url), cwd=recipe_file.parent)
    assert result.returncode == 0, result.stderr
    assert answered.total() == len(answered) == 24
    return runs / "topics"


@contextmanager
def two_nodes() -> Iterator:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def check_same(run: Path, other: Path) -> None:
    """The same queries and negatives, and the same documents found, with scores that agree to 1e-5."""
    for name in ("queries/queries.jsonl", "pairs/queries.jsonl", "corpus/corpus.jsonl"):
        assert (run / name).read_text() == (other / name).read_text()
    paths = [each / "negatives/negatives.jsonl" for each in (run, other)]
    rows = [list(map(json.loads, path.open())) for path in paths]
    scores = [[row.pop("score") for row in of_run] for of_run in rows]
    assert rows[0] == rows[1] and len(rows[0]) > 20 and scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert {row["miner"] for row in rows[0]} == {"bm25", "dense", "cross_encoder"}
    runs = [(each / "before/before.trec").read_text().split() for each in (run, other)]
    for n in range(0, len(runs[0]), 6):
        assert runs[0][n : n + 4] == runs[1][n : n + 4]
        assert float(runs[0][n + 4]) == pytest.approx(float(runs[1][n + 4]), abs=1e-5)


def test_two_processes_of_accelerate_share_the_shards_and_find_the_same(recipe_file, in_one_process, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "--main_process_port", "0", "-m", "sharpen.recipes", "run", str(recipe_file)]
    with serve_counting() as (url, answered):
        result = subprocess.run(
            [*command, *overrides(recipe_file, tmp_path, url), f"engine={{kind: local, rows: {ROWS}}}"],
            cwd=recipe_file.parent,
            env=environment(CUDA_VISIBLE_DEVICES=""),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert result.returncode == 0, result.stderr[-3000:]
    assert answered.total() == 24
    check_same(tmp_path / "topics", in_one_process)
    assert len(list((tmp_path / ".partitions").glob("vectors-*/*.parquet"))) >= 3


def test_a_ray_of_two_nodes_finds_the_same_and_a_second_run_computes_nothing(recipe_file, in_one_process, tmp_path):
    with serve_counting() as (url, answered), two_nodes() as cluster:
        options = [f"engine={{kind: ray, address: '{cluster.address}', rows: {ROWS}}}"]
        command = ["run", str(recipe_file), *overrides(recipe_file, tmp_path, url), *options]
        result = sharpen(*command, cwd=recipe_file.parent, process=True)
        assert result.returncode == 0, result.stderr[-3000:]
        assert answered.total() == 24
        check_same(tmp_path / "topics", in_one_process)
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".partitions").rglob("*.parquet")}
        assert {path.parent.name.partition("-")[0] for path in kept} == {"vectors", "scores", "bm25"}
        # another run of the same documents: what it needs of the base is there
        result = sharpen(*command, "name=again", "training.epochs=2", cwd=recipe_file.parent, process=True)
        assert result.returncode == 0, result.stderr[-3000:]
    assert answered.total() == 24
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())


def test_a_worker_a_node_and_the_driver_are_killed_and_nothing_is_lost_or_done_twice(
    recipe_file, in_one_process, tmp_path
):
    with serve_counting(seconds=0.4) as (url, answered), two_nodes() as cluster:
        options = [f"engine={{kind: ray, address: '{cluster.address}', rows: {ROWS}}}"]
        command = ["run", str(recipe_file), *overrides(recipe_file, tmp_path, url), *options]
        driver = start_sharpen(*command, cwd=recipe_file.parent)
        wait_for(lambda: answered.total() >= 3, driver)
        kill_a_worker()
        wait_for(lambda: answered.total() >= 8, driver)
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        wait_for(lambda: answered.total() >= 13, driver)
        kill_when(driver, lambda: answered.total() >= 15)
        result = sharpen(*command, cwd=recipe_file.parent, process=True)
        assert result.returncode == 0, result.stderr[-3000:]
    assert len(answered) == 24
    # what was under way had no chance to be written down: one a worker that was killed, two with the driver
    assert answered.total() <= 24 + 4
    check_same(tmp_path / "topics", in_one_process)


def wait_for(reached, process) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)


def kill_a_worker() -> None:
    """SIGKILL to one that is at a shard."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline() and process.cmdline()[0].startswith("ray::_Worker.do"):
                    os.kill(process.pid, signal.SIGKILL)
                    return
        time.sleep(0.05)
    raise AssertionError("no worker is at a shard")
