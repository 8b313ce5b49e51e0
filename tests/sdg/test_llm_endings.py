"""Which errors end a run, how soon, and what is said then."""

import json
import socket
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from sharpen.evaluation.files import InputError
from sharpen.sdg.llm import endpoints
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import EndpointSettings, Request
from sharpen.sdg.llm.servers import Kind, address_of, kind_of, likely_base_url
from sharpen.sdg.llm.settings import LLM, LLMSettings
from tests.servers import chat_answer, serve_replies

SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(endpoints, "_pause", lambda _state: 0.01)


def _client(base_url, tmp_path, **settings):
    endpoint = EndpointSettings(base_url, SECRET, "m", settings.pop("max_concurrency", 1))
    return LLMClient([endpoint], Journal(tmp_path / "j.sqlite"), **({"timeout": 2} | settings))


def _requests(count):
    return [Request(f"prompt {n}", chat=True) for n in range(count)]


def _error(status, message, headers=None, **more):
    return status, headers or {}, json.dumps({"error": {"message": message, **more}}).encode()


QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    "reply",
    [
        _error(429, QUOTA, code="insufficient_quota", type="insufficient_quota"),
        _error(400, "Billing hard limit has been reached", code="billing_hard_limit_reached"),
        _error(402, "Insufficient credits. Add more."),
        _error(402, "Insufficient Balance"),
        _error(200, "Insufficient credits", code=402),
    ],
)
def test_an_empty_account_ends_the_run_at_once_and_what_was_answered_is_kept(reply, tmp_path):
    asked = []

    def serve(path, body, headers):
        asked.append(body["messages"][0]["content"])
        return chat_answer("yes") if len(asked) < 3 else reply

    with serve_replies(serve) as url:
        llm = _client(url, tmp_path)
        with pytest.raises(InputError, match=r"no money left.*What was answered is kept"):
            llm.ask(_requests(9))
        assert len(asked) == 3 and len(llm.journal) == 2


@pytest.mark.parametrize("date", [False, True])
def test_a_server_that_wants_to_be_left_alone_for_hours_ends_the_run_and_says_until_when(date, tmp_path):
    until = datetime.now(UTC) + timedelta(hours=14)
    value = f"{until:%a, %d %b %Y %H:%M:%S GMT}" if date else str(14 * 3600)
    with serve_replies(lambda *_: _error(429, "daily limit", {"Retry-After": value})) as url:
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"until {until:%Y-%m-%d} \d\d:\d\d UTC, in 14.0 hours.*daily limit"):
            _client(url, tmp_path).ask(_requests(3))
    assert time.monotonic() - started < 5


def test_another_endpoint_goes_on_where_one_wants_to_be_left_alone(tmp_path):
    with (
        serve_replies(lambda *_: _error(429, "x", {"Retry-After": "99999"})) as busy,
        serve_replies(lambda *_: chat_answer("yes")) as other,
    ):
        ends = [EndpointSettings(url, "k", "m", 2) for url in (busy, other)]
        answers = LLMClient(ends, Journal(tmp_path / "j.sqlite")).ask(_requests(20))
    assert all(answer.text == "yes" for answer in answers)


def test_where_nobody_listens_it_is_said_soon_whatever_the_number_of_retries(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoints, "PATIENCE", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(InputError, match=r"cannot reach .*Is the server running\? Check llm.base_url"):
        _client(f"http://127.0.0.1:{port}/v1", tmp_path, max_concurrency=32, max_retries=10_000).ask(_requests(300))
    assert time.monotonic() - started < 10


def test_a_server_that_starts_again_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoints, "_pause", lambda _state: 0.2)
    monkeypatch.setattr(endpoints, "MOMENT", 0.1)
    started = time.monotonic()
    down = []

    def serve(path, body, headers):
        if body["messages"][0]["content"] != "prompt 0" and time.monotonic() - started < 1.5:
            down.append(1)
            return 0, {}, b""
        return chat_answer("yes")

    with serve_replies(serve) as url:
        answers = _client(url, tmp_path, max_retries=1).ask(_requests(3))
    assert [a.text for a in answers] == ["yes"] * 3 and len(down) > 2


def test_a_request_that_a_server_always_hangs_up_on_does_not_end_the_run_of_others(tmp_path):
    def serve(path, body, headers):
        time.sleep(0.01)
        return (0, {}, b"") if body["messages"][0]["content"] == "prompt 3" else chat_answer("yes")

    with serve_replies(serve) as url:
        answers = _client(url, tmp_path, max_retries=2, max_concurrency=4).ask(_requests(60))
    assert [n for n, a in enumerate(answers) if a.error] == [3] and answers[3].failed


@pytest.mark.parametrize(("count", "asked"), [(1, 1), (3, 3), (60, 10)])
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (_error(403, "no access"), "refuses the request for model 'm', and every other one: 403 no access"),
        (
            (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Sign in</title>"),
            r"answers with a web page \('Sign in'\), as a login page",
        ),
    ],
)
def test_what_turns_every_request_away_ends_the_run(count, asked, reply, message, tmp_path):
    seen = []
    with (
        serve_replies(lambda *_: seen.append(1) or reply) as url,
        pytest.raises(InputError, match=message),
    ):
        _client(url, tmp_path).ask(_requests(count))
    assert len(seen) == asked


def test_a_key_that_is_revoked_in_the_midst_ends_the_run_and_a_flagged_document_does_not(tmp_path):
    def serve(path, body, headers):
        number = int(body["messages"][0]["content"].split()[1])
        return _error(403, "no") if number == 5 or number > 20 else chat_answer("yes")

    with serve_replies(serve) as url:
        llm = _client(url, tmp_path)
        answers = llm.ask(_requests(10))
        assert [a.error_kind for a in answers if a.error] == [Kind.REFUSED] and not any(a.failed for a in answers)
        again = llm.ask(_requests(10))  # all but that one from the journal
        assert [a.error_kind for a in again if a.error] == [Kind.REFUSED]
        with pytest.raises(InputError, match="every other one"):
            llm.ask(_requests(60))


@pytest.mark.parametrize(
    ("path", "reply", "message"),
    [
        ("", (404, {}, b'{"detail":"Not Found"}'), r"nothing at this address.*Should llm.base_url be http://.*/v1\?"),
        ("", (404, {"Content-Type": "text/plain"}, b"404 page not found"), r"Should llm.base_url be http://.*/v1\?"),
        ("/api", (404, {}, b"404 page not found"), r"Should llm.base_url be http://[^/]*/v1\?"),
        ("", _error(404, "File Not Found", type="not_found_error", code=404), r"Should llm.base_url be .*/v1\?"),
        ("", (200, {}, b'{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'), "Should llm.base_url"),
        ("", (404, {}, b"<html>nginx</html>"), "Should llm.base_url be"),
        ("", (405, {}, b'{"detail":"Method Not Allowed"}'), "Should llm.base_url be"),
        (
            "",
            (200, {}, b"<html><title>LLM UI</title></html>"),
            r"a web page \('LLM UI'\).*Should llm.base_url be .*/v1\?",
        ),
        ("/v1", _error(404, "The model `m` does not exist.", type="NotFoundError"), "model 'm'.*Check llm.model"),
        ("/v1", _error(404, 'model "m" not found, try pulling it first'), "model 'm'.*Check llm.model"),
        ("/v1", _error(401, f"Incorrect API key provided: {SECRET}"), r"provided: \[key\].*llm.api_key_env"),
        ("/v1", (407, {}, b"<html>"), "the proxy in front of .* wants a login"),
    ],
)
def test_messages_name_what_is_wrong(path, reply, message, tmp_path):
    with serve_replies(lambda *_: reply) as url:
        client = _client(url.removesuffix("/v1") + path, tmp_path)
        with pytest.raises(InputError, match=message) as caught:
            client.ask(_requests(2))
    assert SECRET not in str(caught.value) + repr(client) + repr(client.endpoints)


def test_a_mended_server_is_asked_again_where_it_said_nothing(tmp_path):
    seen = []

    def serve(path, body, headers):
        seen.append(body["messages"][0]["content"])
        return chat_answer("" if len(seen) <= 2 else "yes")

    with serve_replies(serve) as url:
        client = _client(url, tmp_path)
        assert [a.text for a in client.ask(_requests(2))] == ["", ""]
        assert [a.text for a in client.ask(_requests(2))] == ["", ""] and len(seen) == 2  # not without end
        assert [a.text for a in _client(url, tmp_path).ask(_requests(2))] == ["yes", "yes"]
        assert [a.text for a in _client(url, tmp_path).ask(_requests(2))] == ["yes", "yes"] and len(seen) == 4


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.1,localhost"])
def test_this_machine_is_reached_through_no_proxy_and_a_socks_proxy_needs_its_package(no_proxy, tmp_path, monkeypatch):
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"socks5://me:{SECRET}@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, no_proxy)
    with serve_replies(lambda *_: chat_answer("yes")) as url:
        assert _client(url, tmp_path).ask(_requests(1))[0].text == "yes"
    with pytest.raises(InputError, match=r"ALL_PROXY\).*pip install.*llm.invalid into NO_PROXY") as caught:
        _client("http://llm.invalid/v1", tmp_path).ask(_requests(2))
    assert SECRET not in str(caught.value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "llm.invalid")
    with pytest.raises(InputError, match=r"cannot reach http://llm\.invalid/v1"):
        _client("http://llm.invalid/v1", tmp_path, max_retries=0).ask(_requests(2))


def test_base_urls_are_read_as_people_write_them():
    assert address_of("http://h:1/v1/completions/").base_url == address_of("http://h:1/v1").base_url == "http://h:1/v1"
    azure = address_of("https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2025-01-01")
    assert (azure.base_url, azure.query, azure.key_header) == (
        "https://x.openai.azure.com/openai/deployments/d",
        {"api-version": "2025-01-01"},
        "api-key",
    )
    assert address_of("https://x.openai.azure.com/openai/v1").query == {}
    assert likely_base_url("https://openrouter.ai") == "https://openrouter.ai/api/v1"
    assert likely_base_url("https://x.openai.azure.com") == "https://x.openai.azure.com/openai/v1"
    assert likely_base_url("https://generativelanguage.googleapis.com/v1beta/openai") == ""
    for wrong in ("localhost:8000/v1", "ftp://host/v1", "/v1", "http://"):
        with pytest.raises(ValueError, match="must begin with http"):
            LLMSettings(base_url=wrong, model="m")
        with pytest.raises(ValueError, match="must begin with http"):
            LLMSettings(endpoints=[{"base_url": wrong}], model="m")


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (429, "You exceeded your current quota. Please retry in 12 s.", Kind.PASSING),  # Gemini's, of a minute
        (400, "This model's maximum context length is 8192 tokens", Kind.TOO_LONG),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096", Kind.TOO_LONG),
        (400, "The number of tokens to keep from the initial prompt is greater than the context length", Kind.TOO_LONG),
        (413, "", Kind.TOO_LONG),
        (500, "CUDA error", Kind.PASSING),
        (400, "bad request", Kind.OTHER),
    ],
)
def test_the_kind_of_an_error(status, said, kind):
    assert kind_of(status, said) is kind


def test_extra_body_goes_into_every_request_and_into_the_journals_key_only_where_it_is_given(tmp_path):
    bodies = []

    def serve(path, body, headers):
        bodies.append(body)
        return chat_answer(f"answer {len(bodies)}")

    request = Request("p", chat=True, parameters={"max_tokens": 5, "extra_body": {"min_p": 0.1}})
    with serve_replies(serve) as url:
        settings = LLMSettings(base_url=url, model="m")
        given = {"chat_template_kwargs": {"enable_thinking": False}, "min_p": 0.5, "max_completion_tokens": 900}
        more = settings.model_copy(update={"extra_body": given})
        texts = []
        for s in (settings, more, settings, more):
            with LLM(settings=s, journal=tmp_path / "j.sqlite").open() as client:
                texts.append(client.ask([request])[0].text)
    assert texts == ["answer 1", "answer 2"] * 2
    assert {k: v for k, v in bodies[1].items() if k not in ("model", "messages")} == given | {"min_p": 0.1}
    assert settings.fingerprint() == ["m", True, None] and more.fingerprint() == ["m", True, None, given]
    assert Journal.key({"model": "m", **request.identity()}) == LLMClient([], Journal(tmp_path / "j.sqlite"), "m").key(
        request
    )
