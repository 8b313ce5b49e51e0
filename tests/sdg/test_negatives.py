"""Miners, filters and drawing: properties over random corpora with many copies, and what an LLM's answers become."""

from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharpen.evaluation.beir import Document, Query, read_corpus, read_queries, text_key
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.retrievers.bm25 import BM25, RankBM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import ranking
from sharpen.sdg.llm.client import Answer
from sharpen.sdg.negatives import (
    Negative,
    bm25,
    candidates,
    cross_encoder,
    dense,
    draw,
    llm,
    read_negatives,
    write_negatives,
)
from sharpen.sdg.negatives import random as at_random
from sharpen.sdg.negatives.candidates import Found
from sharpen.sdg.negatives.filters import agreed, calibrate, counted, doubt, drop_above, judged
from sharpen.sdg.negatives.llm import Example, Writing, passages_of

from tests.conftest import shared_dataset
from tests.sdg.recorded import Recorded
from tests.sdg.test_pairs import corpora

MINERS = {
    "bm25": partial(bm25.mine, language=None),
    "random": at_random.mine,
    "turned": lambda q, c, d, s=0: Found(
        {query.id: {i: float(n) for n, i in enumerate(sorted(c, reverse=True))} for query in q}
    ),
}


@st.composite
def mined(draw_from):
    """A corpus, queries, held-out documents, what some miners found, and scores of all pairs."""
    corpus, queries = draw_from(corpora())
    ids = sorted(corpus)
    positives = {i for q in queries for i in q.metadata["positives"]}
    held_out = draw_from(st.sets(st.sampled_from(ids), max_size=5)) - positives
    chosen = draw_from(st.lists(st.sampled_from(sorted(MINERS)), min_size=1, max_size=3, unique=True))
    first = draw_from(st.integers(1, 3))
    ranks, seed = (first, first + draw_from(st.integers(0, 8))), draw_from(st.integers(0, 3))
    runs = {name: MINERS[name](queries, corpus, len(corpus), seed).run for name in chosen}
    rows = {name: candidates(queries, run, corpus, held_out, name, ranks, seed) for name, run in runs.items()}
    levels = st.sampled_from([0.1, 0.5, 0.9])
    scores = {(q.id, i): draw_from(levels) for q in queries for i in ids}
    return corpus, queries, held_out, runs, rows, ranks, scores, seed


@given(
    mined(),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["instance", "concatenation"]),
    st.sampled_from(["leave_out", "others", "random"]),
    st.booleans(),
    st.data(),
)
def test_no_positive_no_copy_of_one_no_sibling_and_nothing_held_out_is_emitted(
    data, per_query, more, mix, too_few, filtered, choices
):
    corpus, queries, held_out, _runs, rows, _ranks, scores, seed = data
    if filtered:
        known = calibrate(queries, scores, scores.values())
        limits = {
            "near": known.near_positive,
            "absolute": lambda _q: known.absolute(),
            "margin": lambda q: known.positives[q] - known.margin(),
            "guide": known.positives.__getitem__,
        }
        for name in choices.draw(st.lists(st.sampled_from(sorted(limits)), max_size=2)):
            before, rows = rows, {miner: drop_above(own, scores, limits[name], name) for miner, own in rows.items()}
            for miner in rows:
                counts = counted(before[miner], rows[miner])
                assert counts["candidates"] - counts["dropped"] == sum(
                    n.verdict == "candidate" for own in rows[miner].values() for n in own
                )
    shares = {name: choices.draw(st.sampled_from([0.5, 1.0, 2.0])) for name in rows}
    options = {"mix": mix, "too_few": too_few, "more": more, "corpus": corpus, "held_out": sorted(held_out)}
    drawn = draw(queries, rows, shares, per_query, seed, **options)
    assert drawn == draw(queries, rows, shares, per_query, seed, **options)
    short = 0
    for query in queries:
        own = [n for n in drawn.rows if n.query_id == query.id]
        kept = [n for n in own if n.verdict == "kept"]
        positive = corpus[query.metadata["positives"][0]]
        for n in kept:
            document = corpus[n.doc_id]
            assert n.doc_id not in held_out and text_key(document.text or document.title) not in {
                corpus[i].copy_key for i in held_out
            }
            assert document.copy_key != positive.copy_key and document.doc_id != positive.doc_id
        per_row = {n.miner: [] for n in kept} if mix == "concatenation" else {"": []}
        for n in kept:
            per_row[n.miner if mix == "concatenation" else ""].append(n.doc_id)
        assert all(len(set(ids)) == len(ids) for ids in per_row.values())
        wanted = (per_query + more) * (len(rows) if mix == "concatenation" else 1)
        assert len(kept) <= wanted
        # what was dropped is kept with its reason, once for each miner that found it
        assert Counter((n.miner, n.doc_id) for n in own if n.verdict == "dropped") == Counter(
            (n.miner, n.doc_id) for found in rows.values() for n in found[query.id] if n.verdict == "dropped"
        )
        if len(rows) == 1 and too_few == "leave_out":
            allowed = sum(n.verdict == "candidate" for found in rows.values() for n in found[query.id])
            assert len(kept) == min(wanted, allowed)
            short += allowed < per_query
    if len(rows) == 1 and too_few == "leave_out":
        assert drawn.too_few == short
    # a query's draw does not depend on the others
    if queries:
        alone = draw(queries[:1], rows, shares, per_query, seed, **options).rows
        assert alone == [n for n in drawn.rows if n.query_id == queries[0].id]


@given(mined())
def test_candidates_are_the_ranks_of_what_may_be_one(data):
    _corpus, queries, _held_out, runs, rows, (first, last), _, _seed = data
    for name, run in runs.items():
        for query in queries:
            own = rows[name][query.id]
            dropped = {n.doc_id for n in own if n.verdict == "dropped"}
            allowed = [i for i in ranking(run[query.id]) if i not in dropped]
            assert [n.doc_id for n in own if n.verdict == "candidate"] == allowed[first - 1 : last]
            assert all(
                n.score == run[query.id][n.doc_id] and ranking(run[query.id])[n.rank - 1] == n.doc_id for n in own
            )


@pytest.mark.parametrize(
    ("shares", "number"),
    [({"a": 1, "b": 1}, 1), ({"a": 3, "b": 1}, 2), ({"a": 1, "b": 1, "c": 1}, 4), ({"a": 0.7, "b": 0.3}, 5)],
)
def test_shares_hold_for_each_query_up_to_rounding_and_on_the_whole(shares, number):
    queries = [Query(f"q{n}", "x", {"positives": ["p"]}) for n in range(600)]
    rows = {
        m: {q.id: [Negative(q.id, f"{m}{n}", m, n + 1, 1.0, "candidate", "", 0) for n in range(9)] for q in queries}
        for m in shares
    }
    kept = [n for n in draw(queries, rows, shares, number, 5).rows if n.verdict == "kept"]
    total = sum(shares.values())
    for miner, share in shares.items():
        exact = number * share / total
        by_query = Counter(n.query_id for n in kept if n.miner == miner)
        assert {by_query[q.id] for q in queries} <= {int(exact), int(exact) + 1}
        assert by_query.total() == pytest.approx(exact * len(queries), rel=0.12)
    assert len(kept) == number * len(queries)


def test_too_few_are_said_and_filled_as_the_recipe_says(corpus):
    queries = [Query("q", "ice and snow on water", {"positives": ["glacier"]})]
    rows = {
        "bm25": candidates(queries, bm25.mine(queries, corpus, 12).run, corpus, {"bicycle"}, "bm25", (1, 2), 0),
        "random": candidates(
            queries, at_random.mine(queries, corpus, 12).run, corpus, {"bicycle"}, "random", (1, 9), 0
        ),
    }
    assert {n.reason for n in rows["bm25"]["q"] if n.verdict == "dropped"} <= {"positive", "held-out document"}
    found = sum(n.verdict == "candidate" for n in rows["bm25"]["q"])
    one = {"bm25": rows["bm25"]}
    left = draw(queries, one, {"bm25": 1}, 5, 0)
    assert left.too_few == 1 and sum(n.verdict == "kept" for n in left.rows) == found
    filled = draw(queries, one, {"bm25": 1}, 5, 0, too_few="random", corpus=corpus, held_out=["bicycle"])
    kept = [n for n in filled.rows if n.verdict == "kept"]
    assert filled.too_few == 1 and len(kept) == 5 and sum("drawn at random" in n.reason for n in kept) == 5 - found
    # what a filter took for relevant, or made a positive, does not come back by chance
    ruled_out = [
        Negative("q", i, "bm25", n, 1.0, verdict, "judge: relevant", 0)
        for n, (i, verdict) in enumerate([("bread", "dropped"), ("chess", "relabelled"), ("piano", "dropped")], start=1)
    ]
    by_chance = draw(
        queries, {"bm25": {"q": ruled_out}}, {"bm25": 1}, 20, 0, too_few="random", corpus=corpus, held_out=["bicycle"]
    )
    assert {n.doc_id for n in by_chance.rows if n.verdict == "kept"} == set(corpus) - {
        "bread",
        "chess",
        "piano",
        "bicycle",
        "glacier",
    }
    # and more negatives for a reranker do not take the places of those that are missing
    assert sum(n.verdict == "kept" for n in draw(queries, one, {"bm25": 1}, found + 1, 0, more=3).rows) == found
    others = draw(queries, rows, {"bm25": 1, "random": 1}, 8, 0, too_few="others")
    assert sum(n.reason == "from random, as bm25 had too few" for n in others.rows if n.verdict == "kept") == 4 - found
    with pytest.raises(ValueError, match="no corpus"):
        draw(queries, one, {"bm25": 1}, 5, 0, too_few="random")


def test_negatives_are_read_back(tmp_path, corpus):
    queries = [Query("q", "ice and snow on water", {"positives": ["glacier"]})]
    rows = draw(
        queries,
        {"bm25": candidates(queries, bm25.mine(queries, corpus, 12).run, corpus, {"bicycle"}, "bm25", (1, 5), 0)},
        {"bm25": 1},
        2,
        0,
    ).rows
    write_negatives(tmp_path / "n.jsonl", rows)
    assert read_negatives(tmp_path / "n.jsonl") == rows


def test_bm25s_gives_the_scores_of_rank_bm25():
    """Whose loops are easy to check; on real documents, with words that stand in a query twice."""
    folder = shared_dataset("scifact")
    corpus = dict(list(read_corpus(folder / "corpus.jsonl").items())[:1500])
    texts = {i: f"{q.text} {q.text.split()[0]}" for i, q in list(read_queries(folder / "queries.jsonl").items())[:60]}
    ours, oracle = BM25(corpus).search(texts, 30), RankBM25(corpus).search(texts, 30)
    for query in texts:
        assert sorted(ours[query].values()) == pytest.approx(sorted(oracle[query].values()), abs=1e-4)
        assert all(
            oracle[query][i] == pytest.approx(score, abs=1e-4) for i, score in ours[query].items() if i in oracle[query]
        )


def test_bm25_backends_agree_on_odd_corpora():
    for corpus in (
        {"a": Document("a", "the of and"), "b": Document("b", "")},
        {"a": Document("a", "one word"), "b": Document("b", "one word")},
    ):
        for text in ("one", "the", "", "unknown words", "one one word"):
            ours, oracle = BM25(corpus).search({"q": text}, 5), RankBM25(corpus).search({"q": text}, 5)
            assert ours["q"] == pytest.approx(oracle["q"], abs=1e-6)


def test_dense_mining_in_blocks_is_the_search_of_the_whole(corpus):
    model = load_encoder("packaged:tiny-bert")
    queries = [
        Query(f"q{n}", text, {"positives": ["bread"]})
        for n, text in enumerate(["ice on water", "strings and keys", "hot drinks"])
    ]
    whole = Dense(corpus, model).search({q.id: q.text for q in queries}, 5)
    for block in (1, 4, 100):
        found = dense.mine(queries, corpus, 5, model=model, block=block).run
        assert {q: ranking(scores) for q, scores in found.items()} == {
            q: ranking(scores) for q, scores in whole.items()
        }
        assert all(
            found[q] == pytest.approx(whole[q], abs=2e-3) for q in found
        )  # batches of other widths round otherwise


def test_a_cross_encoder_puts_what_another_miner_finds_in_its_own_order(corpus):
    queries = [Query("q", "water", {"positives": ["bread"]})]
    model = load_cross_encoder("packaged:tiny-bert", new_head=True)

    def score(pairs):
        return dict(zip(pairs, score_pairs(model, [("water", corpus[i].content) for _, i in pairs]), strict=True))

    found = cross_encoder.mine(queries, corpus, 4, score=score, of=bm25.mine).run["q"]
    first = ranking(bm25.mine(queries, corpus, 12).run["q"])[:4]
    assert set(found) == set(first) and len(first) == 4
    assert list(found.values()) == pytest.approx(
        score_pairs(model, [("water", corpus[i].content) for i in found]), abs=1e-6
    )
    assert len(set(found.values())) == 4  # an order of its own


def test_calibrated_limits_do_not_depend_on_a_models_scale():
    """The same scores on another scale, as other models have them, drop the same candidates."""
    queries = [Query(f"q{n}", "x", {"positives": [f"p{n}"]}) for n in range(40)]
    places = {
        (q.id, f"d{k}"): (k + n / 40) / 10 for n, q in enumerate(queries) for k in range(10)
    }  # 0: random, 1: the positive
    rows = {q.id: [Negative(q.id, f"d{k}", "m", k + 1, 0.0, "candidate", "", 0) for k in range(10)] for q in queries}
    dropped = []
    for low, high in ((0.05, 0.6), (0.75, 0.9), (-8.0, 6.0)):
        scores = {pair: low + place * (high - low) for pair, place in places.items()} | {
            (q.id, f"p{n}"): high + n / 4000 * (high - low) for n, q in enumerate(queries)
        }
        known = calibrate(queries, scores, [low] * 10)
        for limit in (
            known.near_positive,
            lambda q, known=known: known.positives[q] - known.margin(),
            lambda _q, known=known: known.absolute(),
        ):
            dropped.append(
                {
                    (n.query_id, n.doc_id)
                    for own in drop_above(rows, scores, limit, "x").values()
                    for n in own
                    if n.verdict == "dropped"
                }
            )
    assert (
        dropped[0] == dropped[3] == dropped[6]
        and dropped[1] == dropped[4] == dropped[7]
        and dropped[2] == dropped[5] == dropped[8]
    )
    assert 0 < len(dropped[0]) < 100


def test_a_filter_that_takes_most_or_nearly_nothing_is_doubted():
    assert "60%" in doubt({"candidates": 10, "dropped": 6})
    assert "nearly nothing" in doubt({"candidates": 1000, "dropped": 4})
    assert "55%" in doubt({"candidates": 100, "dropped": 5, "relabelled": 50})
    assert doubt({"candidates": 100, "dropped": 20}) is None and doubt({"candidates": 0, "dropped": 0}) is None


def test_an_llm_judges_candidates_and_an_answer_that_fits_nothing_drops_them(corpus):
    queries = {
        q.id: q for q in (Query("q1", "ice", {"positives": ["glacier"]}), Query("q2", "tea", {"positives": ["coffee"]}))
    }
    rows = {
        q: [Negative(q, i, "m", n + 1, 1.0, "candidate", "", 0) for n, i in enumerate(("bread", "chess", "piano"))]
        for q in queries
    }
    answers = [
        Answer('{"relevant": [true, false]}'),
        Answer("[false]"),
        Answer('{"relevant": [true]}'),
        Answer("", error="timeout: 120 s"),
    ]
    recorded = Recorded(answers, answers)
    found = judged(rows, queries, corpus, recorded, per_prompt=2, chat=True)
    verdicts = {(n.query_id, n.doc_id): (n.verdict, n.reason) for own in found.values() for n in own}
    assert verdicts == {
        ("q1", "bread"): ("dropped", "judge: relevant"),
        ("q1", "chess"): ("candidate", ""),
        ("q1", "piano"): ("candidate", ""),
        ("q2", "bread"): ("dropped", "judge: its answer does not match its documents"),
        ("q2", "chess"): ("dropped", "judge: its answer does not match its documents"),
        ("q2", "piano"): ("dropped", "judge: LLM error: timeout"),
    }
    assert (
        recorded.requests[0].parameters["response_format"]["json_schema"]["schema"]["properties"]["relevant"][
            "maxItems"
        ]
        == 2
    )
    assert (
        "Document 2: Opening a game of chess" in recorded.requests[0].prompt
        and "typed this into a search engine: ice" in recorded.requests[0].prompt
    )
    relabelled = judged(rows, queries, corpus, recorded, action="relabel", per_prompt=2)
    assert relabelled["q1"][0].verdict == "relabelled" and counted(rows, relabelled) == {
        "candidates": 6,
        "dropped": 3,
        "relabelled": 1,
    }


def test_one_verdict_for_a_query_and_a_text_whoever_found_it(corpus):
    corpus = corpus | {"copy": Document("copy", corpus["chess"].text, "Another title")}
    row = lambda miner, i, verdict, reason="": Negative("q", i, miner, 1, 1.0, verdict, reason, 0)  # noqa: E731
    found = {
        "a": {
            "q": [
                row("a", "chess", "relabelled", "judge: relevant"),
                row("a", "bread", "dropped", "judge: relevant"),
                row("a", "piano", "candidate"),
            ]
        },
        "b": {
            "q": [
                row("b", "chess", "candidate"),
                row("b", "copy", "candidate"),
                row("b", "bread", "candidate"),
                row("b", "guitar", "candidate"),
            ]
        },
        "c": {"q": [row("c", "chess", "relabelled", "judge: relevant")]},
    }
    settled = agreed(found, corpus)
    assert [(n.doc_id, n.verdict) for n in settled["a"]["q"]] == [
        ("chess", "relabelled"),
        ("bread", "dropped"),
        ("piano", "candidate"),
    ]
    assert [(n.doc_id, n.verdict, n.reason) for n in settled["b"]["q"]] == [
        ("chess", "dropped", "same text as a positive"),
        ("copy", "dropped", "same text as a positive"),
        ("bread", "dropped", "judge: relevant"),
        ("guitar", "candidate", ""),
    ]
    assert [n.verdict for n in settled["c"]["q"]] == ["dropped"]


@pytest.mark.parametrize(
    ("text", "cut_off", "passages"),
    [
        ('{"negatives": ["one two", " three\\nfour "]}', False, ["one two", "three four"]),
        ('```json\n["one", "two", 3]\n```', False, ["one", "two"]),
        ('{"negatives": ["one", "two", "thr', True, ["one", "two"]),
        ("one two three\n- four\n* five\n\nQuery: next\n- not this", False, ["one two three", "four", "five"]),
        ("one\n- two\n- three\n- four\n- five\n- six", False, ["one", "two", "three", "four", "five"]),
        ("one that never", True, ["one that never"]),
        ("", False, []),
        ('{"other": 1}', False, []),
    ],
)
def test_passages_are_read_from_what_models_write(text, cut_off, passages):
    assert passages_of(text, 5, cut_off) == passages


def test_written_negatives_are_new_texts_with_ids_and_the_rest_has_a_reason(corpus):
    queries = [
        Query("q1", "how long does dough rest", {"positives": ["bread"]}),
        Query("q2", "ice", {"positives": ["glacier"]}),
    ]
    good = "Dough for noodles needs no yeast and is rolled out at once with a pin."
    answer = Answer(
        f"{good}\n- too short\n- {good.upper()}\n- {corpus['bread'].text}\n- {corpus['chess'].text}", "stop"
    )
    recorded = Recorded([answer, Answer("", error="RateLimitError: later")])
    pool = [
        Example(f"query {n}", f"passage {n} that answers", (f"negative {n} a", f"negative {n} b")) for n in range(4)
    ]
    found, rejected = llm.mine(
        queries, corpus, 5, 7, llm=recorded, writing=Writing(pool, chat=False, examples=2), warm_up=True
    )
    assert {i: d.text for i, d in found.written.items()} == {"written:llm:q1:1": good} and found.run == {
        "q1": {"written:llm:q1:1": 1.0},
        "q2": {},
    }
    assert Counter(r["reason"] for r in rejected if r["query"] == "q1") == {
        "too short": 1,
        "said before": 1,
        "copy of a positive": 1,
        "document of the corpus": 1,
    }
    assert Counter(r["reason"] for r in rejected if r["query"] == "q2") == {"LLM error: RateLimitError": 5}
    first = recorded.requests[0]
    assert (
        first.prompt.startswith(first.warm_up.prompt.removesuffix("Query:"))
        and first.prompt.rstrip().endswith("-")
        and corpus["bread"].text[:40] in first.prompt
    )
    assert (
        first.parameters["seed"] != recorded.requests[1].parameters["seed"] and first.parameters["temperature"] == 0.6
    )
    other, _ = llm.mine(
        queries[:1], corpus, 5, 7, llm=Recorded([answer]), writing=Writing(pool, chat=False), name="larger"
    )
    assert not set(other.written) & set(found.written)
    chat = Recorded([Answer('{"negatives": []}')] * 2)
    llm.mine(queries, corpus, 5, 7, llm=chat, writing=Writing(sees_positive=False))
    assert (
        "Answered by" not in chat.requests[0].prompt
        and chat.requests[0].parameters["response_format"]["json_schema"]["name"] == "negatives"
    )
    rows = candidates(queries, found.run, corpus | found.written, set(), "llm", (1, 5), 0)
    assert [n.doc_id for n in rows["q1"]] == ["written:llm:q1:1"] and rows["q2"] == []
