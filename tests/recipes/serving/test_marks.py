"""Marks of people: none is lost, and a next run takes them."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.serving.marks import LOG, Marks
from sharpen.recipes.stages.comparison import AfterStage
from sharpen.sdg.splitting import read_split
from tests.processes import kill_when, sharpen, start

TWENTY = {
    "how long does dough rest": ("bread", "coffee"),
    "flat tire what now": ("bicycle", "sailing"),
    "when to put young plants outside": ("tomato", "candle"),
    "ice flowing downhill": ("glacier", "volcano"),
    "beans per litre": ("coffee", "bread"),
    "first moves": ("chess", "guitar"),
    "wick in the middle": ("candle", "glacier"),
    "strings from low to high": ("guitar", "piano"),
    "wind freshens": ("sailing", "bicycle"),
    "biometric photo": ("passport", "chess"),
}


def _marks(run: Path) -> Marks:
    return Marks.of_run(run, read_corpus(run / "corpus" / "corpus.jsonl"))


def _mark_many(run: str, who: str, number: int) -> None:
    marks = _marks(Path(run))
    for n in range(number):
        marks.mark(f"{who} {n}", "bread", True, who)


def test_marks_of_several_windows_are_all_there(run):
    processes = [start(_mark_many, str(run), who, 8) for who in ("Anna", "Ben", "Carl")]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    rows = [row for _, row in read_jsonl(run / "marks" / LOG)]
    assert sorted(row["query"] for row in rows) == sorted(
        f"{who} {n}" for who in ("Anna", "Ben", "Carl") for n in range(8)
    )
    assert all(row["who"] == row["query"].split()[0] and row["when"].endswith("+00:00") for row in rows)
    queries = read_queries(run / "marks" / "queries.jsonl")
    assert read_qrels(run / "marks" / "qrels" / "test.tsv", queries).keys() == queries.keys()
    assert len(queries) == 24


def test_who_is_killed_leaves_whole_files(run):
    log = run / "marks" / LOG
    process = start(_mark_many, str(run), "Anna", 10_000)
    kill_when(process, lambda: log.exists() and len(log.read_bytes().splitlines()) > 20)
    number = len([row for _, row in read_jsonl(log)])
    queries = read_queries(run / "marks" / "queries.jsonl")
    assert number > 20 and read_qrels(run / "marks" / "qrels" / "test.tsv", queries).keys() <= queries.keys()
    _marks(run).mark("one more", "bread", True, "Ben")
    assert len(read_queries(run / "marks" / "queries.jsonl")) == number + 1
    assert not list((run / "marks").glob("*.partial"))[1:]  # at most that of the killed one


def test_a_mark_is_changed_and_taken_back_whatever_the_spelling(run):
    marks = _marks(run)
    marks.mark("Ice  flows", "glacier", True, "Anna")
    marks.mark("ice flows", "volcano", True, "Anna")
    marks.mark("ice flows ", "volcano", False, "Ben")
    assert marks.of("ICE FLOWS") == {"glacier": True, "volcano": False} and marks.count() == (1, 2)
    marks.mark("ice flows", "volcano", None, "Ben")
    assert marks.of("ice flows") == {"glacier": True}
    for query, document, said in ((" ", "glacier", "without words"), ("ice", "nothing", "no such document")):
        with pytest.raises(InputError, match=said):
            marks.mark(query, document, True, "Ben")
    (run / "marks" / LOG).write_text('{"query": "ice", "document": "glacier", "relevant": "yes"}\n')
    with pytest.raises(InputError, match="line 1: a mark has"):
        marks.of("ice")


def test_a_next_run_compares_and_trains_on_what_was_marked(run):
    marks = _marks(run)
    for query, (right, wrong) in TWENTY.items():
        marks.mark(query, right, True, "Anna")
        marks.mark(query, wrong, False, "Anna")
    assert marks.count() == (10, 20)
    part = f"labelled={{data: {marks.folder}, split: test}}"
    trained = sharpen("mine", str(run), "name=next", part, cwd=run)
    assert trained.returncode == 0, trained.stderr
    following = run.parent / "next"
    queries = read_queries(following / "pairs" / "queries.jsonl")
    labelled = {q.text: q.metadata["positives"] for q in queries.values() if q.metadata["strategy"] == "labelled"}
    # without those of the six that are compared on, which have the same text
    assert {"wick in the middle", "biometric photo"} <= labelled.keys() and "beans per litre" not in labelled
    assert all(positives == [TWENTY[text][0]] for text, positives in labelled.items())
    before = {stage: (run / stage / "manifest.json").stat().st_ino for stage in ("pairs", "training", "after")}
    compared = sharpen("run", str(run), f"evaluation.data={marks.folder}", cwd=run)
    assert compared.returncode == 0, compared.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["queries"] == 10 and "marks, split test" in metrics["queries_of"]
    # nothing was trained again, and the corpus is not another one
    after = {stage: (run / stage / "manifest.json").stat().st_ino for stage in before}
    assert (after["pairs"], after["training"]) == (before["pairs"], before["training"])
    assert after["after"] != before["after"]
    inputs = Inputs(run)
    assert AfterStage.of(load_recipe(str(run)).recipe).task(inputs).corpus is inputs.corpus()


def test_a_file_without_its_last_line_break_takes_another_line(run):
    marks = _marks(run)
    marks.mark("ice", "glacier", True, "Anna")
    log = run / "marks" / LOG
    log.write_bytes(log.read_bytes().rstrip(b"\n"))
    marks.mark("dough", "bread", True, "Anna")
    assert [row["query"] for _, row in read_jsonl(log)] == ["ice", "dough"]


def test_what_is_printed_adds_marked_queries_to_the_generated_ones(run):
    marks = _marks(run)
    sides = read_split(run / "pairs" / "split.jsonl")
    for n, (document, side) in enumerate(sides.items()):
        marks.mark(f"something that nobody has asked {n}", document, True, "Anna")
        if side != "train" or n % 2:
            marks.mark(f"something that nobody has asked {n}", list(sides)[n - 1], False, "Anna")
    _, train, negatives = marks.how_to_use().splitlines()
    parts = [part for part in shlex.split(f"{train} {negatives}") if "=" in part]
    assert [part.partition("=")[0] for part in parts] == ["labelled", "negatives.miners", "negatives.too_few"]
    few = ("negatives.per_query=2", "negatives.miners.1.ranks=[1, 12]", "negatives.filters=[]")  # of 12 documents
    trained = sharpen("mine", str(run), "name=next", *parts, *few, cwd=run)
    assert trained.returncode == 0, trained.stderr
    following = run.parent / "next"
    counts, was = (json.loads((r / "pairs" / "manifest.json").read_text())["counts"] for r in (following, run))
    added = list(sides.values()).count("train")
    assert counts["labelled_in_train"] == added > 5
    assert counts["train"] >= was["train"] + added - 1  # the fraction is rounded
    kept = Counter(row.query_id for row in Inputs(following).negatives() if row.verdict == "kept")
    assert max(n for i, n in kept.items() if not i.startswith("labelled-")) == 2  # all of them from BM25


def test_marks_fit_the_documents_that_the_run_has_now(run):
    marks = _marks(run)
    marks.mark("ice", "glacier", True, "Anna")
    link = run / "marks" / "corpus.jsonl"
    assert link.samefile(run / "corpus" / "corpus.jsonl")
    file = run / "corpus" / "corpus.jsonl"
    lines = [line for line in file.read_text().splitlines() if '"glacier"' not in line]
    file.unlink()
    file.write_text("\n".join(lines) + "\n")
    marks = _marks(run)
    marks.mark("dough", "bread", True, "Anna")
    assert link.samefile(file)
    queries = read_queries(run / "marks" / "queries.jsonl")
    qrels = read_qrels(run / "marks" / "qrels" / "test.tsv", queries, read_corpus(link))
    assert [list(grades) for grades in qrels.values()] == [["bread"]] and len(queries) == 2
