"""Drift of live queries, with a real encoder and real queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpen.evaluation.beir import read_queries
from sharpen.evaluation.drift import LEAST, Drift, drift
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError
from sharpen.recipes.monitor import read_live
from tests.conftest import shared_dataset


@pytest.fixture(scope="module")
def vectors():
    model = load_encoder("packaged:tiny-bert", device="cpu")
    return lambda texts: encode(model, texts)


@pytest.fixture(scope="module")
def claims() -> list[str]:
    return [query.text for query in read_queries(shared_dataset("scifact") / "queries.jsonl").values()]


def test_more_of_the_same_is_no_drift(vectors, claims):
    for seed in (1, 2):
        found = drift(claims[:300], claims[300:450], claims[450:600], vectors, seed=seed)
        assert found.verdict == "no drift found", found
    assert {f.name for f in found.figures} == {"unknown words", "length", "language", "similarity", "told apart"}
    for figure in found.figures:
        assert figure.interval[0] <= figure.difference <= figure.interval[1] and 0 <= figure.p <= 1
    assert "No drift found" in found.sentence()


def test_questions_of_another_field_and_language_are_drift(vectors, claims):
    other = [q.text for q in read_queries(shared_dataset("cranfield") / "queries.jsonl").values()][:100]
    found = drift(claims[:300], claims[300:450], other, vectors)
    by_name = {figure.name: figure for figure in found.figures}
    assert found.verdict == "drifted" and by_name["told apart"].drifts and by_name["told apart"].live > 0.9
    assert by_name["similarity"].difference < 0 and by_name["unknown words"].drifts
    german = [f"Wie viele Proteine bindet der Rezeptor Nummer {n} im menschlichen Gewebe?" for n in range(40)]
    found = drift(claims[:300], claims[300:450], claims[450:500] + german, vectors)
    assert found.languages["de"] > 0.3 and "New languages: German" in found.sentence()


def test_the_same_seed_says_the_same(vectors, claims):
    first, second = (drift(claims[:100], [], claims[100:160], vectors, seed=5) for _ in range(2))
    assert first == second and first.held_out == LEAST and first.trained == len(set(claims[:100])) - LEAST


def test_few_queries_are_said_to_be_few(vectors):
    found = drift(["a b"] * 50, ["a c"] * 30, ["a d"] * 5, vectors)
    assert found.verdict == "too few queries" and not found.figures and "20 of each are needed" in found.sentence()
    with pytest.raises(InputError, match="no live query"):
        drift(["a"] * 30, ["b"] * 30, [], vectors)


def test_queries_that_are_asked_again_are_no_drift(vectors, claims):
    same = drift(claims[:300], claims[300:450], [*claims[450:600] * 4, " "], vectors)
    different = len(set(claims[450:600]))
    assert same.verdict == "no drift found" and (same.live, same.repeats) == (different, 600 - different)
    assert same.figures == drift(claims[:300], claims[300:450], claims[450:600], vectors).figures
    few = drift(claims[:300], claims[300:450], claims[450:455] * 100, vectors)
    assert few.verdict == "too few queries" and few.live == 5


def test_a_log_is_read_in_several_forms(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"query": "two", "time": 3}\n')
    (tmp_path / "b.csv").write_text("question,document\none,d1\ntwo,d2\n")
    (tmp_path / "c.txt").write_text("one\n\ntwo\n")
    assert [read_live(tmp_path / name) for name in ("a.jsonl", "b.csv", "c.txt")] == [["one", "two"]] * 3
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n{"user": "two"}\n')
    with pytest.raises(InputError, match=r"d\.jsonl, line 2: no query"):
        read_live(tmp_path / "d.jsonl")
    with pytest.raises(InputError, match="no such file"):
        read_live(tmp_path / "none.jsonl")


def test_a_log_in_another_form_is_read_or_refused_and_blank_queries_are_left_out(tmp_path: Path):
    (tmp_path / "a.ndjson").write_text(
        '{"text": "one"}\n{"text": ""}\n{"text": null, "query": " "}\n{"query": "two"}\n'
    )
    (tmp_path / "b.csv").write_text("question,time\none,1\n,2\ntwo,3\n")
    assert [read_live(tmp_path / name) for name in ("a.ndjson", "b.csv")] == [["one", "two"]] * 2
    (tmp_path / "c.json").write_text('[{"text": "one"},\n {"text": "two"}]\n')
    with pytest.raises(InputError, match=r"c\.json: \.json is not read line by line"):
        read_live(tmp_path / "c.json")
    for name in ("d.csv", "d.txt"):
        (tmp_path / name).write_text("question\nwie heißt der Käse\n", encoding="latin-1")
        with pytest.raises(InputError, match=rf"{name}: not UTF-8 text"):
            read_live(tmp_path / name)


def test_it_survives_json():
    empty = Drift(verdict="too few queries", trained=1, held_out=1, live=1, seed=1)
    assert Drift.model_validate(json.loads(empty.model_dump_json())) == empty
