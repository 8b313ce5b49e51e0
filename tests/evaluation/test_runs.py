import math
from pathlib import Path

import pytest
import pytrec_eval

from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.runs import fuse, ranking, read_run, to_documents, write_run


def test_what_is_written_is_read_back_and_white_space_found_again(tmp_path: Path):
    run = {"q 1": {"a doc": 0.5, "b": 0.75, "c": 0.75}, "q2": {"d": -1e-9}}
    write_run(tmp_path / "run.trec", run)
    assert (tmp_path / "run.trec").read_text().splitlines()[:3] == [
        "q_1 Q0 b 1 0.75 sharpen",
        "q_1 Q0 c 2 0.75 sharpen",
        "q_1 Q0 a_doc 3 0.5 sharpen",
    ]
    assert read_run(tmp_path / "run.trec", ["q 1", "q2"], ["a doc", "b", "c", "d"]) == run
    assert set(read_run(tmp_path / "run.trec")) == {"q_1", "q2"}


def test_pytrec_eval_reads_ours_and_we_read_what_others_write(tmp_path: Path):
    run, qrels = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"b": 0.1}}, {"q1": {"b": 1}, "q2": {"b": 2}}
    write_run(tmp_path / "run.trec", run)
    with (tmp_path / "run.trec").open() as file:
        parsed = pytrec_eval.parse_run(file)
    assert parsed == run
    # pyserini writes ranks from 1 and scores with six digits; what counts is the score
    (tmp_path / "anserini.txt").write_text(
        "q1 Q0 b 1 11.500000 Anserini\nq1\tQ0\ta\t2\t9.25\tAnserini\n\nq2 Q0 b 1 3 Anserini\n"
    )
    read = read_run(tmp_path / "anserini.txt")
    assert read == {"q1": {"b": 11.5, "a": 9.25}, "q2": {"b": 3.0}} and evaluate(qrels, read)["hit_rate@1"] == {
        "q1": 1,
        "q2": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 Q0 a 1 0.5\n", "line 1: expected query, Q0"),
        ("q1 Q0 a 1 0.5 x\nq1 Q0 b 2 high x\n", "line 2"),
        ("q1 Q0 a 1 nan x\n", "line 1"),
        ("q1 Q0 a 1 2 x\nq1 Q0 a 2 1 x\n", "line 2: query 'q1' has document 'a'"),
    ],
)
def test_bad_run_files_are_named_by_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "run.trec").write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path / "run.trec")
    with pytest.raises(InputError, match="no such file"):
        read_run(tmp_path / "none.trec")


def test_ranking_breaks_ties_by_id():
    assert ranking({"b": 1.0, "a": 1.0, "c": 2.0}) == ["c", "a", "b"]


def test_a_document_counts_by_its_best_chunk(corpus):
    scores = {i: float(n) for n, i in enumerate(corpus)}
    assert to_documents({"q": scores}, corpus) == {"q": {corpus[i].doc_id: s for i, s in scores.items()}}
    assert all(math.isfinite(s) for s in fuse([{"q": scores}, {"q": {}}])["q"].values())
