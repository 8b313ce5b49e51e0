import hashlib
from types import SimpleNamespace

import pytest

from sharpen.evaluation.beir import Query
from sharpen.evaluation.files import InputError
from sharpen.training.triplets import Triplet, make_triplets

QUERIES = {q: Query(q, q, {"positives": ids}) for q, ids in {"q1": ["a", "b"], "q2": ["c"], "q3": ["d"]}.items()}


def _rows(*rows: str) -> list[SimpleNamespace]:
    """Of "query document miner verdict"."""
    return [
        SimpleNamespace(**dict(zip(("query_id", "doc_id", "miner", "verdict"), r.split(), strict=True))) for r in rows
    ]


NEGATIVES = _rows(
    "q1 w bm25 dropped",
    "q1 x bm25 kept",
    "q1 y dense kept",
    "q2 x dense kept",
    "q2 z bm25 relabelled",
    "q3 x bm25 candidate",
)


def test_a_row_for_each_positive_and_too_few_negatives_are_left_out_and_counted():
    triplets, left_out = make_triplets(QUERIES, NEGATIVES, 2)
    assert triplets == [Triplet("q1", "a", ("x", "y")), Triplet("q1", "b", ("x", "y"))] and left_out == 2
    triplets, left_out = make_triplets(QUERIES.values(), NEGATIVES, 1)
    assert [t.query_id for t in triplets] == ["q1", "q1", "q2", "q2"] and left_out == 1


def test_without_negatives_every_query_has_its_rows():
    triplets, left_out = make_triplets(QUERIES, [], 0)
    assert [(t.query_id, t.positive_id, t.negative_ids) for t in triplets] == [
        ("q1", "a", ()),
        ("q1", "b", ()),
        ("q2", "c", ()),
        ("q3", "d", ()),
    ]
    assert left_out == 0
    assert make_triplets(QUERIES, NEGATIVES, 0, "concatenation")[0][:2] == triplets[:2]


def test_relabelled_rows_are_positives():
    triplets, _ = make_triplets(QUERIES, NEGATIVES, 1)
    assert triplets[2:] == [Triplet("q2", "c", ("x",)), Triplet("q2", "z", ("x",))]
    assert QUERIES["q2"].metadata == {"positives": ["c"]}


def test_a_concatenation_has_a_row_for_each_miner():
    triplets, left_out = make_triplets(QUERIES, NEGATIVES, 1, "concatenation")
    assert [(t.query_id, t.positive_id, *t.negative_ids) for t in triplets] == [
        ("q1", "a", "x"),
        ("q1", "b", "x"),
        ("q1", "a", "y"),
        ("q1", "b", "y"),
        ("q2", "c", "x"),
        ("q2", "z", "x"),
    ]
    assert left_out == 1
    turned, _ = make_triplets(QUERIES, NEGATIVES, 1, "concatenation", miners=["dense", "bm25"])
    assert turned == triplets[2:] + triplets[:2]


@pytest.mark.parametrize("mix", ["instance", "concatenation"])
def test_rows_are_drawn_by_seed_and_query_whatever_else_there_is(mix):
    queries = {f"q{n}": Query(f"q{n}", "", {"positives": [f"d{n}"]}) for n in range(40)}
    rows = _rows(*(f"q{n} x {miner} kept" for n in range(40) for miner in ("bm25", "dense")))
    drawn, left_out = make_triplets(queries, rows, 1, mix, max_rows=10, seed=5)
    assert len(drawn) == 10 and left_out == 0
    assert [t.query_id for t in drawn] != [t.query_id for t in make_triplets(queries, rows, 1, mix, 10, seed=6)[0]]
    # the draw that earlier versions made, so that a run can be repeated
    sources = [""] if mix == "instance" else ["bm25", "dense"]
    keys = {
        (source, q): hashlib.sha256(f"5/{q}/d{q[1:]}/{source}".encode()).digest() for source in sources for q in queries
    }
    lowest = sorted(keys, key=keys.get)[:10]
    assert [t.query_id for t in drawn] == [q for source in sources for q in queries if (source, q) in lowest]


def test_rows_of_other_queries_are_an_error():
    with pytest.raises(InputError, match="'q9', which is not among the queries"):
        make_triplets(QUERIES, _rows("q9 x bm25 kept"), 1)
