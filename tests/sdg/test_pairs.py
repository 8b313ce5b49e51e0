"""Round trip and split: properties over random corpora."""

import random

from hypothesis import given
from hypothesis import strategies as st
from sharpen.evaluation.beir import Document, Query, text_key
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.sdg.filters.round_trip import round_trip
from sharpen.sdg.split import near_duplicate_documents, split_documents, split_queries

WORDS = ["apple", "river", "stone", "cloud", "Apple", "glass"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


@st.composite
def corpora(draw):
    """Documents with many equal texts, some of them chunks of one document."""
    contents = draw(st.lists(texts, min_size=2, max_size=25))
    corpus = {}
    for n, text in enumerate(contents):
        metadata = {"chunk_of": f"parent{n // 3}"} if draw(st.booleans()) else {}
        corpus[f"d{n}"] = Document(f"d{n}", text, title=f"file {n}" if n % 2 else "", metadata=metadata)
    chosen = draw(st.lists(st.sampled_from(sorted(corpus)), min_size=1, max_size=8, unique=True))
    queries = [Query(f"q{i}", draw(texts), {"positives": [doc_id]}) for i, doc_id in enumerate(chosen)]
    return corpus, queries


@given(corpora(), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 5), st.data())
def test_no_document_and_no_copy_is_on_two_sides(data, dev, test, seed, more):
    corpus, queries = data
    doc_ids = sorted({d.doc_id for d in corpus.values()})
    together = more.draw(st.lists(st.lists(st.sampled_from(doc_ids), min_size=1, max_size=3), max_size=3))
    sides = split_documents(corpus, dev, seed, test, together)
    drawn = {d.doc_id: sides[d.id] for d in corpus.values() if sides[d.id] is not None}
    assert all(len({drawn[doc_id] for doc_id in group if doc_id in drawn}) <= 1 for group in together)
    assert set(sides) == set(corpus)
    for key in (lambda d: text_key(d.text), lambda d: d.doc_id):
        groups: dict[str, set[str]] = {}
        for chunk_id, document in corpus.items():
            groups.setdefault(key(document), set()).add(sides[chunk_id])
        assert all(len(found - {None}) <= 1 for found in groups.values())
    members = split_queries(queries, sides)
    assert sum(map(len, members.values())) == sum(sides[q.metadata["positives"][0]] is not None for q in queries)
    assert all(sides[q.metadata["positives"][0]] == side for side, found in members.items() for q in found)


def test_whole_copies_share_a_side_and_a_footer_that_is_everywhere_has_none():
    corpus = {f"d{n}": Document(f"d{n}", f"some text {n // 2}", title=f"file {n}") for n in range(200)}
    sides = split_documents(corpus, 0.5, 1)
    assert all(sides[f"d{n}"] == sides[f"d{n + 1}"] for n in range(0, 200, 2)) and set(sides.values()) == {
        "train",
        "dev",
    }
    footers = {
        f"d{n}#1": Document(f"d{n}#1", "All rights reserved.", metadata={"chunk_of": f"d{n}"}) for n in range(200)
    }
    with_footers = split_documents(corpus | footers, 0.5, 1)
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
    sides = split_documents(corpus, 0.3, 1, 0.3, found)
    assert all(sides[a] == sides[b] for a, b in found) and set(sides.values()) == {"train", "dev", "test"}


def test_the_share_is_about_what_was_asked_and_a_document_keeps_its_side():
    corpus = {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(2000)}
    sides = split_documents(corpus, 0.1, 7)
    assert 150 < sum(side == "dev" for side in sides.values()) < 250
    half = {k: v for k, v in corpus.items() if int(k[1:]) % 2}
    assert split_documents(half, 0.1, 7) == {k: sides[k] for k in half}
    assert split_documents(corpus, 0.1, 8) != sides
    with_test = split_documents(corpus, 0.1, 7, test_share=0.2)
    assert 330 < sum(side == "test" for side in with_test.values()) < 470
    assert all(
        with_test[i] == "dev" for i, side in sides.items() if side == "dev"
    )  # a test split takes from train only


@given(corpora(), st.integers(1, 5))
def test_round_trip_accounts_for_every_query(data, top_k):
    corpus, queries = data
    run = BM25(corpus).search({q.id: q.text for q in queries}, len(corpus))
    kept, rejected = round_trip(queries, run, corpus, top_k)
    assert {q.id for q in kept} | {r["query"] for r in rejected} == {q.id for q in queries}
    assert len(kept) + len(rejected) == len(queries)
    assert all(r["rank"] is None or r["rank"] > top_k for r in rejected)


def test_round_trip_counts_a_copy_of_the_document_as_the_document(corpus):
    copy = corpus | {"copy": Document("copy", corpus["chess"].text.upper(), corpus["chess"].title)}
    queries = [Query("q", "x", {"positives": ["chess"]})]
    assert round_trip(queries, {"q": {"copy": 2.0, "bread": 1.0}}, copy, 1)[0] == queries
    assert round_trip(queries, {"q": {"bread": 2.0, "chess": 1.0}}, copy, 1)[1][0]["rank"] == 2
