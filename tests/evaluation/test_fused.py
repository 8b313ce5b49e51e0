"""The weighted sum of retrievers' standardized scores, on a real collection."""

import numpy as np
import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.datasets import Task, load_task
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY, evaluate
from sharpen.evaluation.retrievers import fused as module
from sharpen.evaluation.retrievers.base import search_task
from sharpen.evaluation.retrievers.bm25 import BM25, RankBM25
from sharpen.evaluation.retrievers.candidates import JudgedCandidates, fit_weights, weight_curve
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.retrievers.fused import Fused
from sharpen.evaluation.runs import ranking
from tests.conftest import shared_dataset


@pytest.fixture
def members(corpus):
    return {"dense": Dense(corpus, "packaged:tiny-bert"), "bm25": BM25(corpus)}


def test_scores_are_standardized_over_all_documents(corpus, members, monkeypatch):
    queries = {"q1": "knead the dough", "q2": "pump up the inner tube of the wheel", "q3": "zzz"}
    cosines = members["dense"].encode_queries(list(queries.values())) @ members["dense"].vectors.T
    found = members["bm25"].search(queries, len(corpus))
    words = np.array([[found[q].get(d, 0.0) for d in corpus] for q in queries])
    expected = sum(
        weight * (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-9)
        for scores, weight in ((cosines, 1.0), (words, 0.5))
    )
    runs = []
    for most in (module.MOST_SCORES, 1):  # all queries in one block, and each in its own
        monkeypatch.setattr(module, "MOST_SCORES", most)
        runs.append(Fused(members, {"bm25": 0.5}).search(queries, len(corpus)))
    for run in runs:
        for row, q in zip(expected, queries, strict=True):
            np.testing.assert_allclose([run[q][d] for d in corpus], row, atol=1e-4)
            assert list(run[q]) == ranking(run[q])
    assert [list(run) for run in Fused(members, {"bm25": 0.5}).search(queries, 3).values()] == [
        list(runs[0][q])[:3] for q in queries
    ]


def test_both_implementations_of_bm25_give_all_documents_the_same_scores(corpus):
    texts = ["knead the dough", "the", "tune the strings"]
    blocks = [np.concatenate(list(kind(corpus).score_blocks(texts, rows=2))) for kind in (BM25, RankBM25)]
    assert blocks[0].shape == (3, len(corpus)) and blocks[0].max() > 1
    np.testing.assert_allclose(*blocks, rtol=1e-4, atol=1e-5)


def test_fitted_weights_are_better_than_either_alone_and_are_what_a_search_has():
    task = load_task(str(shared_dataset("cranfield")), "test")
    members = {"bm25": BM25(task.corpus), "plain": BM25(task.corpus, language="none", b=1.0)}
    found = Fused(members).candidates(task.texts, depth=50)
    assert all(50 <= len(documents) <= 100 for documents in found.documents.values())
    judged = JudgedCandidates(found, task)
    weights, value = fit_weights(judged)
    alone = [judged.quality({scorer: 1.0}) for scorer in members]
    assert value >= max(alone) and set(weights) == set(members) and max(weights.values()) == 1.0
    run = search_task(task, Fused(members, weights))
    assert np.mean(list(evaluate(task.qrels, run)[PRIMARY].values())) == pytest.approx(value, abs=0.002)
    first = max(weights, key=weights.__getitem__)
    other = next(scorer for scorer in members if scorer != first)
    curve = weight_curve(judged, weights, other)
    assert max(curve.values()) == value and curve[0.0] == pytest.approx(max(alone))


def test_a_document_has_the_score_of_its_best_chunk_and_the_query_itself_is_left_out():
    texts = {"a#1": "ice", "a#2": "ice flows downhill", "b": "ice flows", "q": "ice flows downhill slowly"}
    corpus = {i: Document(i, text, metadata={"chunk_of": i.partition("#")[0]}) for i, text in texts.items()}
    task = Task(corpus, {"q": Query("q", "ice flows downhill")}, {"q": {"a": 1, "b": 2}})
    found = Fused({"bm25": BM25(corpus, language="none")}).candidates(task.texts)
    run = search_task(task, BM25(corpus, language="none"))
    assert list(run["q"]) == ["a", "b"] and set(found.documents["q"]) == set(corpus)
    expected = evaluate(task.qrels, run)[PRIMARY]["q"]
    assert JudgedCandidates(found, task).quality({"bm25": 1.0}) == pytest.approx(expected) and expected < 1


def test_sums_are_given_in_the_units_of_a_member(corpus, members):
    queries = {"q1": "knead the dough", "q2": "pump up the inner tube of the wheel"}
    cosines = members["dense"].encode_queries(list(queries.values())) @ members["dense"].vectors.T
    alone = Fused(members, {"dense": 0.5, "bm25": 0.0}, unit="dense").search(queries, len(corpus))
    both, plain = (Fused(members, {"dense": 0.5, "bm25": 0.2}, unit).search(queries, 5) for unit in ("dense", None))
    for row, q in zip(cosines, queries, strict=True):
        np.testing.assert_allclose([alone[q][d] for d in corpus], row - row.mean(), atol=1e-5)
        assert list(both[q]) == list(plain[q])
        np.testing.assert_allclose(
            list(both[q].values()), np.array(list(plain[q].values())) * row.std() / 0.5, rtol=1e-3
        )
    with pytest.raises(InputError, match="units of bm25, which has no weight"):
        Fused(members, {"bm25": 0.0}, unit="bm25")


def test_other_documents_or_an_unknown_member_are_refused(corpus, members):
    other = BM25({"x": Document("x", "another corpus")})
    with pytest.raises(InputError, match="search different documents"):
        Fused({**members, "other": other})
    with pytest.raises(InputError, match="a weight is given for 'bm52', and there are dense, bm25"):
        Fused(members, {"bm52": 1.0})
