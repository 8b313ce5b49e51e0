import math
import random

import pytest

from evaluation.metrics import METRICS, evaluate
from tests.conftest import shared_dataset


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


def test_unknown_metric():
    with pytest.raises(ValueError, match="ndgc@10"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, ("ndgc@10",))


@pytest.mark.parametrize("seed", range(5))
def test_as_beir_has_them(seed: int):
    from beir.retrieval.evaluation import EvaluateRetrieval

    draw = random.Random(seed)
    documents = [f"d{i}" for i in range(300)]
    qrels = {f"q{i}": {d: draw.choice([1, 1, 2]) for d in draw.sample(documents, draw.randint(1, 8))} for i in range(40)}
    run = {q: {d: round(draw.random(), 2) for d in draw.sample(documents, 150)} for q in qrels}  # rounded: ties
    ndcg, _map, recall, _precision = EvaluateRetrieval.evaluate(qrels, run, [10, 100], ignore_identical_ids=False)
    mine = {metric: sum(values.values()) / len(values) for metric, values in evaluate(qrels, run).items()}
    assert mine["ndcg@10"] == pytest.approx(ndcg["NDCG@10"], abs=1e-5)  # BEIR rounds to five digits
    assert mine["recall@100"] == pytest.approx(recall["Recall@100"], abs=1e-5)


def test_bm25_on_scifact_is_where_it_is_published():
    from evaluation.data import read_corpus, read_qrels, read_queries
    from evaluation.retrievers import BM25

    folder = shared_dataset("scifact")
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    queries = {q: read_queries(folder / "queries.jsonl")[q].text for q in qrels}
    scores = evaluate(qrels, BM25(read_corpus(folder / "corpus.jsonl")).search(queries, 100))["ndcg@10"]
    assert 0.66 <= sum(scores.values()) / len(scores) <= 0.69
