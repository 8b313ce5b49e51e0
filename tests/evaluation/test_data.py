from pathlib import Path

import pytest

from sharpen.evaluation.beir import Document, read_corpus, read_qrels, read_queries, text_key, write_corpus, write_qrels
from sharpen.evaluation.files import InputError, atomic_file, atomic_folder


def _error(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ('{"_id": "a", "text": "x"}\n{"_id": "b", text}\n', ["corpus.jsonl, line 2", "not valid JSON"]),
        ('{"_id": "a", "text": "x"}\n\n{"_id": "a", "text": "y"}\n', ["line 3", "'a'", "unique"]),
        ('{"text": "x"}\n', ["line 1", "_id"]),
        ('{"_id": "a", "text": 5}\n', ["line 1", '"text" must be a string', "5"]),
        ('["a"]\n', ["line 1", "expected a JSON object"]),
        ('{"_id": "a", "text": ""}\n', ["no document with any text"]),
        ("", ["no document with any text"]),
        ('{"_id": "a\\tb", "text": "x"}\n', ["line 1", "tab"]),
    ],
)
def test_bad_corpus_rows_are_named_by_file_and_line(tmp_path: Path, lines: str, parts: list[str]):
    path = tmp_path / "corpus.jsonl"
    path.write_text(lines)
    message = _error(read_corpus, path)
    assert str(path) in message
    assert all(part in message for part in parts)


def test_missing_and_binary_files(tmp_path: Path):
    assert "no such file" in _error(read_corpus, tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"_id": "a", "text": "\xe9"}')
    assert "not UTF-8" in _error(read_corpus, tmp_path / "latin.jsonl")


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("q1\td9\t1\n", ["line 2", "document 'd9'"]),
        ("q1\td1\tyes\n", ["line 2", "whole-number"]),
        ("q1 d1 1\n", ["line 2", "tabs"]),
        ("q1\td1\t0\n", ["no relevant document"]),
    ],
)
def test_bad_qrels(tmp_path: Path, rows: str, parts: list[str]):
    path = tmp_path / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\n" + rows)
    message = _error(read_qrels, path, {"q1": None}, ["d1"])
    assert all(part in message for part in parts)


def test_rows_that_repeat_others_or_are_of_unknown_queries_are_counted_in_a_warning(tmp_path: Path):
    path = tmp_path / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq9\td1\t1\nq1\td1\t2\nq8\td1\t1\n")
    with pytest.warns(UserWarning) as caught:
        assert read_qrels(path, {"q1": None}, ["d1"]) == {"q1": {"d1": 2}}
    messages = [str(warning.message) for warning in caught]
    assert "2 rows are of queries that are not in queries.jsonl, as 'q9'" in messages[0]
    assert "1 rows repeat a query and a document" in messages[1] and all(str(path) in m for m in messages)
    with pytest.warns(UserWarning, match="4 rows"), pytest.raises(InputError, match="no relevant document"):
        read_qrels(path, {})


def test_a_missing_split_names_those_that_there_are(tmp_path: Path):
    (tmp_path / "dev.tsv").write_text("q\td\t1\n")
    assert "the splits there are dev" in _error(read_qrels, tmp_path / "test.tsv")


def test_what_is_written_is_read_back(tmp_path: Path, corpus):
    write_corpus(tmp_path / "corpus.jsonl", corpus)
    assert read_corpus(tmp_path / "corpus.jsonl") == corpus
    qrels = {"q 1": {"bread": 2, "chess": 0}, "q2": {"glacier": 1}}
    write_qrels(tmp_path / "qrels" / "test.tsv", qrels)
    assert read_qrels(tmp_path / "qrels" / "test.tsv") == qrels


def test_beir_reads_what_we_write(tmp_path: Path, corpus):
    from beir.datasets.data_loader import GenericDataLoader

    from sharpen.evaluation.beir import Query, write_queries

    write_corpus(tmp_path / "corpus.jsonl", corpus)
    write_queries(tmp_path / "queries.jsonl", [Query("q1", "ice")])
    write_qrels(tmp_path / "qrels" / "test.tsv", {"q1": {"glacier": 1}})
    documents, queries, qrels = GenericDataLoader(str(tmp_path)).load(split="test")
    assert documents["glacier"] == {"title": corpus["glacier"].title, "text": corpus["glacier"].text}
    assert (queries, qrels) == ({"q1": "ice"}, {"q1": {"glacier": 1}})
    assert read_queries(tmp_path / "queries.jsonl")["q1"].text == "ice"


def test_a_byte_order_mark_is_no_error_and_half_a_character_is(tmp_path: Path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": "a", "text": "one \\ud83d\\ude00"}\r\n')
    assert read_corpus(path)["a"].text == "one \U0001f600"
    path.write_text('{"_id": "a", "text": "one"}\n{"_id": "b", "text": "\\ud83d two"}\n')
    assert "line 2: half of a surrogate pair" in _error(read_corpus, path)


def test_copies_are_told_by_their_text():
    assert (
        Document("a", "Some text", "one").copy_key
        == Document("b", "some  TEXT", "two").copy_key
        != Document("c", "", "some text!").copy_key
    )
    assert Document("a", "", "one").copy_key != Document("b", "", "two").copy_key


def test_text_key_folds_case_width_and_white_space():
    assert text_key("The  ﬁne\nPrint ") == text_key("the fine print")
    assert text_key("fine print") != text_key("fine prints")


def test_files_and_folders_are_written_whole_or_not_at_all(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "old"
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "b").write_text("new")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b", "file", "folder"]
