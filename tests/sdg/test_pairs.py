"""Round trip and split: properties over random corpora."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query, text_key
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.sdg.filters.round_trip import RoundTrip
from sharpen.sdg.filters.text import query_key
from sharpen.sdg.splitting import (
    SplitSettings,
    name_near_duplicates,
    near_duplicate_documents,
    split,
    split_by_query,
    split_documents,
    split_queries,
    split_with_settings,
)
from tests.sdg.support import corpora

WORDS = ["apple", "river", "stone", "cloud", "Apple", "glass"]


@given(corpora(WORDS, fewest=1), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 5), st.data())
def test_no_document_and_no_copy_is_on_two_sides(data, dev, test, seed, more):
    corpus, queries = data
    doc_ids = sorted({d.doc_id for d in corpus.values()})
    together = more.draw(st.lists(st.lists(st.sampled_from(doc_ids), min_size=1, max_size=3), max_size=3))
    sides = split_documents(corpus, SplitSettings(dev=dev, test=min(test, 0.99 - dev)), seed, together)
    drawn = {d.doc_id: sides[d.id] for d in corpus.values() if sides[d.id] is not None}
    assert all(len({drawn[doc_id] for doc_id in group if doc_id in drawn}) <= 1 for group in together)
    assert set(sides) == set(corpus)
    for key in (lambda d: text_key(d.text), lambda d: d.doc_id):
        groups: dict[str, set[str]] = {}
        for chunk_id, document in corpus.items():
            groups.setdefault(key(document), set()).add(sides[chunk_id])
        assert all(len(found - {None}) <= 1 for found in groups.values())
    splits = split_queries(queries, sides)
    members = dict(splits.items())
    assert sum(map(len, members.values())) == sum(sides[q.metadata["positives"][0]] is not None for q in queries)
    assert len(splits.rejected) == len(queries) - sum(map(len, members.values()))
    assert all(sides[q.metadata["positives"][0]] == side for side, found in members.items() for q in found)


def test_whole_copies_share_a_side_and_a_footer_that_is_everywhere_has_none():
    corpus = {f"d{n}": Document(f"d{n}", f"some text {n // 2}", title=f"file {n}") for n in range(200)}
    sides = split_documents(corpus, SplitSettings(dev=0.5), 1)
    assert all(sides[f"d{n}"] == sides[f"d{n + 1}"] for n in range(0, 200, 2)) and set(sides.values()) == {
        "train",
        "dev",
    }
    footers = {
        f"d{n}#1": Document(f"d{n}#1", "All rights reserved.", metadata={"chunk_of": f"d{n}"}) for n in range(200)
    }
    with_footers = split_documents(corpus | footers, SplitSettings(dev=0.5), 1)
    assert {with_footers[i] for i in footers} == {None} and {i: with_footers[i] for i in corpus} == sides


def test_near_duplicates_are_found_without_comparing_all_with_all():
    rng = random.Random(5)
    vocabulary = [f"word{n}" for n in range(3000)]
    texts = {f"d{n}": [rng.choice(vocabulary) for _ in range(120)] for n in range(300)}
    for n in range(30):  # one word in sixty is another one
        changed = list(texts[f"d{n}"])
        changed[20] = changed[80] = "other"
        texts[f"copy of d{n}"] = changed
        texts[f"half of d{n}"] = changed[:60] + [rng.choice(vocabulary) for _ in range(60)]
    corpus = {i: Document(i, " ".join(words)) for i, words in texts.items()} | {
        "empty": Document("empty", "?!"),
        "empty too": Document("empty too", "..."),
    }
    found = near_duplicate_documents(corpus, 0.8)
    assert sorted(found) == sorted((f"d{n}", f"copy of d{n}") for n in range(30))
    sides = split_documents(corpus, SplitSettings(dev=0.3, test=0.3), 1, found)
    assert all(sides[a] == sides[b] for a, b in found) and set(sides.values()) == {"train", "dev", "test"}


def test_the_fraction_is_about_what_was_asked_and_a_document_keeps_its_side():
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(2000)}
    sides = split_documents(corpus, SplitSettings(), 7)
    assert 150 < sum(side == "dev" for side in sides.values()) < 250
    half = {k: v for k, v in corpus.items() if int(k[1:]) % 2}
    assert split_documents(half, SplitSettings(), 7) == {k: sides[k] for k in half}
    assert split_documents(corpus, SplitSettings(), 8) != sides
    with_test = split_documents(corpus, SplitSettings(test=0.2), 7)
    assert 330 < sum(side == "test" for side in with_test.values()) < 470
    assert all(
        with_test[i] == "dev" for i, side in sides.items() if side == "dev"
    )  # a test split takes from train only


def test_near_duplicates_are_named_with_the_queries_of_their_documents_but_not_those_of_a_template():
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(50)}
    corpus["d0#1"] = Document("d0#1", "a chunk", metadata={"chunk_of": "d0"})
    template = [(f"d{n}", f"d{m}") for n in range(10, 43) for m in range(n + 1, 43)]
    positives = [["d0#1", "d1"], ["d2"], ["d3"], ["d10"], ["d42"]]
    queries = [Query(f"q{n}", "text", {"positives": ids}) for n, ids in enumerate(positives)]
    named = name_near_duplicates(queries, corpus, [("d0", "d2"), ("d0", "d4"), *template])
    assert [q.metadata.get("near_duplicates") for q in named] == [["d2", "d4"], ["d0"], None, None, None]
    one_less = name_near_duplicates(queries, corpus, [pair for pair in template if "d42" not in pair])
    assert [len(q.metadata.get("near_duplicates", ())) for q in one_less] == [0, 0, 0, 31, 0]


@pytest.mark.slow
def test_thousands_of_one_template_are_linked_in_little_time():
    template = " ".join(f"clause {n} of this form says what everybody signs" for n in range(12))
    corpus = {f"d{n}": Document(f"d{n}", f"{template} signed by person{n}") for n in range(4000)}
    started = time.process_time()
    pairs = near_duplicate_documents(corpus, 0.8)
    assert time.process_time() - started < 60 and len(pairs) < 33 * 4000  # all with all would be 8 million
    assert set(split([], corpus, dev=0.5, test=0.0, seed=1).sides.values()) in ({"train"}, {"dev"})


def test_a_query_of_several_documents_goes_where_all_are_and_bundles_are_not_torn_apart():
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(200)}
    pairs = [[f"d{n}", f"d{n + 1}"] for n in range(0, 200, 2)]
    queries = [Query(f"q{n}", "text", {"positives": ids, "strategy": "s"}) for n, ids in enumerate(pairs)]
    torn = split(queries, corpus, dev=0.3, test=0.2, seed=1)
    assert 30 < len(torn.rejected) < 90 and {row.reason for row in torn.rejected} == {"several_splits"}
    bundled = [replace(q, metadata=q.metadata | {"bundle": q.metadata["positives"]}) for q in queries]
    whole = split(bundled, corpus, dev=0.3, test=0.2, seed=1)
    assert not whole.rejected and all(len(members) > 5 for _, members in whole.items())
    assert split(queries, corpus, dev=0.3, test=0.2, seed=1, together=pairs).sides == whole.sides
    with pytest.raises(ValueError, match="leave no documents"):
        split(queries, corpus, dev=0.5, test=0.5)


@given(corpora(WORDS, fewest=1), st.integers(1, 5))
def test_round_trip_accounts_for_every_query(data, top_k):
    corpus, queries = data
    result = RoundTrip(BM25(corpus), top_k=top_k).apply(queries, corpus)
    assert {q.id for q in result.kept} | {r.query for r in result.rejected} == {q.id for q in queries}
    assert len(result.kept) + len(result.rejected) == len(queries)
    assert all(r.problem.value is None or r.problem.value > top_k for r in result.rejected)


class _Fixed:
    """A retriever that has one answer."""

    def __init__(self, run):
        self.run = run

    def search(self, queries, k):
        return self.run


def test_round_trip_counts_a_copy_of_the_document_as_the_document(corpus):
    copy = corpus | {"copy": Document("copy", corpus["chess"].text.upper(), corpus["chess"].title)}
    queries = [Query("q", "x", {"positives": ["chess"]})]
    assert RoundTrip(_Fixed({"q": {"copy": 2.0, "bread": 1.0}}), top_k=1).apply(queries, copy).kept == queries
    (second,) = RoundTrip(_Fixed({"q": {"bread": 2.0, "chess": 1.0}}), top_k=1).apply(queries, copy).rejected
    assert (second.problem.value, second.problem.limit, second.borderline) == (2, 1, True)


@given(st.lists(st.text("abcd ", min_size=1, max_size=9), min_size=1, max_size=40, unique=True), st.integers(0, 99))
def test_by_query_each_hangs_on_its_text_alone_and_what_was_harvested_is_trained_on(texts, seed):
    corpus = {"d": Document("d", "text")}
    settings = SplitSettings(by="query", dev=0.3, test=0.3)
    queries = [Query(f"q{n}", text, {"positives": ["d"]}) for n, text in enumerate(texts)]
    harvested = Query("h", "text", {"positives": ["d"], "harvested": "sentence"})
    splits = split_with_settings([*queries, harvested], corpus, settings, seed)
    side = {query.text: name for name, members in splits.items() for query in members if query is not harvested}
    assert set(side) == set(texts) and harvested in splits.train and not splits.rejected
    alone = split_with_settings(queries[:1], corpus, settings, seed)
    assert [name for name, members in alone.items() if members] == [side[texts[0]]]


def test_by_query_those_of_an_earlier_run_stay_on_their_side():
    queries = [Query(f"q{n}", f"query {n}", {"positives": ["d"]}) for n in range(40)]
    known = dict.fromkeys(map(query_key, (q.text for q in queries[:30])), "train")
    settings = SplitSettings(by="query", dev=0, test=0.5)
    splits = split_by_query(queries, {"d": Document("d", "text")}, settings, 1, known)
    assert splits.test and {q.id for q in splits.test} <= {q.id for q in queries[30:]}


def _family(n: int) -> list[Query]:
    """A query, what was made of it, and a session with a paraphrase of its second query."""
    texts = {
        f"q{n}": {"typed_for": f"query {n}"},
        f"p{n}": {"of": f"q{n}"},
        f"b{n}": {"of": f"p{n}", "typed_for": f"back {n}"},
        f"s{n}": {"session": f"user:{n}", "round": 1},
        f"t{n}": {"session": f"user:{n}", "round": 2},
        f"u{n}": {"of": f"t{n}"},
    }
    return [Query(i, f"text of {i}", {"positives": ["d"], **metadata}) for i, metadata in texts.items()]


def _by_query(queries, known=None, others=()):
    settings = SplitSettings(by="query", dev=0.3, test=0.3)
    splits = split_by_query(queries, {"d": Document("d", "text")}, settings, 1, known, others)
    return {query.id: name for name, members in splits.items() for query in members}


def test_by_query_what_is_made_of_a_query_and_a_session_are_on_one_side():
    families = [_family(n) for n in range(60)]
    side = _by_query([query for family in families for query in family])
    for family in families:
        assert len({side[q.id] for q in family[:3]}) == len({side[q.id] for q in family[3:]}) == 1
    assert set(side.values()) == {"train", "dev", "test"}
    # a filter that rejects some of them changes nothing for the others
    every = [query for family in families for query in family]
    left = [query for query in every if query.id[0] not in "qpt"]
    assert _by_query(left, others=every) == {query.id: side[query.id] for query in left}
    # the text that was meant is drawn as it was without a typing error
    meant = [Query(f"q{n}", f"query {n}", {"positives": ["d"]}) for n in range(60)]
    assert _by_query(meant) == {query.id: side[query.id] for query in meant}


def test_by_query_what_was_in_train_draws_what_is_made_of_it_after_it():
    families = [_family(n) for n in range(40)]
    every = [query for family in families for query in family]
    of_first = {query_key(f"text of q{n}"): "train" for n in range(20)}
    held_out = {query_key(f"text of p{n}"): "test" for n in range(20, 40)}
    side = _by_query(every, of_first | held_out)
    assert all({side[q.id] for q in family[:3]} == {"train"} for family in families[:20])
    assert all({side[q.id] for q in family[:3]} == {"test"} for family in families[20:])
    torn = {query_key("text of q0"): "test", query_key("text of b0"): "train"}  # by a version that drew each alone
    assert {_by_query(families[0], torn)[i] for i in ("q0", "p0", "b0")} == {"train"}


def test_by_document_the_fingerprint_is_as_it_was():
    assert "by" not in SplitSettings().fingerprint() and SplitSettings(by="query").fingerprint()["by"] == "query"


def test_by_query_near_duplicates_are_looked_for_as_no_negatives():
    text = " ".join(f"word{n}" for n in range(60))
    corpus = {"v1": Document("v1", text), "v2": Document("v2", f"{text} more"), "x": Document("x", "else")}
    query = Query("q", "what", {"positives": ["v1"], "strategy": "document"})
    settings = SplitSettings(by="query", dev=0, test=0)
    assert split_with_settings([query], corpus, settings, 1).alike == [("v1", "v2")]
    assert not split_with_settings([query], corpus, settings.model_copy(update={"near_duplicates": None}), 1).alike
