import asyncio
import json
import multiprocessing
import os
import platform
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from sharpen.evaluation.files import InputError
from sharpen.evaluation.packaged_llms import locate_llm
from sharpen.sdg.llm.budget import Prices, Spending
from sharpen.sdg.llm.client import LLMClient, api_key_from
from sharpen.sdg.llm.embedded import serve
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import MAX_ANSWER_CHARACTERS, Answer, EndpointSettings, Request
from sharpen.sdg.llm.settings import LLM, LLMSettings, opened
from sharpen.sdg.resources import Resources
from tests.servers import chat_answer, serve_replies


def _llm(base_url, tmp_path, api_key="secret", **settings):
    endpoint = {name: settings.pop(name) for name in ("max_concurrency", "local") if name in settings}
    return LLMClient(
        [EndpointSettings(base_url, api_key, "m", **endpoint)],
        Journal(tmp_path / "journal.sqlite"),
        **({"timeout": 2, "max_retries": 2} | settings),
    )


def test_trouble_that_passes_is_waited_out_and_answers_are_asked_for_once(tmp_path):
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def reply(path, body, headers):
        prompt = body["messages"][0]["content"]
        assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
        with lock:
            seen[prompt] += 1
            first = seen[prompt] == 1
        if first and prompt.endswith("1"):
            return 429, {"Retry-After": "0.2"}, b"{}"
        if first and prompt.endswith("2"):
            return 500, {}, b"{}"
        if first and prompt.endswith("3"):
            return 0, {}, b""
        return chat_answer(f"about {prompt}")

    requests = [Request(f"prompt {n}", chat=True, parameters={"seed": n}) for n in range(40)]
    with serve_replies(reply) as base_url:
        llm = _llm(base_url, tmp_path)
        answers = llm.ask(requests)
        assert [a.text for a in answers] == [f"about prompt {n}" for n in range(40)]
        assert (answers[0].prompt_tokens, answers[0].cached_tokens, answers[0].completion_tokens) == (11, 4, 5)
        assert set(seen.values()) == {1, 2}
        asked = seen.total()
        again = _llm(base_url, tmp_path, max_concurrency=1).ask(requests)
    assert seen.total() == asked
    assert [a.text for a in again] == [a.text for a in answers] and all(a.from_journal for a in again)


def test_two_programs_with_one_journal_ask_for_an_answer_once(tmp_path):
    seen: Counter[str] = Counter()
    both = threading.Barrier(2)

    def reply(path, body, headers):
        seen[body["messages"][0]["content"]] += 1
        time.sleep(0.02)
        return chat_answer(f"about {body['messages'][0]['content']}")

    requests = [Request(f"prompt {n}", chat=True) for n in range(30)]
    said = []

    def program(base_url):
        llm = _llm(base_url, tmp_path, max_concurrency=4, say=said.append)
        both.wait()
        return [answer.text for answer in llm.ask(requests)]

    # who was killed with a claim in hand has lost it, whoever has its number now, as has anybody after an hour
    ended = multiprocessing.get_context("spawn").Process(target=str)
    ended.start()
    ended.join()
    with closing(Journal(tmp_path / "journal.sqlite")) as journal, serve_replies(reply) as base_url:
        keys = [_llm(base_url, tmp_path).key(request) for request in requests]
        here, restarted = platform.node(), (os.getpid(), psutil.Process().create_time() - 10)
        lost = ((keys[0], here, ended.pid, time.time()), (keys[1], "far", 1, 0.0), (keys[2], here, *restarted))
        for key, host, pid, at in lost:
            journal._claims.execute("INSERT INTO claims VALUES (?, 'other', ?, ?, ?)", (key, host, pid, at))
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(program, [base_url] * 2))
        assert answers[0] == answers[1] == [f"about prompt {n}" for n in range(30)]
        assert set(seen.values()) == {1} and any("another program asks m" in sentence for sentence in said)
        assert not journal._claims.execute("SELECT count(*) FROM claims").fetchone()[0]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "broken off"),
        (b"\xff", "broken off"),
        (b'{"choices": [{"mess', "broken off"),
        (b'data: {"choices": [{"delta": {"content": "but"}}]}\n\n', "broken off"),
        (b"[]", "not a completion"),
        (b'{"choices": []}', "not a completion"),
        (b'{"choices": [{"message": null}]}', "not a completion"),
    ],
)
def test_garbage_is_an_answer_with_an_error_that_is_not_kept(tmp_path, content, kind):
    with serve_replies(lambda *_: (200, {}, content)) as base_url:
        llm = _llm(base_url, tmp_path, max_retries=0)
        answers = llm.ask([Request("p", chat=True)])
    assert answers[0].error_kind == kind and not answers[0].text
    assert answers[0].failed is (kind == "broken off")  # what is of another shape will be so again
    assert len(llm.journal) == 0


def test_a_connection_that_did_not_come_about_in_time_may_another_time():
    assert Answer("", error="APITimeoutError: connect").failed and not Answer("", error="BadRequestError: no").failed


def test_a_server_that_knows_no_schemas_is_asked_without(tmp_path):
    bodies = []

    def reply(path, body, headers):
        bodies.append(body)
        if "response_format" in body:
            return 400, {}, json.dumps({"error": {"message": "'response_format.type' must be 'text'"}}).encode()
        if body["messages"][0]["content"] == "too long":
            return (
                400,
                {},
                json.dumps({"error": {"message": "the prompt, of which the grammar is a part, is too long"}}).encode(),
            )
        return chat_answer('{"queries": ["x y"]}')

    held = {"response_format": {"type": "json_schema", "json_schema": {"name": "q", "schema": {"type": "object"}}}}
    with serve_replies(reply) as url:
        llm = _llm(url, tmp_path, max_concurrency=1)
        answers = llm.ask([Request("one", True, held), Request("two", True, held), Request("too long", True, held)])
    assert [a.error.partition(":")[0] for a in answers] == ["", "", "BadRequestError"]
    assert ["response_format" in body for body in bodies] == [True, False, False, False]  # told once, it is known


def test_a_local_server_is_reached_past_the_proxies(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    seen = []

    def reply(path, body, headers):
        seen.append(headers)
        return chat_answer("yes")

    with serve_replies(reply) as base_url:
        assert _llm(base_url, tmp_path).ask([Request("p", chat=True)])[0].text == "yes"
        assert "OpenAI-Organization" not in seen[0]
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://me:secret@127.0.0.1:9")
    with pytest.raises(InputError, match=r"through the proxy http://127\.0\.0\.1:9 .*NO_PROXY") as caught:
        _llm("http://llm.invalid/v1", tmp_path, max_retries=0).ask([Request("another", chat=True)])
    assert "secret" not in str(caught.value)


def test_keys_are_trimmed_and_never_shown(monkeypatch):
    monkeypatch.setenv("TEST_KEY", " sk-very-secret\r\n")
    assert api_key_from("TEST_KEY") == "sk-very-secret"
    for bad in ("", "sk-very\nsecret", "sk-vérysecret"):
        monkeypatch.setenv("TEST_KEY", bad)
        with pytest.raises(InputError, match="TEST_KEY") as caught:
            api_key_from("TEST_KEY")
        assert "secret" not in str(caught.value)


def test_half_a_character_is_kept_as_a_question_mark(tmp_path):
    body = b'{"choices": [{"message": {"role": "assistant", "content": "a \\ud83d"}, "finish_reason": "length"}]}'
    with serve_replies(lambda *_: (200, {}, body)) as base_url:
        llm = _llm(base_url, tmp_path)
        assert llm.ask([Request("p", chat=True)])[0].text == "a ?" == llm.ask([Request("p", chat=True)])[0].text


def test_a_stall_beyond_the_timeout_is_an_error_of_that_request(tmp_path):
    def reply(path, body, headers):
        if "slow" in body["messages"][0]["content"]:
            threading.Event().wait(1.5)
        return chat_answer("quick")

    with serve_replies(reply) as base_url:
        answers = _llm(base_url, tmp_path, timeout=0.3, max_retries=1).ask(
            [Request("slow", chat=True), Request("fast", chat=True)]
        )
    assert answers[0].error.startswith("timeout") and answers[1].text == "quick"


def test_what_timed_out_is_counted_at_its_worst_and_tried_again_only_within_the_budget(tmp_path):
    asked = []

    def reply(path, body, headers):
        asked.append(body)
        threading.Event().wait(0.6)
        return chat_answer("late")

    request = Request("slow", chat=True, parameters={"max_tokens": 32})  # 68 + 32 tokens at most
    prices = Prices(input=Decimal(1000), output=Decimal(1000))
    with serve_replies(reply) as base_url:
        spending = Spending(prices, Decimal("0.25"))
        (answer,) = _llm(base_url, tmp_path, timeout=0.2, max_retries=5, spending=spending).ask([request])
    assert len(asked) == 2 and spending.spent == Decimal("0.2") and spending.purse.reserved == 0
    assert answer.error.startswith("timeout") and "Another try could go over the budget" in answer.error


def test_all_that_ask_an_llm_share_its_budget(tmp_path):
    prices = Prices(input=Decimal(1000), output=Decimal(1000))  # 0.016 an answer, 0.1 at most
    with serve_replies(lambda *_: chat_answer("yes")) as base_url:
        here = {"base_url": base_url, "model": "m", "prices": prices}
        resources = Resources(llm=LLMSettings(**here, budget="0.12"), journal=tmp_path / "j.sqlite")
        one, two, three = (Request(f"p{n}", chat=True, parameters={"max_tokens": 34}) for n in range(3))
        with resources.open_llm() as first:
            assert not any(answer.error for answer in first.ask([one, one, two]))
        with replace(resources).open_llm(LLMSettings(**here, budget="0.120")) as second:
            known, new = second.ask([two, three])
        assert not known.error and new.error.startswith("over budget: 0.02 USD spent here, 0.03 USD of 0.12 USD in all")
        assert resources.taken()["m, 0.12 USD"]["money"] == Decimal("0.032")
        with resources.open_llm(LLMSettings(**here, budget="1")) as other:  # it has its own
            assert not other.ask([three])[0].error
        resources.count_spent({"m, 1 USD": "0.95"})
        with resources.open_llm(LLMSettings(**here, budget="1")) as other:
            assert other.ask([replace(three, prompt="p4")])[0].error.startswith("over budget")


def test_an_unreachable_endpoint_and_a_refused_key_end_the_run_and_keep_what_was_answered(tmp_path):
    with serve_replies(
        lambda path, body, headers: (
            chat_answer("ok")
            if body["messages"][0]["content"] == "first"
            else (401, {}, b'{"error": {"message": "bad key"}}')
        )
    ) as base_url:
        llm = _llm(base_url, tmp_path, max_concurrency=1)
        with pytest.raises(InputError, match=r"refuses the request for model 'm'.*llm\.api_key_env"):
            llm.ask([Request("first", chat=True), Request("second", chat=True)])
    assert llm.known(Request("first", chat=True)) and not llm.known(Request("second", chat=True))
    with pytest.raises(InputError, match=r"cannot reach http://127\.0\.0\.1.*after 1 retries.*llm\.base_url"):
        _llm(base_url, tmp_path, max_retries=1).ask([Request("third", chat=True)])


def test_an_api_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "k")
    assert api_key_from("SOME_KEY") == "k" and api_key_from(None) == "-"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY is not set"):
        api_key_from("SOME_KEY")


@pytest.mark.slow
def test_embedded_models_answer_and_do_not_depend_on_what_came_before(tmp_path):
    prefix = "Questions and answers.\n\n" + "".join(
        f"Document {n}: The {w} is a kind of {k}.\nQuery {n}: what is a {w}\n\n"
        for n, (w, k) in enumerate([("oak", "tree"), ("cod", "fish"), ("ant", "insect")], 1)
    )
    requests = [
        Request(
            f"{prefix}Document {4 + n % 2}: The {w} is a kind of {k}.\nQuery {4 + n % 2}:",
            parameters={"max_tokens": 12, "temperature": 0.8, "seed": n, "stop": ["\n"]},
        )
        for n, (w, k) in enumerate(
            [("robin", "bird"), ("violin", "instrument"), ("quartz", "mineral"), ("Danube", "river")] * 3
        )
    ]
    warm_up = Request(f"{prefix}Document 3:", parameters={"max_tokens": 1})
    texts = []
    with serve(locate_llm("gemma-3-270m")) as endpoint:
        assert endpoint.base_url.startswith("http://127.0.0.1:")
        for start in (0, 7):  # all in one go; then, as after a kill, only the later ones
            llm = LLMClient(
                [EndpointSettings(endpoint.base_url, endpoint.api_key, "embedded", 1)],
                Journal(tmp_path / f"{start}.sqlite"),
            )
            llm.ask([Request("something else entirely", parameters={"max_tokens": 4})])
            answers = llm.ask([replace(requests[start], warm_up=warm_up), *requests[start + 1 :]])
            texts.append([a.text for a in answers])
            assert answers[-1].cached_tokens > 20
        with pytest.raises(InputError, match="refuses"):
            LLMClient(
                [EndpointSettings(endpoint.base_url, "wrong key", "embedded")], Journal(tmp_path / "x.sqlite")
            ).ask(requests[:1])
    assert texts[0][7:] == texts[1]
    assert len(set(texts[0])) > 4


def test_a_chat_model_answers_by_chat(tmp_path):
    with serve(locate_llm("smollm2-135m-instruct")) as endpoint:
        llm = LLMClient(
            [EndpointSettings(endpoint.base_url, endpoint.api_key, "embedded", 1)], Journal(tmp_path / "j.sqlite")
        )
        answer = llm.ask(
            [
                Request(
                    "What is the capital of France? Answer with one word.",
                    chat=True,
                    parameters={"temperature": 0, "max_tokens": 12},
                )
            ]
        )[0]
    assert "Paris" in answer.text and answer.completion_tokens > 0


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match="did not start"), serve(tmp_path / "broken.gguf"):
        pass
    with pytest.raises(InputError, match="no packaged LLM"):
        locate_llm("gpt-9")


def _trouble(number: int, tries: int) -> tuple[int, dict[str, str], bytes]:
    """What a bad day of a server does to one in ten requests each."""
    usage = '"usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}'

    def body(text):
        return (
            200,
            {},
            f'{{"choices": [{{"text": "{text}", "finish_reason": "stop"}}], {usage}}}'.encode(),
        )

    match number % 10:
        case 0 if tries == 1 and number < 200:
            return 429, {"Retry-After": "0.05"}, b"{}"
        case 1 if tries == 1:
            return 500, {}, b"{}"
        case 2 if tries == 1:
            return 0, {}, b""
        case 3 if tries == 1 and number < 200:
            threading.Event().wait(1.2)
        case 4 if tries == 1:
            return 200, {}, body("cut")[2][:30]
        case 5:
            return 200, {}, b'{"choices": "none", "object": 7}'
        case 6:
            return body("")
        case 7:
            return body("the same")
        case 8:
            return body("x" * 2**20)
    return body(f"about {number}")


@pytest.mark.slow
def test_on_a_servers_bad_day_every_request_is_accounted_for_and_none_is_paid_twice(tmp_path):
    asked: Counter[int] = Counter()
    lock = threading.Lock()

    def reply(path, body, headers):
        number = int(body["prompt"])
        with lock:
            asked[number] += 1
            tries = asked[number]
        return _trouble(number, tries)

    memory = []

    def use(number, request, answer):
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
        return answer

    requests = [Request(str(n), parameters={"max_tokens": 10}) for n in range(1000)]
    prices = Prices(input=Decimal(1000), output=Decimal(2000))  # 0.04 an answer
    with serve_replies(reply) as base_url:
        settings = {"max_concurrency": 16, "timeout": 0.6, "max_retries": 4}
        spending = Spending(prices, Decimal("20.00"))
        first = _llm(base_url, tmp_path, spending=spending, **settings).ask(requests)
        # 0.04 an answer, and no request is sent that might cost more than what is left: 64 + 3 tokens and 10 are 0.087
        over = [a for a in first if a.error.startswith("over budget")]
        paid = [a for a in first if not a.error]
        lost = spending.spent - Decimal("0.04") * len(paid)  # what timed out, at 66 or 67 + 2 x 10 tokens
        assert spending.spent <= 20 and 0 <= lost <= 20 * Decimal("0.087") and len(paid) >= 455
        assert len(over) + len(paid) + sum(a.error.startswith("not a completion") for a in first) == 1000
        before = asked.copy()
        spending = Spending(prices, Decimal("36.50"))
        second = _llm(base_url, tmp_path, spending=spending, **settings).ask(requests, use)
        assert not [n for n, a in enumerate(first) if a.text and asked[n] != before[n]]
        assert spending.spent == Decimal("36.00") and not any(a.error.startswith("over") for a in second)
        asked_until_now = asked.total()
        third = _llm(base_url, tmp_path, **settings).ask([r for n, r in enumerate(requests) if n % 10 not in (5, 6)])
    assert asked.total() == asked_until_now and all(a.from_journal for a in third)
    for number, answer in enumerate(second):
        match number % 10:
            case 5:
                assert answer.error.startswith("not a completion") and asked[number] <= 4
            case 6:
                assert answer.text == "" and not answer.error
            case 7:
                assert answer.text == "the same"
            case 8:
                assert answer.finish_reason == "length" and len(answer.text) == MAX_ANSWER_CHARACTERS
            case _:
                assert answer.text == f"about {number}" or (number % 10 == 4 and answer.text == "cut")
    assert max(memory[500:]) < max(memory[:500]) + 40


def test_the_same_request_many_times_is_asked_once_or_until_it_is_answered(tmp_path):
    asked = []

    def reply(path, body, headers):
        asked.append(body["messages"][0]["content"])
        return (400, {}, b"{}") if asked[-1] == "bad" or asked.count("late") < 3 else chat_answer("yes")

    with serve_replies(reply) as base_url:
        answers = _llm(base_url, tmp_path).ask([Request(text, chat=True) for text in ["bad"] * 5 + ["late"] * 6])
    assert all(a.error for a in answers[:5]) and asked.count("bad") == 5
    assert [a.text for a in answers[5:]].count("yes") == 4 and asked.count("late") == 3


def test_where_one_endpoint_is_down_another_does_the_work(tmp_path):
    with serve_replies(lambda *_: chat_answer("yes")) as base_url:
        endpoints = [EndpointSettings("http://127.0.0.1:9/v1", "k", "m"), EndpointSettings(base_url, "k", "other-name")]
        answers = LLMClient(endpoints, Journal(tmp_path / "j.sqlite"), max_retries=4).ask(
            Request(f"p{n}", chat=True) for n in range(60)
        )
    assert [a.text for a in answers] == ["yes"] * 60


def test_the_number_of_requests_under_way_grows_while_it_pays_and_halves_on_429(tmp_path):
    """A server that works on eight at once, and refuses the twentieth."""
    room, lock = threading.Semaphore(8), threading.Lock()
    under_way, seen = 0, []

    def reply(path, body, headers):
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append(under_way)
            refuse = under_way >= 20
        try:
            if refuse:
                return 429, {}, b"{}"
            with room:
                threading.Event().wait(0.1)
            return chat_answer("yes")
        finally:
            with lock:
                under_way -= 1

    with serve_replies(reply) as base_url:
        answers = _llm(base_url, tmp_path, max_concurrency=64, max_retries=6).ask(
            Request(f"p{n}", chat=True) for n in range(300)
        )
    assert all(a.text == "yes" for a in answers)
    assert max(seen) <= 24 and sorted(seen)[len(seen) // 2] >= 6


def test_an_llm_is_opened_for_a_verb_and_closed_after_it_and_may_be_given_open(tmp_path, monkeypatch):
    asked = []

    def reply(path, body, headers):
        asked.append((body["model"], headers["Authorization"]))
        return chat_answer("yes")

    monkeypatch.setenv("TEST_KEY", "k")
    with serve_replies(reply) as base_url:
        llm = LLM(base_url, model="m", journal=tmp_path / "answers.sqlite")
        with opened(llm) as client:
            assert client.chat and not client.warm_up and client.ask([Request("p", chat=True)])[0].text == "yes"
            with opened(client) as same:
                assert same is client
            assert len(client.journal) == 1  # still open
        with pytest.raises(sqlite3.ProgrammingError):
            len(client.journal)
        settings = LLMSettings(base_url=base_url, model="m", api_key_env="TEST_KEY", chat=False)
        with LLM(settings=settings, journal=tmp_path / "answers.sqlite").open() as client:
            assert not client.chat and client.known(Request("p", chat=True)).text == "yes"
            client.ask([Request("q", chat=True)])
    assert asked == [("m", "Bearer -"), ("m", "Bearer k")]
    with pytest.raises(ValueError, match="give one of embedded, base_url and endpoints"):
        LLM(model="m")
    with pytest.raises(ValueError, match="give settings, or"):
        LLM("http://localhost:1/v1", settings=settings)
    assert Resources(llm=llm).journal == tmp_path / "answers.sqlite" and Resources(llm=llm).llm == llm.settings


def test_a_notebook_whose_loop_is_running_can_ask(tmp_path):
    async def cell(client):
        return client.ask([Request("p", chat=True)])

    with serve_replies(lambda *_: chat_answer("yes")) as base_url:
        answers = asyncio.run(cell(_llm(base_url, tmp_path)))
    assert [a.text for a in answers] == ["yes"]


def test_the_embedded_server_starts_where_folders_of_the_user_have_the_names_of_packages(tmp_path, monkeypatch):
    for name in ("evaluation", "sdg", "xllamacpp", "sharpen", "secrets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the user\\'s own')")
    monkeypatch.chdir(tmp_path)
    with LLM(embedded="gemma-3-270m", journal="a.sqlite").open() as client:
        (answer,) = client.ask([Request("One, two,", parameters={"max_tokens": 3, "temperature": 0})])
    assert client.warm_up and not client.chat and answer.completion_tokens == 3
