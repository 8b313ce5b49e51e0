import math
from statistics import fmean

import pytest
import pytrec_eval
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
from sharpen.evaluation.metrics import METRICS, evaluate
from sharpen.evaluation.retrievers.bm25 import BM25
from tests.conftest import shared_dataset

DEPTHS = (1, 3, 5, 10, 100)
ALL = tuple(f"{kind}@{depth}" for kind in ("ndcg", "hit_rate", "recall", "precision", "map", "mrr") for depth in DEPTHS)
TREC = {"ndcg": "ndcg_cut", "hit_rate": "success", "recall": "recall", "precision": "P", "map": "map_cut"}


def test_by_hand():
    qrels = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}, "q3": {"x": 1}, "unjudged": {"a": 0}}
    run = {"q1": {"z": 3.0, "a": 2.0, "b": 1.0}, "q2": {f"d{i}": 100.0 - i for i in range(10)} | {"c": 1.0}}
    scores = evaluate(qrels, run)
    assert set(scores) == set(METRICS)
    dcg, ideal = 1 / math.log2(3) + 1 / math.log2(4), 1 + 1 / math.log2(3)
    assert scores["ndcg@10"] == pytest.approx({"q1": dcg / ideal, "q2": 0, "q3": 0})
    assert scores["hit_rate@1"] == {"q1": 0, "q2": 0, "q3": 0}
    assert scores["hit_rate@5"] == {"q1": 1, "q2": 0, "q3": 0}
    assert scores["mrr@10"] == {"q1": 0.5, "q2": 0, "q3": 0}  # c is the eleventh
    assert scores["recall@100"] == {"q1": 1, "q2": 1, "q3": 0}
    assert scores["map@10"] == pytest.approx({"q1": (1 / 2 + 2 / 3) / 2, "q2": 0, "q3": 0})
    assert evaluate(qrels, run, ["precision@5"])["precision@5"]["q1"] == 0.4


@pytest.mark.parametrize("metric", ["ndgc@10", "ndcg", "ndcg@0", "ndcg@ten"])
def test_unknown_metric(metric):
    with pytest.raises(ValueError, match=metric):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, (metric,))


IDS = st.sampled_from([f"{letter}{n}" for letter in "dD" for n in range(60)] + ["d-é", "d-漢"])
QRELS = st.dictionaries(
    st.sampled_from([f"q{n}" for n in range(5)]),
    st.dictionaries(IDS, st.integers(-1, 3), min_size=1, max_size=12),
    min_size=1,
)
SCORES = st.one_of(
    st.sampled_from([0.0, 0.5, 0.5 + 1e-9, 1.0]), st.floats(-5, 5, width=32)
)  # many ties, some only in single precision
RUN = st.dictionaries(st.sampled_from([f"q{n}" for n in range(5)]), st.dictionaries(IDS, SCORES, max_size=40))


@settings(max_examples=150, deadline=None)
@given(QRELS, RUN)
def test_as_pytrec_eval_has_them(qrels, run):
    """With ties, grades, queries that are missing on either side, and documents that nobody judged."""
    assume(not run.keys().isdisjoint(qrels) or not any(run.values()))  # refused
    scores = evaluate(qrels, run, ALL)
    relevant = {q for q, grades in qrels.items() if any(g > 0 for g in grades.values())}
    assert all(set(values) == relevant for values in scores.values())
    answered = {q: scores for q, scores in run.items() if q in relevant and scores}
    depths = ",".join(map(str, DEPTHS))
    reference = (
        pytrec_eval.RelevanceEvaluator(
            {q: qrels[q] for q in relevant}, {f"{name}.{depths}" for name in TREC.values()} | {"recip_rank"}
        ).evaluate(answered)
        if answered
        else {}
    )
    for query in relevant:
        for metric in ALL:
            kind, depth = metric.split("@")
            expected = reference.get(query, {})
            if kind == "mrr":
                first = expected.get("recip_rank", 0.0)
                value = first if first * int(depth) >= 1 - 1e-9 else 0.0
            else:
                value = expected.get(f"{TREC[kind]}_{depth}", 0.0)
            assert scores[metric][query] == pytest.approx(value, abs=1e-6)


@pytest.fixture(scope="module", params=[("scifact", "test"), ("cranfield", "test")], ids=lambda p: p[0])
def judged(request):
    """BM25 on a collection, of which Cranfield has grades."""
    name, split = request.param
    folder = shared_dataset(name)
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    queries = {q: read_queries(folder / "queries.jsonl")[q].text for q in qrels}
    return name, qrels, BM25(read_corpus(folder / "corpus.jsonl")).search(queries, 100)


def test_as_beir_and_ranx_have_them(judged, monkeypatch):
    from beir.retrieval.evaluation import EvaluateRetrieval

    name, qrels, run = judged
    answered = {q: scores for q, scores in run.items() if scores}
    assert len(answered) == len(qrels)
    scores = {metric: fmean(values.values()) for metric, values in evaluate(qrels, run, ALL).items()}
    reference = EvaluateRetrieval.evaluate(qrels, answered, list(DEPTHS), ignore_identical_ids=False)
    mrr = EvaluateRetrieval.evaluate_custom(qrels, answered, list(DEPTHS), metric="mrr")
    for kind, name_there, values in (
        ("ndcg", "NDCG", reference[0]),
        ("map", "MAP", reference[1]),
        ("recall", "Recall", reference[2]),
        ("precision", "P", reference[3]),
        ("mrr", "MRR", mrr),
    ):
        for depth in DEPTHS:
            assert scores[f"{kind}@{depth}"] == pytest.approx(values[f"{name_there}@{depth}"], abs=1e-5), (
                name,
                kind,
            )  # BEIR rounds to five digits

    numba = pytest.importorskip("numba")  # which ranx needs
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # it would compile for a minute to score a few queries
    ranx = pytest.importorskip("ranx")
    positive = {q: {d: g for d, g in grades.items() if g > 0} for q, grades in qrels.items()}
    ids = ("ndcg@10", "hit_rate@10", "recall@100", "precision@10", "mrr@10", "map@10")
    other = ranx.evaluate(ranx.Qrels(positive), ranx.Run(answered), list(ids), return_mean=False)
    for metric in ids:
        per_query = evaluate(qrels, run, [metric])[metric]
        for query, value in zip(sorted(positive), other[metric], strict=True):
            assert per_query[query] == pytest.approx(value, abs=1e-6)


def test_bm25_is_where_it_is_published_on_scifact_and_where_it_was_measured_on_cranfield(judged):
    name, qrels, run = judged
    low, high = {"scifact": (0.66, 0.69), "cranfield": (0.33, 0.36)}[name]
    assert low <= fmean(evaluate(qrels, run)["ndcg@10"].values()) <= high
