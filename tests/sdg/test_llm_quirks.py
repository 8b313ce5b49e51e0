"""What servers do that the protocol does not say: whatever it is, a run ends with every query accounted for, and what
was paid for is not asked for again."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.sdg.filters.judge import Judge, JudgeScores
from sharpen.sdg.llm import endpoints
from sharpen.sdg.llm.settings import LLM, LLMSettings
from sharpen.sdg.queries import generate_queries
from sharpen.sdg.strategies.document import Document as DocumentStrategy
from tests.servers import Reply, chat_answer, serve_replies

THINGS = ["kettle", "bicycle", "violin", "compass", "lantern", "anvil"]
CORPUS = {
    f"d{n}": Document(f"d{n}", f"The {thing} is kept clean by whoever owns it, " + f"year after year {n} " * 30)
    for n, thing in enumerate(THINGS)
}
POOL = [{"document": "Soak the beans overnight.", "query": "how long do beans soak"}]
SECRET = "sk-very-secret"


def _thing(body: dict[str, Any]) -> str:
    """What the prompt's last document is about."""
    prompt = body["messages"][0]["content"]
    return max(THINGS, key=lambda thing: prompt.rfind(f"The {thing} is"))


def _query(body: dict[str, Any]) -> str:
    return f"how is a {_thing(body)} kept clean"


def _good(body: dict[str, Any], **more: Any) -> Reply:
    return chat_answer(_query(body), **more)


def _error(status: int, message: str, **more: Any) -> Reply:
    headers = more.pop("headers", {})
    return status, headers, json.dumps({"error": {"message": message, **more}}).encode()


def _plain(status: int, payload: Any) -> Reply:
    return status, {}, json.dumps(payload).encode()


def _refusing(status: int, reply: Callable[[str], Any], *names: str) -> Callable[..., Reply]:
    """A server that refuses these parameters, one after the other."""

    def answer(body: dict[str, Any], seen: int) -> Reply:
        refused = next((name for name in names if name in body), None)
        return _plain(status, reply(refused)) if refused else _good(body)

    return answer


def _openai(name: str) -> dict[str, Any]:
    instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
    return {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": name,
            "code": "unsupported_parameter",
        }
    }


def _fastapi(name: str) -> dict[str, Any]:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]}


def _flagged(reply: Reply) -> Callable[..., Reply]:
    return lambda body, seen: reply if _thing(body) == "anvil" else _good(body)


def _once(reply: Reply) -> Callable[..., Reply]:
    """To the first request about each document; the next one is answered."""
    return lambda body, seen: reply if seen == 1 else _good(body)


def _always_for_anvils(text: str, finish_reason: str = "stop", **more: Any) -> Callable[..., Reply]:
    return lambda body, seen: chat_answer(text, finish_reason, **more) if _thing(body) == "anvil" else _good(body)


def _usage(usage: Any) -> Callable[..., Reply]:
    def answer(body: dict[str, Any], seen: int) -> Reply:
        payload = json.loads(_good(body)[2])
        return _plain(200, payload | {"usage": usage})

    return answer


def _events(body: dict[str, Any], deltas: list[str], end: str = "data: [DONE]\n\n") -> Reply:
    chunks = [{"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}]
    chunks += [{"choices": [{"delta": {"content": delta}, "finish_reason": None}]} for delta in deltas]
    chunks += [
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}},
    ]
    text = ": OPENROUTER PROCESSING\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end
    return 200, {"Content-Type": "text/event-stream"}, text.encode()


def _streaming_only(body: dict[str, Any], seen: int) -> Reply:
    if not body.get("stream"):
        return _error(400, "This model only supports streaming: stream must be true")
    if "stream_options" in body:
        return _plain(400, _openai("stream_options"))
    first, *rest = _query(body).split(" ")
    return _events(body, [first, *(f" {word}" for word in rest)])


def _short_context(body: dict[str, Any], seen: int) -> Reply:
    if len(body["messages"][0]["content"]) > 420:
        message = (
            "This model's maximum context length is 128 tokens. However, you requested 300 tokens. Please reduce the"
            " length of the messages."
        )
        return _plain(400, {"object": "error", "message": message, "type": "BadRequestError", "code": 400})
    return _good(body)


CONTEXT = {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}
AZURE_FILTER = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}


@dataclass
class Quirk:
    """``answer(body, seen)``: what the server does, which has ``seen`` so many requests about this document.
    ``refused``: what becomes of parameters. ``again``: requests that a second run sends, as it has no answers to them.
    """

    answer: Callable[[dict[str, Any], int], Reply]
    rejected: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    again: int = 0
    shortened: int = 0
    strategy: dict[str, Any] = field(default_factory=dict)
    llm: dict[str, Any] = field(default_factory=dict)
    path: str = ""


LEFT_OUT = "left out"
QUIRKS = {
    "plain": Quirk(lambda body, seen: _good(body)),
    # reasoning models
    "thoughts in the text": Quirk(lambda body, seen: chat_answer(f"<think>They want\n- one</think>{_query(body)}")),
    "thoughts in a list": Quirk(
        lambda body, seen: chat_answer(f"I need\n- one query\n</think>\n\n- {_query(body)}"), strategy={"form": "list"}
    ),
    "thoughts beside the text, vLLM and Ollama": Quirk(
        lambda body, seen: _good(
            body, message={"content": _query(body), "reasoning_content": "They want", "reasoning": "They want"}
        )
    ),
    "thoughts as parts, Mistral": Quirk(
        lambda body, seen: _good(
            body,
            message={
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "They"}]},
                    {"type": "text", "text": _query(body)},
                ]
            },
        )
    ),
    "no text left after the thoughts, OpenAI": Quirk(_always_for_anvils("", "length"), {"thoughts_too_long": 1}),
    "no text left after the thoughts, null": Quirk(
        _always_for_anvils("", "length", message={"content": None, "reasoning": "They"}), {"thoughts_too_long": 1}
    ),
    "thoughts that do not end": Quirk(_always_for_anvils("<think>They want", "length"), {"thoughts_too_long": 1}),
    "thoughts that do not end, in JSON": Quirk(
        lambda body, seen: (
            chat_answer("<think>They want {", "length")
            if _thing(body) == "anvil"
            else chat_answer(json.dumps({"queries": [_query(body)]}))
        ),
        {"thoughts_too_long": 1},
        strategy={"form": "json"},
    ),
    # what stands around the query
    "announced": Quirk(lambda body, seen: chat_answer(f"Sure! Here is a query:\n\n**{_query(body)}**")),
    # parameters
    "reasoning models of OpenAI": Quirk(
        _refusing(400, _openai, "max_tokens", "temperature", "top_p", "seed"),
        refused={
            "max_tokens": "sent as max_completion_tokens",
            "temperature": LEFT_OUT,
            "top_p": LEFT_OUT,
            "seed": LEFT_OUT,
        },
    ),
    "seed, 422 with detail": Quirk(_refusing(422, _fastapi, "seed"), refused={"seed": LEFT_OUT}),
    "seed, 422 with detail as text": Quirk(
        _refusing(422, lambda name: {"detail": f"{name} is not supported"}, "seed"), refused={"seed": LEFT_OUT}
    ),
    "top_p, TGI": Quirk(
        _refusing(422, lambda name: {"error": "`top_p` must be > 0.0 and < 1.0", "error_type": "validation"}, "top_p"),
        refused={"top_p": LEFT_OUT},
    ),
    "schemas, LM Studio": Quirk(
        lambda body, seen: (
            _plain(400, {"error": "'response_format.type' must be 'text'"})
            if "response_format" in body
            else chat_answer(json.dumps({"queries": [_query(body)]}))
        ),
        refused={"response_format": LEFT_OUT},
        strategy={"form": "json"},
    ),
    "extra_body": Quirk(
        _refusing(400, lambda name: {"error": {"message": f"Unrecognized request argument supplied: {name}"}}, "top_k"),
        refused={"top_k": LEFT_OUT},
        llm={"extra_body": {"top_k": 5}},
    ),
    "n and stop": Quirk(
        _refusing(400, lambda name: {"error": {"message": f"'{name}' is not supported"}}, "n", "stop"),
        refused={"n": LEFT_OUT, "stop": LEFT_OUT},
        llm={"extra_body": {"n": 1, "stop": ["\n\n\n"]}},
    ),
    # what passes
    **{f"{status} once": Quirk(_once(_error(status, "not now"))) for status in (408, 409, 425, 500, 502, 503, 529)},
    "429 with Retry-After": Quirk(_once(_error(429, "slower", headers={"Retry-After": "0.1"}))),
    "loading, llama.cpp": Quirk(_once(_error(503, "Loading model", code=503, type="unavailable_error"))),
    "overloaded, TGI": Quirk(_once(_plain(429, {"error": "Model is overloaded", "error_type": "overloaded"}))),
    "an error of the provider behind, OpenRouter": Quirk(_once(_plain(200, {"error": {"code": 502, "message": "x"}}))),
    "an error in the choice, OpenRouter": Quirk(
        _once(_plain(200, {"choices": [{"error": {"code": 503, "message": "x"}, "finish_reason": "error"}]}))
    ),
    "hangs up": Quirk(_once((0, {}, b""))),
    # one document's
    "403 for one": Quirk(_flagged(_error(403, "Forbidden")), {"refused": 1}, again=1),
    "moderated, OpenRouter": Quirk(_flagged(_error(403, "Your input was flagged", code=403)), {"refused": 1}, again=1),
    "filtered, Azure": Quirk(_flagged(_plain(400, {"error": AZURE_FILTER})), {"refused": 1}, again=1),
    "filtered in the answer": Quirk(_always_for_anvils("how", "content_filter"), {"refused": 1}),
    "a refusal, OpenAI": Quirk(
        _always_for_anvils("", "stop", message={"content": None, "refusal": "I can't"}), {"refused": 1}
    ),
    "an error without a status": Quirk(
        _flagged(_plain(200, {"error": {"message": "something else"}})), {"llm_error": 1}, again=2
    ),
    # contexts
    "a short context, vLLM": Quirk(_short_context, shortened=6),
    "too long for any context, llama.cpp": Quirk(
        _flagged(_plain(400, {"error": CONTEXT})), {"prompt_too_long": 1}, again=5
    ),
    # good answers
    **{
        f"usage {usage}": Quirk(_usage(usage))
        for usage in (None, {}, {"prompt_tokens": 9}, {"completion_tokens": None, "prompt_tokens": 4}, {"x": "y"})
    },
    "finish_reason of TGI": Quirk(lambda body, seen: _good(body, finish_reason="eos_token")),
    "streams whatever is asked": Quirk(lambda body, seen: _events(body, [_query(body)])),
    "streams only": Quirk(_streaming_only, refused={"stream": "asked for", "stream_options": LEFT_OUT}),
    "a stream that breaks off": Quirk(
        lambda body, seen: (
            (200, {}, b'data: {"choices": [{"delta": {"content": "how"}}]}\n\n') if seen == 1 else _good(body)
        )
    ),
    "blanks ahead, OpenRouter": Quirk(lambda body, seen: (200, {}, b"\n   \n" + _good(body)[2])),
    # addresses
    "Azure, by deployment": Quirk(
        lambda body, seen: _good(body), path="/openai/deployments/gpt?api-version=2025-01-01-preview"
    ),
    "Azure, without a version": Quirk(lambda body, seen: _good(body), path="/openai/deployments/gpt"),
    "the full path": Quirk(lambda body, seen: _good(body), path="/v1/chat/completions"),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_every_query_is_accounted_for_and_nothing_is_paid_twice(name, tmp_path, monkeypatch):
    quirk, lock = QUIRKS[name], threading.Lock()
    seen: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    paths, keys = set(), set()

    def reply(path, body, headers):
        paths.add(path)
        keys.add((headers["Authorization"], headers["api-key"]))
        with lock:
            seen[thing := _thing(body)] += 1
            number = seen[thing]
        answer = quirk.answer(body, number)
        paid[thing] += answer[0] == 200 and b'"choices": [{"index"' in answer[2]
        return answer

    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setattr(endpoints, "_pause", lambda _state: 0.01)
    said = []
    with serve_replies(reply) as url:
        base_url = url.removesuffix("/v1") + (quirk.path or "/v1")
        settings = LLMSettings(base_url=base_url, model="m", api_key_env="TEST_KEY", **quirk.llm)
        llm = LLM(settings=settings, journal=tmp_path / "j.sqlite", say=said.append)
        strategy = DocumentStrategy(pool=POOL, examples_per_prompt=1, **quirk.strategy)
        generated = generate_queries(CORPUS, llm, [strategy])
        counts, asked = generated.counts(), seen.total()
        again = generate_queries(CORPUS, llm, [strategy])
    rejected = sum(quirk.rejected.values())
    assert counts["rejected"] == quirk.rejected
    assert (counts["asked"], counts["kept"]) == (6, 6 - rejected) == (6, len(generated))
    assert sorted(q.text for q in generated) == sorted(f"how is a {t} kept clean" for t in THINGS[: 6 - rejected])
    assert counts.get("refused_parameters", {}) == quirk.refused and len(said) <= len(quirk.refused) + 1
    assert counts.get("shortened", 0) == quirk.shortened
    assert seen.total() - asked == quirk.again and max(paid.values(), default=0) <= 1
    assert [q.text for q in again] == [q.text for q in generated]
    azure = quirk.path.startswith("/openai")
    assert keys == ({(None, SECRET)} if azure else {(f"Bearer {SECRET}", None)})
    versions = {"": "2024-10-21", "?api-version=2025-01-01-preview": "2025-01-01-preview"}
    query = f"?api-version={versions[quirk.path[len('/openai/deployments/gpt') :]]}" if azure else ""
    assert paths == {f"{'/openai/deployments/gpt' if azure else '/v1'}/chat/completions{query}"}
    assert SECRET not in repr(said) + json.dumps([r.to_row() for r in generated.rejected])
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_a_judge_is_shown_half_of_a_document_where_its_context_has_no_room_for_more(tmp_path):
    shown = []

    def reply(path, body, headers):
        shown.append(len(body["messages"][0]["content"].split()))
        if shown[-1] > 250:
            return _plain(400, {"error": CONTEXT})
        return chat_answer(json.dumps({"scores": [dict.fromkeys(JudgeScores.model_fields, 9)]}))

    long = Document("d", "Some words about pottery. " * 100)
    queries = [Query("q", "what is pottery", {"positives": ["d"]})]
    with serve_replies(reply) as url, LLM(url, model="m", journal=tmp_path / "j.sqlite").open() as client:
        result = Judge().judge(queries, {"d": long}, client)
    assert len(result.kept) == 1 and shown == sorted(shown, reverse=True) and len(shown) > 1


def test_a_judge_whose_thoughts_take_all_there_is_says_so(tmp_path):
    queries = [Query("q", "what is pottery", {"positives": ["d"]})]
    with (
        serve_replies(lambda *_: chat_answer("", "length")) as url,
        LLM(url, model="m", journal=tmp_path / "j.sqlite").open() as client,
    ):
        result = Judge().judge(queries, {"d": Document("d", "About pottery.")}, client)
    (rejection,) = result.rejected
    assert rejection.reason == "thoughts_too_long" and "extra_body: {max_tokens: 4000}" in rejection.message
