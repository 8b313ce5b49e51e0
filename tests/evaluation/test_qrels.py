"""What a file of judgments or of a run is, decided once for the whole file, and what is refused."""

import unicodedata
import warnings
from pathlib import Path

import pytest

from sharpen.evaluation.beir import Document, Query, read_qrels, read_queries, write_qrels
from sharpen.evaluation.datasets import Task, load_task
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.questions import read_questions
from sharpen.evaluation.runs import read_run, write_run
from tests.conftest import write_rows


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\n1\t184\t2\n1\t29\t0\n3\t51\t1\n",
        "1\t184\t2\n1\t29\t0\n3\t51\t1\n",
        "1\t0\t184\t2\n1\t0\t29\t0\n3\t0\t51\t1\n",
        "1 0 184 2\n1 0 29 0\n3 0 51 1\n",
        "1 Q0 184 2\n\n1   Q0 29 0\n3 Q0 51 1\n",
        "1 184 2\n1 29 0\n3 51 1\n",
        "\ufeff1\t184\t2\r\n1\t29\t0\r\n3\t51\t1\r\n",
        "1\t184\t2.0\n1\t29\t0.0\n3\t51\t1.0\n",
        "score\tdocid\tqid\n2\t184\t1\n0\t29\t1\n1\t51\t3\n",
        "query_id\titer\tdoc_id\trelevance\n1\t0\t184\t2\n1\t0\t29\t0\n3\t0\t51\t1\n",
    ],
)
def test_three_columns_and_four_give_the_same_judgments(tmp_path: Path, text: str):
    (tmp_path / "test.tsv").write_text(text, encoding="utf-8")
    assert read_qrels(tmp_path / "test.tsv") == {"1": {"184": 2, "29": 0}, "3": {"51": 1}}


def test_trecs_second_column_may_be_a_round_where_the_documents_are_no_numbers(tmp_path: Path):
    (tmp_path / "test.tsv").write_text("1 4.5 dog 2\n1 1 cat 0\n2 1 7 1\n")
    assert read_qrels(tmp_path / "test.tsv") == {"1": {"dog": 2, "cat": 0}, "2": {"7": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 184 2\n1 7 29 0\n", "line 2: four columns, and it cannot be told"),
        ("1\t184\t2\tgood\n", "line 1: four columns, and it cannot be told"),
        ("1\t0\t184\t2\n1\t29\t0\n", "line 2: 3 columns, and line 1 has 4"),
        ("1\t184\t2\n1\t0\t29\t0\n", "line 2: 4 columns, and line 1 has 3"),
        ("1\t0\t184\n1\t0\t29\n", "line 1: the second of three columns is 0 in every row"),
        ("1 Q0 184 1 17.5 bm25\n1 Q0 29 2 11.25 bm25\n", "line 1: a run .* in the place of qrels"),
        ("1\t184\n", "line 1: expected query-id, corpus-id"),
        ("1\t184\t0.5\n", "line 1: expected .* whole-number"),
        ("1\t\t1\n", "line 1: expected query-id"),
        ("topic\tx\ty\tscore\n1\t2\t3\t1\n", "line 1: the header names topic, x, y, score"),
    ],
)
def test_what_may_mean_two_things_is_refused_with_its_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "test.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_qrels(tmp_path / "test.tsv")


@pytest.mark.parametrize("text", ["q1\t0\td1\t1\n", "q1 0 d1 1\n", "query-id\tcorpus-id\tscore\nq1\td1\t1\n"])
def test_qrels_are_no_run(tmp_path: Path, text: str):
    (tmp_path / "test.tsv").write_text(text)
    with pytest.raises(InputError, match=r"line 1: .* looks like qrels, which say what is right"):
        read_run(tmp_path / "test.tsv")


def test_a_run_of_another_collection_is_refused_and_not_scored_as_nothing(tmp_path: Path):
    (tmp_path / "a.trec").write_text("q1 Q0 d1 1 2.5 x\n")
    assert read_run(tmp_path / "a.trec", ["q1"], ["d1"]) == {"q1": {"d1": 2.5}}
    with pytest.raises(InputError, match=r"none of its queries \(as 'q1'\) .* 'PLAIN-1', 'PLAIN-2'"):
        read_run(tmp_path / "a.trec", ["PLAIN-2", "PLAIN-1"], ["d1"])
    with pytest.raises(InputError, match=r"none of its documents \(as 'd1'\) .* 'MED-1'"):
        read_run(tmp_path / "a.trec", ["q1"], ["MED-1"])
    (tmp_path / "empty.trec").write_text("\n")
    with pytest.raises(InputError, match="no row at all"):
        read_run(tmp_path / "empty.trec", ["q1"], ["d1"])
    with pytest.raises(InputError, match="no query in common: 'x' is searched for, and 'q1' is judged"):
        evaluate({"q1": {"d1": 1}}, {"x": {"d1": 1.0}})
    assert evaluate({"q1": {"d1": 1}}, {"x": {}}, ["mrr@10"]) == {"mrr@10": {"q1": 0.0}}


@pytest.mark.parametrize("score", ["nan", "inf", "-Infinity"])
def test_scores_that_are_not_finite_are_refused(tmp_path: Path, score: str):
    (tmp_path / "a.trec").write_text(f"q1 Q0 d1 1 1.5 x\nq1 Q0 d2 2 {score} x\n")
    with pytest.raises(InputError, match=f"line 2: the score {score} is not a finite number"):
        read_run(tmp_path / "a.trec")
    with pytest.raises(InputError, match="score of 'd2' is not a finite number"):
        evaluate({"q1": {"d1": 1}}, {"q1": {"d1": 1.5, "d2": float(score)}})
    with pytest.raises(InputError, match="query 'q1' has a score that is not a finite number"):
        write_run(tmp_path / "b.trec", {"q1": {"d2": float(score)}})


def test_ids_that_a_file_could_not_hold_are_refused_before_it_is_written(tmp_path: Path):
    for name in ("a\tb", "a\nb", "a\rb"):
        with pytest.raises(InputError, match="has a tab or line break"):
            write_qrels(tmp_path / "test.tsv", {"q": {name: 1}})
        with pytest.raises(InputError, match="has a tab or line break"):
            write_qrels(tmp_path / "test.tsv", {name: {"d": 1}})
    with pytest.raises(InputError, match="'a b' and 'a_b' would be the same"):
        write_run(tmp_path / "a.trec", {"q": {"a b": 1.0, "a_b": 0.5}})
    assert not list(tmp_path.iterdir())


def test_names_in_nfd_are_found_by_judgments_in_nfc_and_it_is_said(tmp_path: Path):
    name, asked = "Überprüfung.md", "Wie prüft man?"
    nfc, nfd = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\t{nfc}\t1\n", encoding="utf-8")
    write_rows(tmp_path / "queries.jsonl", [{"_id": "q1", "text": asked}])
    corpus = {nfd: Document(nfd, "Man prüft."), "b": Document("b", "Text")}
    for unknown in ("error", "drop"):
        with pytest.warns(UserWarning, match="1 IDs of documents were found after Unicode normalisation only"):
            assert load_task(str(tmp_path), "test", corpus, unknown).qrels == {"q1": {nfd: 1}}
    write_rows(tmp_path / "questions.jsonl", [{"question": asked, "document": nfc}])
    with pytest.warns(UserWarning, match="Unicode normalisation"):
        assert read_questions(tmp_path / "questions.jsonl", corpus)[1] == {"q1": {nfd: 1}}
    (tmp_path / "a.trec").write_text(f"q1 Q0 {nfc} 1 1.5 x\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="Unicode normalisation"):
        assert read_run(tmp_path / "a.trec", ["q1"], corpus) == {"q1": {nfd: 1.5}}
    both = {nfc: Document(nfc, "one"), nfd: Document(nfd, "two")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_task(str(tmp_path), "test", both).qrels == {"q1": {nfc: 1}}


def test_judgments_of_another_collection_name_both_sides(tmp_path: Path):
    corpus, queries = {"d1": Document("d1", "text")}, {"q1": Query("q1", "text")}
    with pytest.raises(InputError, match=r"none of the judged documents \(as 'MED-1'\) .* which has 'd1'"):
        Task(corpus, queries, {"q1": {"MED-1": 1}})
    with pytest.raises(InputError, match=r"none of the judged queries \(as 'PLAIN-1'\) .* which are 'q1'"):
        Task(corpus, queries, {"PLAIN-1": {"d1": 1}})
    (tmp_path / "test.tsv").write_text("q9\td1\t1\n")
    with pytest.warns(UserWarning), pytest.raises(InputError, match=r"none of its queries is .* which has 'q1'"):
        read_qrels(tmp_path / "test.tsv", queries, corpus)
    (tmp_path / "test.tsv").write_text("q1\tMED-1\t1\n")
    with pytest.raises(InputError, match="line 1: document 'MED-1' is not in the corpus, which has 'd1'"):
        read_qrels(tmp_path / "test.tsv", queries, corpus)


def test_well_known_keys_of_queries_are_taken_and_others_are_named(tmp_path: Path):
    path = tmp_path / "queries.jsonl"
    for id_key, key in (("_id", "text"), ("id", "query"), ("query-id", "question"), ("qid", "contents")):
        write_rows(path, [{id_key: 7, key: "how?", "metadata": {"a": 1}}])
        assert read_queries(path) == {"7": Query("7", "how?", {"a": 1})}
    write_rows(path, [{"number": 7, "text": "how?"}])
    with pytest.raises(InputError, match=r"line 1: no key '_id', nor .*; the keys there are 'number', 'text'"):
        read_queries(path)
    write_rows(path, [{"_id": "7", "title": "how?"}])
    with pytest.raises(InputError, match=r"line 1: no key 'text', nor .*; the keys there are '_id', 'title'"):
        read_queries(path)
