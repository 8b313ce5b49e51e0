import json

import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.packaged import packaged_encoder
from sharpen.evaluation.files import InputError
from sharpen.sdg.filters import duplicates
from sharpen.sdg.filters.cross_encoder import cross_encoder
from sharpen.sdg.filters.duplicates import near_duplicates
from sharpen.sdg.filters.judge import MISMATCH, judge
from sharpen.sdg.filters.text import copying
from sharpen.sdg.llm.client import LLM, EndpointSettings
from sharpen.sdg.llm.journal import Journal

from tests.servers import chat_answer, serve_replies


def _queries(*texts: str, document: str = "bread") -> list[Query]:
    return [Query(f"q{n}", text, {"positives": [document], "strategy": "document"}) for n, text in enumerate(texts)]


def _one_by_one(vectors: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for n, vector in enumerate(vectors):
        if not kept or (vectors[kept] @ vector).max() < threshold:
            kept.append(n)
    return kept


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.999])
def test_near_duplicates_in_blocks_are_those_found_one_by_one(monkeypatch, threshold):
    monkeypatch.setattr(duplicates, "BLOCK", 16)
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, 8))[rng.integers(0, 30, 500)] + 0.2 * rng.normal(size=(500, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = _queries(*map(str, range(500)))
    kept, rejected = near_duplicates(queries, vectors, threshold)
    assert [int(q.text) for q in kept] == _one_by_one(vectors, threshold)
    assert len(kept) + len(rejected) == 500
    kept_ids = {q.id for q in kept}
    for row in rejected:
        cosine = vectors[int(row["text"])] @ vectors[int(row["of"][1:])]
        assert row["of"] in kept_ids and cosine == pytest.approx(row["similarity"], abs=1e-4) and cosine >= threshold


def test_near_duplicates_of_many_are_found_in_the_nearest_cells(monkeypatch):
    monkeypatch.setattr(duplicates, "EXACT", 1000)
    rng = np.random.default_rng(1)
    topics = rng.normal(size=(100, 64))[rng.integers(0, 100, 3000)] + 0.7 * rng.normal(size=(3000, 64))
    vectors = np.concatenate([topics, topics[:600] + 0.3 * rng.normal(size=(600, 64))])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = _queries(*map(str, range(3600)))
    kept, rejected = near_duplicates(queries, vectors, 0.9)
    exact = _one_by_one(vectors, 0.9)
    assert 400 < 3600 - len(exact) < 1200
    assert len(kept) - len(exact) <= 0.01 * (3600 - len(exact))
    assert kept == near_duplicates(queries, vectors, 0.9)[0] and len(kept) + len(rejected) == 3600


def test_copying_drops_the_documents_own_words(corpus):
    queries = _queries(
        "knead the dough for ten minutes", "how long must dough be worked", "flour, water, salt or sugar"
    )
    kept, rejected = copying(queries, corpus, 3, 0.5)
    assert [q.id for q in kept] == ["q1", "q2"] and rejected[0]["share"] == 1.0


def _scores(overall: float) -> dict[str, float]:
    return {"relevance": 8, "factual_accuracy": 9, "context_support": 7, "clarity": 10, "overall": overall}


def _judged(tmp_path, corpus, queries, replies):
    prompts = []

    def reply(path, body, headers):
        prompts.append(body)
        return chat_answer(replies[len(prompts) - 1])

    with serve_replies(reply) as base_url:
        llm = LLM([EndpointSettings(base_url, "k", "m", 1)], Journal(tmp_path / "j.sqlite"), timeout=5, max_retries=0)
        return *judge(queries, corpus, llm), prompts


def test_the_judge_keeps_what_has_seven_points(tmp_path, corpus):
    queries = _queries("how long is bread kneaded", "what is flour", "when does it rise")
    queries += [Query("p", "pawn first?", {"positives": ["chess"], "answer": "a centre pawn"})]
    replies = [
        json.dumps({"scores": [_scores(7), _scores(6.9), _scores(10)]}),
        "```json\n[" + json.dumps(_scores(7.5)) + "]\n```",
    ]
    kept, rejected, prompts = _judged(tmp_path, corpus, queries, replies)
    assert [q.id for q in kept] == ["q0", "q2", "p"] and kept[0].metadata["scores"]["clarity"] == 10
    assert [(r["query"], r["reason"], r["scores"]["overall"]) for r in rejected] == [
        ("q1", "judge: overall below 7", 6.9)
    ]
    asked = prompts[0]["messages"][0]["content"]
    assert "Query 3: when does it rise" in asked and "knead the dough" in asked and "factual_accuracy: " in asked
    assert prompts[0]["response_format"]["json_schema"]["schema"]["properties"]["scores"]["minItems"] == 3
    assert "(its answer: a centre pawn)" in prompts[1]["messages"][0]["content"] and len(prompts) == 2


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "nine out of ten",
        json.dumps({"scores": [_scores(9)]}),
        json.dumps({"scores": [_scores(9), {"overall": 9}]}),
        json.dumps({"scores": [_scores(9), _scores(90)]}),
        json.dumps({"scores": [_scores(9)] * 3}),
        "[" * 3000,
    ],
)
def test_a_judge_whose_answer_does_not_match_drops_all_of_its_pairs(tmp_path, corpus, reply):
    kept, rejected, _ = _judged(tmp_path, corpus, _queries("how long is bread kneaded", "what is flour"), [reply])
    assert not kept and [r["reason"] for r in rejected] == [MISMATCH] * 2


def test_a_cross_encoder_scores_query_and_document(tmp_path, corpus):
    import torch

    torch.manual_seed(0)
    CrossEncoder(str(packaged_encoder("packaged:tiny-bert")), num_labels=1, device="cpu").save_pretrained(
        str(tmp_path / "reranker")
    )
    queries = _queries("how long is bread kneaded", "opening moves of a game", "anything else")
    model = CrossEncoder(str(tmp_path / "reranker"), device="cpu")
    scores = model.predict([(q.text, corpus["bread"].content) for q in queries]).tolist()
    middle = sorted(scores)[1]
    kept, rejected = cross_encoder(queries, corpus, str(tmp_path / "reranker"), middle)
    assert {q.id for q in kept} == {q.id for q, score in zip(queries, scores, strict=True) if score >= middle} and len(
        rejected
    ) == 1
    assert rejected[0]["score"] == pytest.approx(min(scores), abs=1e-3)
    with pytest.raises(InputError, match="no such model folder"):
        cross_encoder(queries, corpus, str(tmp_path / "nowhere"), 0.5)
