"""What runs of a comparison share, and how they run side by side."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from sharpen.recipes.load import FOLDER
from sharpen.recipes.study import _task
from sharpen.recipes.study_file import read_study
from sharpen.recipes.study_plan import executions, plan_table, plan_tree, print_plan, stage_keys
from sharpen.recipes.study_runs import runs_of
from sharpen.recipes.study_workers import Task, run_tasks
from tests.processes import kill_when, sharpen, start_sharpen

PAPER = FOLDER / "studies" / "llm_negatives" / "compare.yaml"


def _some_of_the_paper(arms: list[str], datasets: list[str], seeds: tuple[int, ...], *more: str):
    study = read_study(PAPER)
    update = {
        "arms": {arm: study.arms[arm] for arm in arms},
        "datasets": {name: study.datasets[name] for name in datasets},
        "seeds": seeds,
        "baseline": arms[0],
        "published": {},
    }
    return runs_of(study.model_copy(update=update), PAPER, more)


def test_what_is_compared_on_is_no_input_of_training():
    runs = _some_of_the_paper(["BM25", "CE", "Qwen3-4B and BM25"], ["scifact", "nfcorpus"], (13, 14))
    rows = {row.stage: row for row in plan_table(plan_tree(runs), {})}
    assert {name: rows[name].executions for name in ("corpus", "before", "pairs")} == {
        "corpus": 1,
        "before": 2,
        "pairs": 2,
    }
    assert all(rows[name].executions == 6 for name in ("negatives", "training", "model"))
    assert rows["after"].executions == len(runs) == 12
    assert all(row.runs == 12 and row.done == 0 and row.left is None for row in rows.values())
    reserved = [{(part.data, part.split) for part in run.loaded.recipe.evaluation.reserved} for run in runs]
    assert all(found == {("scifact", "test"), ("nfcorpus", "test")} for found in reserved)
    own = [{"data": "final"}, {"data": "nfcorpus"}]
    runs = _some_of_the_paper(["BM25"], ["scifact", "nfcorpus"], (13,), f"evaluation.reserved={json.dumps(own)}")
    names = [sorted(part.data for part in run.loaded.recipe.evaluation.reserved) for run in runs]
    assert names == [["final", "nfcorpus", "scifact"]] * 2  # what a recipe reserves itself stays reserved
    # of a single dataset, a run is what it would be by itself
    assert not _some_of_the_paper(["BM25"], ["scifact"], (13,))[0].loaded.recipe.evaluation.reserved


@pytest.mark.parametrize("others", ["[{data: nfcorpus}]", "[{data: python-docs, documents: 100}]"])
def test_a_study_may_name_other_collections(others):
    study = read_study(PAPER)
    update = {
        "arms": {"BM25": study.arms["BM25"]},
        "datasets": {"scifact": study.datasets["scifact"]},
        "baseline": None,
    }
    runs = runs_of(study.model_copy(update=update | {"published": {}}), PAPER, [f"evaluation.others={others}"])
    alone = _some_of_the_paper(["BM25"], ["scifact"], study.seeds)
    assert len(runs[0].loaded.recipe.evaluation.others) == 1 and not alone[0].loaded.recipe.evaluation.others
    keys, without = stage_keys(runs[0]), stage_keys(alone[0])
    assert {name for name, stage in keys.items() if stage.key != without[name].key} == {"before", "after"}


def test_a_plan_is_a_tree_in_which_what_looks_alike_is_in_one_line(capsys):
    runs = _some_of_the_paper(["BM25", "Qwen3-4B"], ["scifact", "nfcorpus"], (13,))
    root = plan_tree(runs)
    nodes = executions(root)
    assert len({node.key for node in nodes}) == len(nodes)
    for run in runs:
        keys = {stage.key for stage in stage_keys(run).values()}
        assert {node.key for node in nodes if run in node.runs} == keys
    print_plan(PAPER, runs, {runs[0]: {"corpus", "pairs"}}, Console(width=100))
    shown = capsys.readouterr().out
    assert "compare.yaml: 4 runs" in shown
    assert "negatives × 2  2 arms, 2 datasets, 1 seed" in shown and "after × 4" in shown
    assert {name: stage.asks for name, stage in stage_keys(runs[0]).items() if stage.asks} == {}
    assert [name for name, stage in stage_keys(runs[1]).items() if stage.asks] == ["negatives"]


def test_an_llm_that_is_asked_after_the_mining_is_asked_by_one_run_at_a_time():
    path = FOLDER / "studies" / "generative" / "identifiers.yaml"
    study = read_study(path)
    run = next(r for r in runs_of(study.model_copy(update={"seeds": (13,)}), path) if r.arm.startswith("keywords"))
    assert run.loaded.recipe.evaluation.systems  # without effect there, and so refused if it were false
    stages = stage_keys(run)
    task = _task(run, stages, ["identifiers", "training"], ())
    assert task.asks == {stages["identifiers"].key} < task.makes


@pytest.mark.parametrize("seed", range(5))
def test_no_two_tasks_make_the_same_or_ask_at_a_time(seed):
    random = Random(seed)
    keys = [f"k{n}" for n in range(12)]
    tasks = []
    for n in range(30):
        makes = frozenset(random.sample(keys, random.randint(1, 4)))
        tasks.append(Task(n, (makes,), makes, frozenset(k for k in makes if k in ("k0", "k1", "k2"))))
    lock, made, making, most, asking = threading.Lock(), Counter(), set(), 0, 0

    def execute(_run, makes):
        nonlocal most, asking
        with lock:
            mine = {key for key in makes if not made[key]}
            assert not mine & making
            making.update(mine)
            asks = any(key in ("k0", "k1", "k2") for key in mine)
            asking += asks
            assert asking <= 1
            most = max(most, len(making))
        time.sleep(random.random() / 300)
        with lock:
            making.difference_update(mine)
            made.update(mine)
            asking -= asks
        return sorted(makes)

    said = []
    with ThreadPoolExecutor(4) as pool:
        done = list(run_tasks(tasks, execute, pool, 4, said.append))
    assert sorted(task.run for task, _ in done) == list(range(30)) == sorted(said)
    assert all(result == sorted(task.makes) for task, result in done)
    assert max(made.values()) == 1 and most > 1


STUDY = """# Two miners and none, on two sets of twelve documents.
recipe: topics.yaml
seeds: [3]
baseline: none
datasets:
  topics:
  others: [evaluation.data=others]
arms:
  none: [negatives.per_query=0]
  bm25: ["negatives={per_query: 1, miners: [{kind: bm25, ranks: [1, 9]}]}"]
"""


@pytest.mark.slow
def test_runs_side_by_side_are_those_one_after_the_other_and_survive_a_kill(undisturbed, tmp_path):
    source, recipe_file, _ = undisturbed
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    text = recipe_file.read_text().replace(str(source), str(tmp_path)).replace("queries: {", "queries: {seed: 3, ")
    (tmp_path / "topics.yaml").write_text(text)
    shutil.copytree(tmp_path / "topics", tmp_path / "others")
    path = tmp_path / "sets.yaml"
    path.write_text(STUDY)
    answers = (tmp_path / "runs" / "llm_answers.sqlite").read_bytes()
    single, double = tmp_path / "single", tmp_path / "double"
    for folder in (single, double):
        folder.mkdir()
        (folder / "llm_answers.sqlite").write_bytes(answers)
    alone = sharpen("compare", str(path), f"runs={single}", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    process = start_sharpen("compare", str(path), f"runs={double}", "--jobs", "2", cwd=tmp_path)
    kill_when(process, lambda: list((double / "sets").glob("*/*/scores.json")))
    together = sharpen("compare", str(path), f"runs={double}", "--jobs", "2", cwd=tmp_path, process=True)
    assert together.returncode == 0, together.stderr
    scores = [
        {p.relative_to(folder): json.loads(p.read_text()) for p in folder.rglob("scores.json")}
        for folder in (single, double)
    ]
    assert len(scores[0]) == 4 and scores[0].keys() == scores[1].keys()
    for name, found in scores[0].items():
        assert {**found, "seconds": 0} == {**scores[1][name], "seconds": 0}
    # a training serves both sets, and the queries of all runs are one file
    for arm in ("none-3", "bm25-3"):
        manifests = [
            (double / "sets" / Path(name) / arm / "diagnosis" / "manifest.json").stat().st_ino
            for name in ("topics", "others")
        ]
        assert manifests[0] == manifests[1]
    assert len({p.stat().st_ino for p in double.rglob("queries/queries.jsonl")}) == 1
    plan = sharpen("compare", str(path), f"runs={double}", "--plan", cwd=tmp_path).stdout
    row = next(line for line in plan.splitlines() if "training" in line and "│" in line and "×" not in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:4] == ["4", "2", "2"]
