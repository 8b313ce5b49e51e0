"""Sheets of negatives for people, and what their labels say."""

from __future__ import annotations

import csv

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.negatives.audit import audit, draw_negatives, item_key, nominal_alpha, read_sheets, write_sheet
from sharpen.sdg.negatives.record import Negative

ROWS = [
    Negative(f"q{q}", f"d{n}", miner, n, 1.0, "kept", 13)
    for miner in ("bm25", "llm")
    for q in range(6)
    for n in range(3)
] + [Negative("q0", "d9", "bm25", 9, 1.0, "dropped", 13)]
QUERIES = {f"q{n}": Query(f"q{n}", f"query {n}") for n in range(6)}
CORPUS = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(10)} | {"p": Document("p", '=HYPERLINK("x")')}
POSITIVES = dict.fromkeys(QUERIES, "p")


def _sheet(tmp_path, name="sheet.csv", per_miner=6):
    path = tmp_path / name
    write_sheet(path, draw_negatives(ROWS, per_miner), QUERIES, POSITIVES, CORPUS)
    return path


def _label(path, choose):
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = choose(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_a_sheet_has_as_many_of_each_miner_of_all_queries_and_does_not_tell_it(tmp_path):
    drawn = draw_negatives(ROWS, 6)
    assert [sum(row.miner == miner for row in drawn) for miner in ("bm25", "llm")] == [6, 6]
    assert all({row.query_id for row in drawn if row.miner == m} == set(QUERIES) for m in ("bm25", "llm"))
    assert draw_negatives(ROWS, 6) == drawn != draw_negatives(ROWS, 6, seed=14)
    assert len(draw_negatives(ROWS, 100)) == 36  # and none that was dropped
    text = _sheet(tmp_path).read_text()
    assert "bm25" not in text and "llm" not in text and ",=HYPERLINK" not in text and "'=HYPERLINK" in text
    with pytest.raises(InputError, match="is there already"):
        _sheet(tmp_path)


def test_labels_give_fractions_by_miner_and_agreement(tmp_path):
    miner_of = {item_key(row): row.miner for row in ROWS}
    anna, ben = _sheet(tmp_path, "anna.csv"), _sheet(tmp_path, "ben.csv")
    _label(anna, lambda row: "Hard" if miner_of[row["item"]] == "bm25" else "too  easy")
    rows = _label(ben, lambda row: "hard" if miner_of[row["item"]] == "bm25" else "")
    first_llm = next(row["item"] for row in rows if miner_of[row["item"]] == "llm")
    _label(ben, lambda row: "false positive" if row["item"] == first_llm else row["label"])
    found = audit(read_sheets([anna, ben], ROWS).values(), ROWS)
    assert found.items == {"bm25": 6, "llm": 6}
    assert found.fractions["bm25"]["hard"].value == 1
    assert found.fractions["bm25"]["hard"].interval == pytest.approx((0.5407, 1), abs=1e-4)  # six of six queries
    assert found.fractions["llm"]["too easy"].value == pytest.approx(5.5 / 6)  # two people share one item
    low, high = found.fractions["llm"]["too easy"].interval
    assert 0.5 < low < 5.5 / 6 < high <= 1
    assert 0 < found.alpha < 1
    assert audit(read_sheets([anna], ROWS).values(), ROWS).alpha is None


def test_alpha_is_that_of_krippendorff():
    """The example of section C of "Computing Krippendorff's Alpha-Reliability" (2011): four observers, 0.743."""
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    votes = []
    for unit in zip(*data, strict=True):
        given = [str(v) for v in unit if v is not None]
        votes.append({v: given.count(v) for v in given})
    assert nominal_alpha(votes) == pytest.approx(0.743, abs=5e-4)
    assert nominal_alpha([{"a": 2}, {"a": 1}]) is None and nominal_alpha([]) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(",label", ",verdict"), "no columns item and label"),
        (lambda text: text.replace("\n", "\nabc,q,p,n,hard\n", 1), "line 2: 'abc' is no negative of this run"),
        (lambda text: text, "no label in it"),
        (lambda text: text + text.splitlines()[1] + "\n", "for the second time"),
    ],
)
def test_what_is_wrong_with_a_sheet_is_said_with_its_line(tmp_path, change, said):
    path = _sheet(tmp_path)
    path.write_text(change(path.read_text(encoding="utf-8-sig")))
    with pytest.raises(InputError, match=said):
        read_sheets([path], ROWS)


def test_a_label_that_is_none_is_refused(tmp_path):
    path = _sheet(tmp_path)
    _label(path, lambda _row: "harrd")
    with pytest.raises(InputError, match="label 'harrd'; there are too easy, hard"):
        read_sheets([path], ROWS)
