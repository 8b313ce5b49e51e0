"""Candidates and the draw: properties over random corpora with many copies."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Query, text_key
from sharpen.evaluation.runs import ranking
from sharpen.sdg.negatives import BM25Miner, DrawOptions, MiningResult, RandomMiner, Reason, calibrate, filter_counts
from sharpen.sdg.negatives.candidates import candidates
from sharpen.sdg.negatives.draw import draw
from sharpen.sdg.negatives.filters.scores import drop_above
from tests.sdg.negatives.support import kept, row
from tests.sdg.support import corpora

WORDS = ["ice", "snow", "river", "wood", "bread", "salt", "wheel", "rope"]


class ReversedMiner:
    def mine(self, queries, corpus, depth, resources, seed):
        return MiningResult({q.id: {i: float(n) for n, i in enumerate(sorted(corpus, reverse=True))} for q in queries})


MINERS = {"bm25": BM25Miner(language="none"), "random": RandomMiner(), "reversed": ReversedMiner()}


@st.composite
def mined(draw_from):
    """A corpus, queries, held-out documents, what some miners rank, and scores of all pairs."""
    corpus, queries = draw_from(corpora(WORDS))
    ids = sorted(corpus)
    positives = {i for q in queries for i in q.metadata["positives"]}
    held_out = draw_from(st.sets(st.sampled_from(ids), max_size=5)) - positives
    chosen = draw_from(st.lists(st.sampled_from(sorted(MINERS)), min_size=1, max_size=3, unique=True))
    first = draw_from(st.integers(1, 3))
    ranks, seed = (first, first + draw_from(st.integers(0, 8))), draw_from(st.integers(0, 3))
    runs = {name: MINERS[name].mine(queries, corpus, len(corpus), None, seed).run for name in chosen}
    rows = {name: candidates(queries, run, corpus, held_out, name, ranks, seed) for name, run in runs.items()}
    levels = st.sampled_from([0.1, 0.5, 0.9])
    scores = {(q.id, i): draw_from(levels) for q in queries for i in ids}
    return corpus, queries, held_out, runs, rows, ranks, scores, seed


def filtered(rows, queries, scores, names):
    """The rows behind the filters of these names; what each counts is what it did."""
    calibration = calibrate(queries, scores, scores.values())
    limits = {
        "near": calibration.near_positive,
        "absolute": lambda _q: calibration.absolute(),
        "margin": lambda q: calibration.positives[q] - calibration.margin(),
        "guide": calibration.positives.__getitem__,
    }
    for name in names:
        before, rows = (
            rows,
            {miner: drop_above(of_miner, scores, limits[name], name) for miner, of_miner in rows.items()},
        )
        for miner in rows:
            counts = filter_counts(before[miner], rows[miner])
            left = sum(n.verdict == "candidate" for of_query in rows[miner].values() for n in of_query)
            assert counts.candidates - counts.dropped == left
    return rows


@given(
    mined(),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["instance", "concatenation"]),
    st.sampled_from(["leave_out", "others", "random"]),
    st.data(),
)
def test_no_positive_no_copy_of_one_no_sibling_and_nothing_held_out_is_drawn(
    data, per_query, more, mix, too_few, choices
):
    corpus, queries, held_out, _runs, rows, _ranks, scores, seed = data
    filters = st.lists(st.sampled_from(["near", "absolute", "margin", "guide"]), max_size=2)
    rows = filtered(rows, queries, scores, choices.draw(filters))
    weights = {name: choices.draw(st.sampled_from([0.5, 1.0, 2.0])) for name in rows}
    options = DrawOptions(weights, per_query, mix, too_few, more, seed)
    drawn = draw(queries, rows, options, corpus, sorted(held_out))
    assert drawn == draw(queries, rows, options, corpus, sorted(held_out))
    held_out_texts = {corpus[i].copy_key for i in held_out}
    short = 0
    for query in queries:
        of_query = [n for n in drawn.rows if n.query_id == query.id]
        positive = corpus[query.metadata["positives"][0]]
        for n in kept(of_query):
            document = corpus[n.doc_id]
            assert n.doc_id not in held_out
            assert text_key(document.text or document.title) not in held_out_texts
            assert document.copy_key != positive.copy_key and document.doc_id != positive.doc_id
        by_row = Counter((n.miner if mix == "concatenation" else "", n.doc_id) for n in kept(of_query))
        assert not by_row or max(by_row.values()) == 1
        wanted = (per_query + more) * (len(rows) if mix == "concatenation" else 1)
        assert len(kept(of_query)) <= wanted
        # what was dropped is kept with its reason, once for each miner that ranks it
        assert Counter((n.miner, n.doc_id) for n in of_query if n.verdict == "dropped") == Counter(
            (n.miner, n.doc_id) for of_miner in rows.values() for n in of_miner[query.id] if n.verdict == "dropped"
        )
        if len(rows) == 1 and too_few == "leave_out":
            allowed = sum(n.verdict == "candidate" for of_miner in rows.values() for n in of_miner[query.id])
            assert len(kept(of_query)) == min(wanted, allowed)
            short += allowed < per_query
    if len(rows) == 1 and too_few == "leave_out":
        assert drawn.too_few == short
    # a query's draw does not depend on the others
    for query in queries:
        alone = draw([query], rows, options, corpus, sorted(held_out)).rows
        assert alone == [n for n in drawn.rows if n.query_id == query.id]


@given(mined())
def test_candidates_are_the_ranks_of_what_may_be_one(data):
    _corpus, queries, _held_out, runs, rows, (first, last), _, _seed = data
    for name, run in runs.items():
        for query in queries:
            of_query = rows[name][query.id]
            dropped = {n.doc_id for n in of_query if n.verdict == "dropped"}
            allowed = [i for i in ranking(run[query.id]) if i not in dropped]
            assert [n.doc_id for n in of_query if n.verdict == "candidate"] == allowed[first - 1 : last]
            for n in of_query:
                assert n.score == run[query.id][n.doc_id] and ranking(run[query.id])[n.rank - 1] == n.doc_id


@pytest.mark.parametrize(
    ("weights", "number"),
    [({"a": 1, "b": 1}, 1), ({"a": 3, "b": 1}, 2), ({"a": 1, "b": 1, "c": 1}, 4), ({"a": 0.7, "b": 0.3}, 5)],
)
def test_weights_hold_for_each_query_up_to_rounding_and_on_the_whole(weights, number):
    queries = [Query(f"q{n}", "x", {"positives": ["p"]}) for n in range(600)]
    rows = {m: {q.id: [row(q.id, f"{m}{n}", m, n + 1) for n in range(9)] for q in queries} for m in weights}
    taken = kept(draw(queries, rows, DrawOptions(weights, number, seed=5)).rows)
    for miner, weight in weights.items():
        exact = number * weight / sum(weights.values())
        by_query = Counter(n.query_id for n in taken if n.miner == miner)
        assert {by_query[q.id] for q in queries} <= {int(exact), int(exact) + 1}
        assert by_query.total() == pytest.approx(exact * len(queries), rel=0.12)
    assert len(taken) == number * len(queries)


def _glacier_rows(corpus):
    queries = [Query("q", "ice and snow on water", {"positives": ["glacier"]})]
    rows = {}
    for name, ranks in (("bm25", (1, 2)), ("random", (1, 9))):
        run = MINERS[name].mine(queries, corpus, 12, None, 0).run
        rows[name] = candidates(queries, run, corpus, {"bicycle"}, name, ranks, 0)
    return queries, rows


def test_too_few_are_counted_and_left_out_or_filled(corpus):
    queries, rows = _glacier_rows(corpus)
    dropped = {n.reason for n in rows["bm25"]["q"] if n.verdict == "dropped"}
    assert Reason.POSITIVE in dropped and dropped <= {Reason.POSITIVE, Reason.HELD_OUT}
    number = sum(n.verdict == "candidate" for n in rows["bm25"]["q"])
    one = {"bm25": rows["bm25"]}
    left = draw(queries, one, DrawOptions({"bm25": 1}, 5, seed=0))
    assert left.too_few == 1 and len(kept(left.rows)) == number
    filled = draw(queries, one, DrawOptions({"bm25": 1}, 5, too_few="random", seed=0), corpus, ["bicycle"])
    assert filled.too_few == 1 and len(kept(filled.rows)) == 5
    by_chance = [n for n in kept(filled.rows) if n.reason == Reason.DRAWN_AT_RANDOM]
    assert len(by_chance) == 5 - number and {n.detail for n in by_chance} == {"drawn at random, as bm25 had too few"}
    # and more negatives for a reranker do not take the places of those that are missing
    assert len(kept(draw(queries, one, DrawOptions({"bm25": 1}, number + 1, more=3, seed=0)).rows)) == number
    others = draw(queries, rows, DrawOptions({"bm25": 1, "random": 1}, 8, too_few="others", seed=0))
    from_random = [n for n in kept(others.rows) if n.reason == Reason.FROM_OTHER_MINER]
    assert [n.message for n in from_random] == ["from random, as bm25 had too few"] * (4 - number)
    assert {n.miner for n in from_random} == {"bm25"}
    with pytest.raises(ValueError, match="no corpus"):
        draw(queries, one, DrawOptions({"bm25": 1}, 5, too_few="random", seed=0))


def test_what_a_filter_took_for_relevant_does_not_come_back_at_random(corpus):
    queries, _ = _glacier_rows(corpus)
    ruled_out = {"bread": "dropped", "chess": "relabelled", "piano": "dropped"}
    rows = [
        row("q", i, "bm25", n, verdict, Reason.JUDGED_RELEVANT) for n, (i, verdict) in enumerate(ruled_out.items(), 1)
    ]
    options = DrawOptions({"bm25": 1}, 20, too_few="random", seed=0)
    drawn = draw(queries, {"bm25": {"q": rows}}, options, corpus, ["bicycle"])
    assert {n.doc_id for n in kept(drawn.rows)} == set(corpus) - {*ruled_out, "bicycle", "glacier"}
