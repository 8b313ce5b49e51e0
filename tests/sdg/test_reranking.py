"""An LLM that scores documents: what it is asked, what becomes of its answers, and that none is paid for twice."""

from __future__ import annotations

import itertools
import json
import math
import re
import threading
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.llm.settings import LLM, LLMSettings
from sharpen.sdg.reranking.answers import log_odds, parse_ranking, window_starts
from sharpen.sdg.reranking.reranker import LLMReranker, llm_scorers
from sharpen.sdg.reranking.settings import LLMRerankerSettings
from tests.servers import chat_answer, logprobs_answer, serve_replies

QUERIES = {"q": Query("q", "how ice flows"), "r": Query("r", "baking bread")}
NUMBERED = {f"d{n}": Document(f"d{n}", f"This is worth {n} points.") for n in range(35)}


def _llm(base_url, tmp_path, **settings):
    chosen = LLMSettings(base_url=base_url, model="m", max_retries=0, **{"concurrency": 2} | settings)
    return LLM(settings=chosen, journal=tmp_path / "answers.sqlite")


def _pairs(documents, queries=("q",)):
    return [(q, i) for q in queries for i in documents]


class Server:
    """Answers questions of both kinds by rules, and keeps the requests."""

    def __init__(self, rank=None, broken=()):
        self.bodies, self.rank, self.broken, self._lock = [], rank, dict(broken), threading.Lock()

    def __call__(self, path, body, headers):
        prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        with self._lock:
            self.bodies.append(body)
        for sign, answer in self.broken.items():
            if sign in prompt:
                return answer
        if body.get("logprobs"):
            points = int(re.search(r"worth (\d+) points", prompt).group(1))
            return logprobs_answer({"No": -0.5, "Yes": -1.0 + points / 10, "no": -3.0}, chat="messages" in body)
        points = [int(n) for n in re.findall(r"\[\d+\] This is worth (\d+) points", prompt)]
        order = sorted(range(1, len(points) + 1), key=lambda place: -points[place - 1])
        return chat_answer(self.rank(order) if self.rank else json.dumps({"ranking": order}))


def test_odds_add_up_what_is_written_in_several_ways_and_bound_what_is_not_there():
    two = {" Yes": math.log(0.3), "yes": math.log(0.3), "No": math.log(0.2), "▁no.": math.log(0.1)}
    assert log_odds(two) == pytest.approx(math.log(0.6 / 0.3))
    assert log_odds({"Yes": math.log(0.9), "The": math.log(0.08)}) == pytest.approx(math.log(0.9 / 0.02))
    assert log_odds({"Yes": math.log(0.5), "A": math.log(0.1)}) == pytest.approx(math.log(0.5 / 0.1))
    assert log_odds({"No": 0.0}) == pytest.approx(-math.log(1e9))
    assert log_odds({"<think>": -0.01, "Yesterday": -5.0}) is None and log_odds({}) is None


@pytest.mark.parametrize(
    ("text", "places", "mended"),
    [
        ('{"ranking": [2, 3, 1]}', (1, 2, 0), False),
        ('```json\n{"ranking": [2, 3, 1]}\n```', (1, 2, 0), False),
        ("[2] > [3] > [1]", (1, 2, 0), False),
        ("Of the top 20, I take [2] > [3] > [1].", (1, 2, 0), False),
        ("2 > 3 > 1", (1, 2, 0), False),
        ("[2, 3, 1]", (1, 2, 0), False),
        ('{"ranking": ["3", "3", 7, 0]}', (2, 0, 1), True),
        ('{"ranking": [3, 1', (2, 0, 1), True),
        ("[3]", (2, 0, 1), True),
        ("All 3 are good.", None, None),
        ('{"ranking": []}', None, None),
        ("[9] > [8]", None, None),
        ("", None, None),
    ],
)
def test_orders_are_read_from_what_models_write(text, places, mended):
    ranking = parse_ranking(text, 3)
    assert (ranking and ranking.places, ranking and ranking.mended) == (places, mended)


@given(st.text(st.sampled_from('[]{}0123456789>,: "rankig\n'), max_size=40), st.integers(2, 12))
def test_an_order_names_every_document_once_whatever_was_answered(text, count):
    ranking = parse_ranking(text, count)
    assert ranking is None or sorted(ranking.places) == list(range(count))


@given(st.integers(2, 120), st.integers(2, 30), st.data())
def test_windows_reach_from_the_last_document_to_the_first_and_overlap(count, window, data):
    step = data.draw(st.integers(1, window - 1))
    starts = window_starts(count, window, step)
    assert starts[-1] == 0 and starts[0] + window >= count
    assert all(low < high < low + window for high, low in itertools.pairwise(starts))


def test_an_embedded_llm_scores_each_document_by_itself_and_is_asked_once(corpus, tmp_path):
    queries = {"q": Query("q", "Which document is about baking bread?")}
    pairs, settings = _pairs(["bread", "bicycle", "chess"]), LLMRerankerSettings(max_document_words=20)
    with LLM(embedded="smollm2-135m-instruct", journal=tmp_path / "answers.sqlite").open() as client:
        first = LLMReranker(client, settings=settings)
        scores = first.score(pairs, queries, corpus)
        assert len(set(scores.values())) == 3 and all(abs(value) < 21 for value in scores.values())
        assert (first.stats.answers, first.stats.from_journal, first.stats.unread) == (3, 0, 0)
        assert first.stats.tokens["completion"] == 3 and first.stats.tokens["prompt"] > 150
        assert first.score(pairs, queries, corpus) == scores and first.stats.answers == 3
        second = LLMReranker(client, settings=settings)
        assert second.score(pairs[:2], queries, corpus) == {pair: scores[pair] for pair in pairs[:2]}
        assert (second.stats.answers, second.stats.from_journal) == (2, 2)
        # the same whatever was asked before it
        fresh = LLMClient(client.endpoints, Journal(tmp_path / "others.sqlite"), client.identity, chat=client.chat)
        alone = LLMReranker(fresh, settings=settings).score(pairs[:1], queries, corpus)
        assert alone == {pairs[0]: scores[pairs[0]]} and len(fresh.journal) == 1


def test_a_base_model_continues_the_prompt(corpus, tmp_path):
    llm = LLM(embedded="gemma-3-270m", journal=tmp_path / "answers.sqlite")
    reranker = LLMReranker(llm, settings=LLMRerankerSettings(max_document_words=15))
    scores = reranker.score(_pairs(["bread", "glacier"]), QUERIES, corpus)
    assert len(set(scores.values())) == 2 and reranker.stats.unread == 0


@pytest.mark.parametrize("chat", [True, False])
def test_the_odds_of_yes_are_read_from_either_protocol(tmp_path, chat):
    server = Server()
    with serve_replies(server) as url:
        llm = _llm(url, tmp_path, chat=chat)
        scores = LLMReranker(llm, settings=LLMRerankerSettings(top_logprobs=5)).score(
            _pairs(["d1", "d7", "d3"]), QUERIES, NUMBERED
        )
    no = math.exp(-0.5) + math.exp(-3.0)
    assert scores["q", "d7"] == pytest.approx(-0.3 - math.log(no))
    assert sorted(scores, key=scores.get) == [("q", "d1"), ("q", "d3"), ("q", "d7")]
    asked = server.bodies[0]
    assert asked["max_tokens"] == 1 and asked["temperature"] == 0 and "cache_prompt" not in asked
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 5) if chat else asked["logprobs"] == 5
    with serve_replies(lambda *_: pytest.fail("it is asked again")) as url:  # another address of the same model
        again = LLMReranker(_llm(url, tmp_path, chat=chat), settings=LLMRerankerSettings(top_logprobs=5))
        assert again.score(_pairs(["d1", "d7", "d3"]), QUERIES, NUMBERED) == scores


@pytest.mark.parametrize(
    "answer",
    [
        chat_answer("Yes"),
        (400, {}, json.dumps({"error": {"message": "`top_logprobs` is not supported"}}).encode()),
        chat_answer("Yes", logprobs={"content": None, "refusal": None}),
    ],
    ids=["none", "refused", "null"],
)
def test_an_endpoint_without_logprobs_is_named_with_the_other_way(tmp_path, answer):
    with serve_replies(lambda *_: answer) as url:
        llm = _llm(url, tmp_path)
        with pytest.raises(InputError, match=rf"{url} gives no logprobs.*llm:listwise in its place"):
            LLMReranker(llm).score(_pairs(["d1", "d2"]), QUERIES, NUMBERED)
    assert len(Journal(llm.journal)) == 0  # another day it may give them


def test_a_bad_request_for_another_reason_is_no_lack_of_logprobs(tmp_path):
    refused = (400, {}, json.dumps({"error": {"message": "the prompt is too long"}}).encode())
    server, warnings = Server(broken={"worth 2 points": refused}), []
    with serve_replies(server) as url:
        reranker = LLMReranker(_llm(url, tmp_path), warn=warnings.append)
        scores = reranker.score(_pairs(["d1", "d2", "d3"]), QUERIES, NUMBERED)
        assert scores["q", "d2"] == pytest.approx((scores["q", "d1"] + scores["q", "d3"]) / 2)
        assert warnings == ["llm: 1 of 3 answers say nothing (these documents have the mean of their query's others)."]
        with pytest.raises(InputError, match=r"of 1 answers none begins with yes or no; the last was prompt too long"):
            reranker.score(_pairs(["d2"]), QUERIES, NUMBERED)


def test_an_answer_that_ends_at_once_says_nothing_and_is_kept(tmp_path):
    for at_once in (logprobs_answer({}), chat_answer("")):
        folder, server = tmp_path / str(len(at_once[2])), Server(broken={"worth 2 points": at_once})
        with serve_replies(server) as url:
            reranker = LLMReranker(_llm(url, folder))
            reranker.score(_pairs(["d1", "d2"]), QUERIES, NUMBERED)
            assert LLMReranker(_llm(url, folder)).score(_pairs(["d1", "d2"]), QUERIES, NUMBERED)
        assert reranker.stats.unread == 1 and len(server.bodies) == 2


def test_a_model_that_thinks_first_is_told_from_one_that_answers(tmp_path):
    said = r"of 2 answers none begins with yes or no; the last was '<think>'"
    thinks = logprobs_answer({"<think>": -0.1, "Okay": -3.0})
    with serve_replies(lambda *_: thinks) as url, pytest.raises(InputError, match=said):
        LLMReranker(_llm(url, tmp_path)).score(_pairs(["d1", "d2"]), QUERIES, NUMBERED)


def test_windows_raise_the_best_from_the_bottom_to_the_top(tmp_path):
    server = Server(rank=lambda order: " > ".join(f"[{n}]" for n in order))
    with serve_replies(server) as url:
        reranker = LLMReranker(_llm(url, tmp_path), "llm:listwise")
        scores = reranker.score(_pairs(NUMBERED, ("q", "r")), QUERIES, NUMBERED)  # the worst are first
    best = sorted(NUMBERED, key=lambda i: -scores["q", i])
    assert best[:10] == [f"d{n}" for n in range(34, 24, -1)]  # as many as the windows overlap
    assert sorted(scores["q", i] for i in NUMBERED) == [float(n) for n in range(35)]
    assert len(server.bodies) == 6 == reranker.stats.answers and reranker.stats.mended == 0
    asked = server.bodies[0]
    schema = asked["response_format"]["json_schema"]["schema"]["properties"]["ranking"]
    assert schema["minItems"] == schema["maxItems"] == schema["items"]["maximum"] == 20
    assert re.findall(r"^\[(\d+)\]", asked["messages"][0]["content"], re.M) == [str(n) for n in range(1, 21)]


def test_malformed_orders_are_mended_and_counted_and_unreadable_ones_change_nothing(tmp_path):
    corpus = {i: NUMBERED[i] for i in ("d1", "d2", "d3")}
    queries = {q: Query(q, q) for q in ("good", "repeats", "chats")}
    broken = {"Query: repeats": chat_answer("[3] > [3] > [8]"), "Query: chats": chat_answer("I cannot rank these.")}
    warnings = []
    with serve_replies(Server(broken=broken)) as url:
        reranker = LLMReranker(_llm(url, tmp_path), "llm:listwise", warn=warnings.append)
        scores = reranker.score(_pairs(corpus, queries), queries, corpus)
    order = {q: sorted(corpus, key=lambda i, q=q: -scores[q, i]) for q in queries}
    assert order == {"good": ["d3", "d2", "d1"], "repeats": ["d3", "d1", "d2"], "chats": ["d1", "d2", "d3"]}
    assert (reranker.stats.answers, reranker.stats.unread, reranker.stats.mended) == (3, 1, 1)
    assert warnings == [
        "llm:listwise: 1 of 3 answers say nothing (these documents stay in their order),"
        " 1 of 3 name a document twice or not at all (mended)."
    ]
    assert (
        "1 of 3 answers say nothing" in reranker.sentence() and "33 tokens of prompts and 15 of" in reranker.sentence()
    )
    with serve_replies(lambda *_: chat_answer("I cannot rank these.")) as url:
        fresh = LLM(url, model="other", journal=tmp_path / "answers.sqlite")
        with pytest.raises(InputError, match=r"of 3 answers none has an order; the last was 'I cannot rank these\.'"):
            LLMReranker(fresh, "llm:listwise").score(_pairs(corpus, queries), queries, corpus)


def test_one_document_is_in_order_without_a_question(tmp_path):
    with serve_replies(lambda *_: pytest.fail("asked")) as url:
        reranker = LLMReranker(_llm(url, tmp_path), "llm:listwise")
        assert reranker.score(_pairs(["d1"]), QUERIES, NUMBERED) == {("q", "d1"): 0.0}
        assert reranker.score([], QUERIES, NUMBERED) == {}


def test_the_budget_stops_both_ways_together_and_what_was_paid_for_is_kept(tmp_path):
    server, prices = Server(), Prices(input=Decimal(1000), output=Decimal(1000))
    pairs = _pairs([f"d{n}" for n in range(10)])
    with serve_replies(server) as url:
        # 0.016 an answer; nothing is sent that might cost more than is left: a prompt of 137 bytes is 0.2 at most
        low = _llm(url, tmp_path, prices=prices, budget="0.28", concurrency=1)
        with pytest.raises(
            InputError, match=r"llm\.budget: \d of 10 questions of llm were not asked \(0\.\d\d USD spent"
        ):
            llm_scorers(low)["llm"].score(pairs, QUERIES, NUMBERED)
        paid = len(server.bodies)
        assert 0 < paid < 10 and len(Journal(low.journal)) == paid
        enough = llm_scorers(_llm(url, tmp_path, prices=prices, budget="0.5", concurrency=1))
        enough["llm"].score(pairs, QUERIES, NUMBERED)
        assert len(server.bodies) == 10 and enough["llm"].stats.from_journal == paid
        assert enough["llm"].spending.spent == Decimal("0.16")
        enough["llm"].score(pairs, QUERIES, NUMBERED)  # nothing is counted twice
        assert enough["llm"].spending.spent == Decimal("0.16") == enough["llm:listwise"].spending.spent
        assert enough["llm"].sentence().endswith("s; 0.16 USD spent of 0.50 USD.")
        with pytest.raises(InputError, match="1 of 1 questions of llm:listwise were not asked"):
            enough["llm:listwise"].score(pairs, QUERIES, NUMBERED)


def test_an_outage_in_the_middle_stops_it_and_the_next_run_asks_for_the_rest(tmp_path):
    pairs = _pairs([f"d{n}" for n in range(6)])
    down = Server(broken={"worth 4 points": (500, {}, b"{}")})
    with serve_replies(down) as url, pytest.raises(InputError, match="1 of 6 requests failed"):
        LLMReranker(_llm(url, tmp_path)).score(pairs, QUERIES, NUMBERED)
    server = Server()
    with serve_replies(server) as url:
        reranker = LLMReranker(_llm(url, tmp_path))
        assert len(reranker.score(pairs, QUERIES, NUMBERED)) == 6
    assert len(server.bodies) == 1 and reranker.stats.from_journal == 5


def test_old_journals_are_read_and_answers_without_logprobs_are_written_as_before(tmp_path):
    journal = Journal(tmp_path / "answers.sqlite")
    request = Request("p", chat=True)
    with serve_replies(lambda *_: chat_answer("new")) as url, _llm(url, tmp_path).open() as client:
        key = journal.key({"model": "m"} | request.identity())
        old = {"text": "old", "finish_reason": "stop", "prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 1}
        journal.put(key, old | {"seconds": 0.1, "error": ""})
        assert client.ask([request])[0].text == "old" and client.known(request).first_token is None
        other = Request("another", chat=True)
        client.ask([other])
        stored = journal.get(journal.key({"model": "m"} | other.identity()))
    assert set(stored) == {*old, "seconds", "error"}


def test_an_estimate_counts_prompts_windows_and_answers():
    scorers = llm_scorers(LLMSettings(base_url="http://localhost:1/v1", model="m"))
    documents = list(NUMBERED.values())

    def count(text):
        return len(text.split())

    one = scorers["llm"].estimate(10, 30, documents, count)
    assert (one.strategy, one.calls, one.completion_tokens, one.max_tokens) == ("llm", 300, 1, 1)
    assert one.prompt_tokens == 1 + 5 + 1 + 5 + 16  # labels, document, query, the question
    listwise = scorers["llm:listwise"].estimate(10, 30, documents, count)
    assert (listwise.strategy, listwise.calls, listwise.max_tokens) == ("llm:listwise", 20, 200)
    assert listwise.prompt_tokens > 20 * 6 and listwise.completion_tokens == 21
    assert scorers["llm:listwise"].estimate(10, 5, documents, count).calls == 10
    assert scorers["llm"].estimate(10, 30, [], count).prompt_tokens == 0


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="step: it must be smaller than window"):
        LLMRerankerSettings(window=10, step=10)


def test_models_without_an_llm_say_what_is_missing(corpus):
    with pytest.raises(InputError, match=r"no LLM is given, and the scorer llm asks one"):
        Models().score("llm", [("q", "bread")], QUERIES, corpus)


def test_a_mixture_shows_the_llm_what_the_rest_of_it_ranks_first(corpus, tmp_path):
    seen = []

    def reply(path, body, headers):
        seen.append(body["messages"][0]["content"])
        return chat_answer('{"ranking": [2, 1, 3]}')

    with serve_replies(reply) as url:
        models = Models(scorers=llm_scorers(_llm(url, tmp_path)))
        pairs = _pairs(["chess", "glacier", "volcano"])
        scores = models.score(
            {"llm:listwise": 1.0, "bm25": 0.1}, pairs, {"q": Query("q", "ice flows downhill")}, corpus
        )
    assert seen[0].startswith("[1] How glaciers move")  # the third of the pairs' first ones by BM25
    assert max(scores, key=scores.get) != ("q", "glacier") and set(scores) == set(pairs)
