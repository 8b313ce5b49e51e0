import threading
from collections import Counter

import pytest

from evaluation.files import InputError
from sdg.embedded import locate_llm, serve
from sdg.journal import Journal
from sdg.llm import LLM, Request, api_key_from
from tests.servers import chat_answer, serve_replies


def _llm(base_url, tmp_path, **settings):
    return LLM(base_url, "secret", "m", Journal(tmp_path / "journal.sqlite"), **({"timeout": 2, "max_retries": 2} | settings))


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
        again = _llm(base_url, tmp_path, concurrency=1).ask(requests)
    assert seen.total() == asked
    assert [a.text for a in again] == [a.text for a in answers] and all(a.from_journal for a in again)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"<html>"])
def test_garbage_is_an_answer_with_an_error_that_is_not_kept(tmp_path, content):
    with serve_replies(lambda *_: (200, {}, content)) as base_url:
        llm = _llm(base_url, tmp_path, max_retries=0)
        answers = llm.ask([Request("p", chat=True)])
    assert answers[0].error.startswith("not a completion") and not answers[0].text
    assert len(llm.journal) == 0


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
        assert _llm(base_url, tmp_path, local=True).ask([Request("p", chat=True)])[0].text == "yes"
        assert "OpenAI-Organization" not in seen[0]
        with pytest.raises(InputError, match="cannot reach"):
            _llm(base_url, tmp_path, max_retries=0).ask([Request("another", chat=True)])


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
        answers = _llm(base_url, tmp_path, timeout=0.3, max_retries=1).ask([Request("slow", chat=True), Request("fast", chat=True)])
    assert answers[0].error.startswith("timeout") and answers[1].text == "quick"


def test_an_unreachable_endpoint_and_a_refused_key_end_the_run_and_keep_what_was_answered(tmp_path):
    with serve_replies(lambda path, body, headers: chat_answer("ok") if body["messages"][0]["content"] == "first" else (401, {}, b'{"error": {"message": "bad key"}}')) as base_url:
        llm = _llm(base_url, tmp_path, concurrency=1)
        with pytest.raises(InputError, match=r"refuses the request for model 'm'.*llm\.api_key_env"):
            llm.ask([Request("first", chat=True), Request("second", chat=True)])
    assert llm.knows(Request("first", chat=True)) and not llm.knows(Request("second", chat=True))
    with pytest.raises(InputError, match=r"cannot reach http://127\.0\.0\.1.*after 1 retries.*llm\.base_url"):
        _llm(base_url, tmp_path, max_retries=1).ask([Request("third", chat=True)])


def test_an_api_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "k")
    assert api_key_from("SOME_KEY") == "k" and api_key_from(None) == "-"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY is not set"):
        api_key_from("SOME_KEY")


def test_embedded_models_answer_and_do_not_depend_on_what_came_before(tmp_path):
    prefix = "Questions and answers.\n\n" + "".join(f"Document {n}: The {w} is a kind of {k}.\nQuery {n}: what is a {w}\n\n" for n, (w, k) in enumerate([("oak", "tree"), ("cod", "fish"), ("ant", "insect")], 1))
    requests = [Request(f"{prefix}Document {4 + n % 2}: The {w} is a kind of {k}.\nQuery {4 + n % 2}:", parameters={"max_tokens": 12, "temperature": 0.8, "seed": n, "stop": ["\n"]}) for n, (w, k) in enumerate([("robin", "bird"), ("violin", "instrument"), ("quartz", "mineral"), ("Danube", "river")] * 3)]
    warm_up = Request(f"{prefix}Document 3:", parameters={"max_tokens": 1})
    texts = []
    with serve(locate_llm("gemma-3-270m")) as endpoint:
        assert endpoint.base_url.startswith("http://127.0.0.1:")
        for start in (0, 7):  # all in one go; then, as after a kill, only the later ones
            llm = LLM(endpoint.base_url, endpoint.api_key, "embedded", Journal(tmp_path / f"{start}.sqlite"), concurrency=1)
            llm.ask([Request("something else entirely", parameters={"max_tokens": 4})])
            answers = llm.ask(requests[start:], [warm_up])
            texts.append([a.text for a in answers])
            assert answers[-1].cached_tokens > 20
        with pytest.raises(InputError, match="refuses"):
            LLM(endpoint.base_url, "wrong key", "embedded", Journal(tmp_path / "x.sqlite")).ask(requests[:1])
    assert texts[0][7:] == texts[1]
    assert len(set(texts[0])) > 4


def test_a_chat_model_answers_by_chat(tmp_path):
    with serve(locate_llm("smollm2-135m-instruct")) as endpoint:
        llm = LLM(endpoint.base_url, endpoint.api_key, "embedded", Journal(tmp_path / "j.sqlite"), concurrency=1)
        answer = llm.ask([Request("What is the capital of France? Answer with one word.", chat=True, parameters={"temperature": 0, "max_tokens": 12})])[0]
    assert "Paris" in answer.text and answer.completion_tokens > 0


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match="did not start"), serve(tmp_path / "broken.gguf"):
        pass
    with pytest.raises(InputError, match="no packaged LLM"):
        locate_llm("gpt-9")
