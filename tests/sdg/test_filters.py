import json
from decimal import Decimal

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.packaged import packaged_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.sdg.decisions import PairDecision, decide_queries
from sharpen.sdg.filters import duplicates
from sharpen.sdg.filters.base import filter_queries
from sharpen.sdg.filters.cross_encoder import CrossEncoderFilter
from sharpen.sdg.filters.duplicates import drop_near_duplicates
from sharpen.sdg.filters.judge import Judge
from sharpen.sdg.filters.round_trip import RoundTrip
from sharpen.sdg.filters.settings import FiltersSettings
from sharpen.sdg.filters.text import Copying
from sharpen.sdg.filters.top_queries import TopQueries
from sharpen.sdg.llm.budget import Prices, Spending, spending_counts
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import EndpointSettings
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason
from sharpen.sdg.resources import Resources
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
    result = drop_near_duplicates(queries, vectors, threshold)
    kept, rejected = result.kept, result.rejected
    assert [int(q.text) for q in kept] == _one_by_one(vectors, threshold)
    assert len(kept) + len(rejected) == 500
    kept_ids = {q.id for q in kept}
    for row in rejected:
        cosine = vectors[int(row.text)] @ vectors[int(row.problem.detail[1:])]
        assert row.problem.detail in kept_ids and cosine == pytest.approx(row.problem.value, abs=1e-4)
        assert cosine >= threshold == row.problem.limit


def test_the_documents_of_near_duplicates_stand_with_the_query_that_is_kept():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
    queries = [Query(f"q{n}", f"query {n}", {"positives": [f"d{n % 4}"]}) for n in range(5)]
    queries[2].metadata["also_answers"] = ["e"]
    kept = drop_near_duplicates(queries, vectors, 0.9).kept
    assert [(q.id, q.metadata.get("also_answers")) for q in kept] == [("q0", ["d2", "e", "d3"]), ("q1", ["d0"])]
    assert "also_answers" not in queries[0].metadata


def test_near_duplicates_of_many_are_found_in_the_nearest_cells(monkeypatch):
    monkeypatch.setattr(duplicates, "EXACT", 1000)
    rng = np.random.default_rng(1)
    topics = rng.normal(size=(100, 64))[rng.integers(0, 100, 3000)] + 0.7 * rng.normal(size=(3000, 64))
    vectors = np.concatenate([topics, topics[:600] + 0.3 * rng.normal(size=(600, 64))])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = _queries(*map(str, range(3600)))
    result = drop_near_duplicates(queries, vectors, 0.9)
    kept = result.kept
    exact = _one_by_one(vectors, 0.9)
    assert 400 < 3600 - len(exact) < 1200
    assert len(kept) - len(exact) <= 0.01 * (3600 - len(exact))
    assert kept == drop_near_duplicates(queries, vectors, 0.9).kept and len(kept) + len(result.rejected) == 3600


def test_copying_drops_the_documents_own_words(corpus):
    queries = _queries(
        "knead the dough for ten minutes", "how long must dough be worked", "flour, water, salt or sugar"
    )
    result = Copying().apply(queries, corpus)
    assert [q.id for q in result.kept] == ["q1", "q2"]
    assert (result.rejected[0].problem.value, result.rejected[0].borderline) == (1.0, False)


def _scores(overall: float) -> dict[str, float]:
    return {"relevance": 8, "factual_accuracy": 9, "context_support": 7, "clarity": 10, "overall": overall}


def _judged(tmp_path, corpus, queries, replies):
    prompts = []

    def reply(path, body, headers):
        prompts.append(body)
        text = replies[len(prompts) - 1]
        return (200, {}, chat_answer("cut")[2][:30]) if text is None else chat_answer(text)

    with serve_replies(reply) as base_url:
        endpoint, journal = EndpointSettings(base_url, "k", "m", 1), Journal(tmp_path / "j.sqlite")
        result = Judge().judge(queries, corpus, LLMClient([endpoint], journal, timeout=5, max_retries=0))
        return result.kept, result.rejected, prompts


def test_the_judge_keeps_what_has_seven_points(tmp_path, corpus):
    queries = _queries("how long is bread kneaded", "what is flour", "when does it rise")
    queries += [Query("p", "pawn first?", {"positives": ["chess"], "answer": "a centre pawn"})]
    replies = [
        json.dumps({"scores": [_scores(7), _scores(6.9), _scores(10)]}),
        "```json\n[" + json.dumps(_scores(7.5)) + "]\n```",
    ]
    kept, rejected, prompts = _judged(tmp_path, corpus, queries, replies)
    assert [q.id for q in kept] == ["q0", "q2", "p"] and kept[0].metadata["scores"]["clarity"] == 10
    (low,) = rejected
    assert (low.query, low.reason, low.problem.value, low.problem.limit) == ("q1", "low_judge_score", 6.9, 7)
    assert low.more["scores"]["clarity"] == 10 and low.borderline and Rejection.from_row(low.to_row()) == low
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
    assert not kept and [r.reason for r in rejected] == ["judge_mismatch"] * 2


def test_a_budget_that_ends_and_an_outage_stop_the_judge(tmp_path, corpus):
    queries = _queries("how long is bread kneaded", "what is flour")
    with pytest.raises(InputError, match=r"1 of 1 requests failed, the last with 'broken off"):
        _judged(tmp_path, corpus, queries, [None])
    poor = Spending(Prices(input=1), Decimal("0.0000001"))
    client = LLMClient([EndpointSettings("http://localhost:1/v1", "k", "m", 1)], Journal(tmp_path / "k"), spending=poor)
    with pytest.raises(
        InputError, match=r"llm\.budget: 1 of 1 judgements of queries were not asked .* filters.judge out"
    ):
        Judge().judge(queries, corpus, client)


def test_what_the_judge_read_and_wrote_is_in_the_result(tmp_path, corpus):
    reply = json.dumps({"scores": [_scores(9), _scores(2)]})
    with serve_replies(lambda *_: chat_answer(reply)) as base_url:
        llm = LLMSettings(base_url=base_url, model="m", prices=Prices(input=1, output=1))
        resources = Resources(llm=llm, journal=tmp_path / "j.sqlite")
        queries = _queries("how long is bread kneaded", "what is flour")
        result = filter_queries(queries, corpus, [Copying(), Judge()], resources)
    assert [q.id for q in result.kept] == ["q0"] and spending_counts(result.spending) == {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "cached_tokens": 4,
        "money": "0.000016 USD spent",
    }
    rejected = PairDecision(query_id="q0", query=queries[0].text, decision="reject")
    assert decide_queries(result, queries, [rejected])[0].spending == result.spending


def test_a_cross_encoder_scores_query_and_document(tmp_path, corpus):
    import torch

    torch.manual_seed(0)
    CrossEncoder(str(packaged_encoder("packaged:tiny-bert")), num_labels=1, device="cpu").save_pretrained(
        str(tmp_path / "reranker")
    )
    queries = _queries("how long is bread kneaded", "opening moves of a game", "anything else")
    model = CrossEncoder(str(tmp_path / "reranker"), device="cpu", activation_fn=torch.nn.Identity())
    logits = model.predict([(q.text, corpus["bread"].content) for q in queries]).tolist()
    check = CrossEncoderFilter(model=str(tmp_path / "reranker"), min_score=sorted(logits)[1] - 1e-4)
    result = filter_queries(queries, corpus, [check], Resources(Models(precision="float32")))
    assert {q.id for q in result.kept} == {q.id for q, v in zip(queries, logits, strict=True) if v >= check.min_score}
    (low,) = result.rejected
    assert low.problem.value == pytest.approx(min(logits), abs=1e-3)  # no sigmoid, as in the negatives' filter
    with pytest.raises(InputError, match="no such model folder"):
        filter_queries(queries, corpus, [CrossEncoderFilter(model=str(tmp_path / "nowhere"))])


def test_of_each_document_the_queries_with_the_best_scores_stay(corpus):
    """DSI-QG's filter; a query of several documents counts by the best of them, among those of the same documents."""
    texts = {"a": "chess", "b": "knead the dough for ten minutes", "c": "knead the dough", "d": "opening moves"}
    queries = [Query(i, text, {"positives": ["bread"], "strategy": "document"}) for i, text in texts.items()]
    queries += [Query("e", "chess", {"positives": ["chess"]}), Query("f", "dough", {"positives": ["chess", "bread"]})]
    result = filter_queries(queries, corpus, [TopQueries(scorer="bm25", per_document=2)])
    assert [q.id for q in result.kept] == ["b", "c", "e", "f"] and result.passed["top_queries"]["document"] == 2
    assert [(r.query, r.reason, r.problem.value, r.problem.limit) for r in result.rejected] == [
        ("a", "not_among_top", 3, 2),
        ("d", "not_among_top", 4, 2),
    ]
    assert result.rejected[0].message == "not among the first 2 of its document's queries (rank 3, bm25: 0)"
    assert Rejection.from_row(result.rejected[0].to_row()) == result.rejected[0]
    with pytest.raises(InputError, match="no base encoder"):
        filter_queries(queries, corpus, [TopQueries(scorer="fused", per_document=2)], Resources())


def test_a_filter_by_scores_needs_the_base_where_that_scores_and_changes_no_earlier_fingerprint():
    without = FiltersSettings(round_trip=None)
    assert "top_queries" not in without.fingerprint() and not without.needs_base
    by = {
        s: FiltersSettings(round_trip=None, top_queries=TopQueries(scorer=s, per_document=1)) for s in ("bm25", "fused")
    }
    assert by["fused"].needs_base and not by["bm25"].needs_base
    assert by["bm25"].fingerprint()["top_queries"] == {"scorer": "bm25", "per_document": 1}
    with pytest.raises(ValueError, match="name another scorer"):
        TopQueries(scorer="reranker", per_document=1)


def test_filters_are_applied_in_order_and_what_each_lets_pass_is_counted(corpus):
    queries = _queries("how long must dough be worked", "knead the dough for ten minutes", "first moves of a pawn")
    result = filter_queries(queries, corpus, [Copying(), RoundTrip("bm25", top_k=1)])
    assert [q.id for q in result.kept] == ["q0"]
    assert [(row.query, row.step) for row in result.rejected] == [("q1", "copying"), ("q2", "round_trip")]
    assert result.passed == {
        "generated": {"document": 3},
        "copying": {"document": 2},
        "round_trip": {"document": 1},
    }
    with pytest.raises(InputError, match="no base encoder"):
        filter_queries(queries, corpus, [RoundTrip("dense")], Resources())


def test_the_filters_of_a_recipe_have_an_order_and_take_a_users_own(tmp_path):
    (tmp_path / "own.py").write_text("class Own:\n    name = 'own'\n    def __init__(self, most=3): self.most = most\n")
    settings = FiltersSettings.model_validate(
        {
            "judge": {"threshold": 6},
            "custom": [{"use": f"{tmp_path / 'own.py'}:Own", "options": {"most": 5}}],
            "top_queries": {"scorer": "bm25", "per_document": 2},
            "cross_encoder": {"model": "some/reranker"},
            "round_trip": {"retriever": "bm25"},
            "near_duplicates": {},
            "copying": {"ngram": 2},
        }
    )
    in_order = settings.in_order()
    assert [f.name for f in in_order] == [
        "copying",
        "near_duplicates",
        "round_trip",
        "cross_encoder",
        "top_queries",
        "own",
        "judge",
    ]
    assert in_order[5].most == 5 and settings.needs_base and not FiltersSettings(round_trip=None).needs_base
    with pytest.raises(ValueError, match="max_share"):
        Copying.model_validate({"max_share": 0.5})
    with pytest.raises(ValueError, match=r"'bm25', 'dense' or 'fused'"):
        RoundTrip("bm52")


@pytest.mark.parametrize(
    ("reason", "value", "limit", "borderline"),
    [
        (RejectionReason.NOT_RETRIEVED, 20, 10, True),
        (RejectionReason.NOT_RETRIEVED, 21, 10, False),
        (RejectionReason.NOT_RETRIEVED, None, 10, False),
        (RejectionReason.NOT_AMONG_TOP, 6, 3, True),
        (RejectionReason.NOT_AMONG_TOP, 7, 3, False),
        (RejectionReason.LOW_JUDGE_SCORE, 6.1, 7, True),
        (RejectionReason.LOW_JUDGE_SCORE, 6.0, 7, False),
        (RejectionReason.COPYING, 0.74, 0.5, True),
        (RejectionReason.COPYING, 0.75, 0.5, False),
        (RejectionReason.NEAR_DUPLICATE, 0.94, 0.9, True),
        (RejectionReason.NEAR_DUPLICATE, 0.96, 0.9, False),
        (RejectionReason.TOO_SHORT, 1, 2, False),
    ],
)
def test_what_a_little_more_would_have_saved(reason, value, limit, borderline):
    assert Problem(reason, value, limit).borderline is borderline
