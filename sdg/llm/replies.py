"""What a server sends back, read as leniently as it can be without guessing: answers, streams, and errors."""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sharpen.sdg.llm.messages import BROKEN_OFF, FILTERED_OUT, MAX_ANSWER_CHARACTERS, NO_LOGPROBS, Answer, Request
from sharpen.sdg.llm.servers import ERROR_NAMES, Kind, kind_of

SHOWN_CHARACTERS = 500
"""Of what a server says, in a message."""
_FINISHED = {"eos_token": "stop", "stop_sequence": "stop"}
"""TGI's words for the protocol's."""


class NotACompletion(Exception):
    """The server said 200, and something else than the protocol has."""

    kind = "not a completion"


class BrokenOff(NotACompletion):
    """What it said has no end: the connection or what stands behind the server broke off."""

    kind = BROKEN_OFF


@dataclass(eq=False)
class ServerError(Exception):
    """An error of a server, in one form whoever it is from. ``said``: all that tells what it is about. ``retry_after``:
    seconds to wait; 0 where it does not say."""

    status: int
    message: str
    said: str = ""
    param: str = ""
    retry_after: float = 0.0
    kind: Kind = Kind.OTHER

    def __str__(self) -> str:
        return self.message if self.kind is Kind.WEB_PAGE else f"{self.status} {self.message}".strip()

    @property
    def name(self) -> str:
        """As the ``error_kind`` of an answer."""
        if self.kind not in (Kind.PASSING, Kind.OTHER):
            return str(self.kind)
        return "InternalServerError" if self.status >= 500 else ERROR_NAMES.get(self.status, f"HTTP {self.status}")


def read_error(status: int, body: str, headers: Mapping[str, str] | None = None, secret: str = "") -> ServerError:
    """The error in an answer. ``secret`` is shown nowhere, even if the server repeats it.

    >>> str(read_error(404, '{"error": {"message": "no such model"}}'))
    '404 no such model'
    """
    body = without_secret(body, secret)
    wait = _retry_after(headers or {})
    if body.lstrip()[:1] == "<":
        title = re.search(r"<title[^>]*>\s*(.*?)\s*</title>", body, re.IGNORECASE | re.DOTALL)
        page = "a web page" + (f" ({title[1][:100]!r})" if title else "")
        kind = {200: Kind.WEB_PAGE, 404: Kind.PATH}.get(status) or kind_of(status, "")
        return ServerError(status, page, retry_after=wait, kind=kind)
    try:
        payload = json.loads(body)
    except ValueError:
        payload = {"message": body}
    error = _error_in(payload)
    message, code = _message(error), str(error.get("code") or "")
    if status == 200 and code.isdigit() and 400 <= int(code) < 600:  # OpenRouter's, of the provider behind it
        status = int(code)
    param = str(error.get("param") or "")
    if isinstance(error.get("detail"), list) and error["detail"] and isinstance(error["detail"][0], dict):  # FastAPI
        param = str((error["detail"][0].get("loc") or [""])[-1])
    said = " ".join(filter(None, (message, code, str(error.get("type") or ""), _inner_code(error))))
    return ServerError(status, message[:SHOWN_CHARACTERS], said, param, wait, kind_of(status, said))


def without_secret(text: str, secret: str) -> str:
    """A text of a server without the key, where it is one and no ``-`` of a server that wants none."""
    return text.replace(secret, "[key]") if len(secret) > 3 else text


def _error_in(payload: Any) -> dict[str, Any]:
    while isinstance(payload, list) and payload:  # Gemini's
        payload = payload[0]
    error = payload.get("error") or payload if isinstance(payload, dict) else {"message": payload}
    return error if isinstance(error, dict) else {"message": error}


def _message(error: Mapping[str, Any]) -> str:
    if isinstance(rows := error.get("detail"), list):
        rows = [row if isinstance(row, dict) else {"msg": row} for row in rows]
        return "; ".join(f"{'.'.join(map(str, row.get('loc') or ()))}: {row.get('msg')}" for row in rows)
    return str(error.get("message") or error.get("detail") or json.dumps(error, ensure_ascii=False))


def _inner_code(error: Mapping[str, Any]) -> str:
    inner = error.get("innererror")  # Azure's
    return str(inner.get("code") or "") if isinstance(inner, dict) else ""


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks to wait (as a number or a date); 0 if it is not there, or not readable."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def read_answer(body: str, request: Request, secret: str = "") -> Answer:
    """The answer in what a server sent. Raises ``ServerError`` for an error in it, and ``NotACompletion``."""
    try:
        return _read_answer(body, request, secret)
    except ValueError as error:  # no JSON, or a stream without its end
        raise BrokenOff(str(error)) from error
    except (LookupError, AttributeError, TypeError) as error:  # JSON of another shape, which it would be again
        raise NotACompletion(str(error)) from error


def _read_answer(body: str, request: Request, secret: str) -> Answer:
    start = body.lstrip()
    if start[:1] == "<":
        raise read_error(200, body)
    payload = _joined(body) if re.match(r"data:|event:|id:|:", start) else json.loads(body)
    _raise_if_error(payload, secret)
    choice, usage = payload["choices"][0], payload.get("usage") or {}
    _raise_if_error(choice, secret)
    message = choice["message"] if request.chat else choice
    text = _text(message.get("content") if request.chat else choice["text"])
    finish = choice.get("finish_reason") or ""
    if message.get("refusal") and not text:
        finish = FILTERED_OUT
    first_token = first_token_of(choice.get("logprobs")) if request.asks_logprobs else None
    finish = _FINISHED.get(finish, finish)
    if len(text) > MAX_ANSWER_CHARACTERS:
        text, finish = text[:MAX_ANSWER_CHARACTERS], "length"
    if request.asks_logprobs and first_token is None:
        if text or finish != "stop":
            return Answer("", error=f"{NO_LOGPROBS}: the answer came without")
        first_token = {}  # it ended before its first token
    return Answer(text, finish, *_tokens(usage, request), first_token=first_token)


def _raise_if_error(part: Any, secret: str) -> None:
    if isinstance(part, dict) and part.get("error"):
        raise read_error(200, json.dumps({"error": part["error"]}), secret=secret)


def _text(content: Any) -> str:
    if isinstance(content, list):  # Mistral's: thoughts and text as parts
        content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return storable(content)


def _tokens(usage: Mapping[str, Any], request: Request) -> tuple[int, int, int]:
    """Of prompt, cache and completion. Some servers do not count all of them; what it can be at most is on the safe
    side of a budget."""
    most_prompt, most_completion = request.token_bound()
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    prompt = most_prompt if prompt is None else prompt
    return prompt, min(cached or 0, prompt), most_completion if completion is None else completion


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value >= 0 else None


def _joined(body: str) -> dict[str, Any]:
    """The answer that the events of a stream make together. Raises ``ValueError`` if the stream broke off."""
    texts: list[str] = []
    whole: dict[str, Any] = {"usage": None}
    finish, logprobs, done = None, None, False
    for line in body.splitlines():
        name, _, data = line.partition(":")
        if name != "data":
            continue
        if data.strip() == "[DONE]":
            done = True
            continue
        event = json.loads(data)
        if event.get("error"):
            return event
        whole["usage"] = event.get("usage") or whole["usage"]
        for choice in (event.get("choices") or ())[:1]:
            delta = choice.get("delta") or choice.get("message") or {}
            texts.append(_text(delta.get("content")) or choice.get("text") or "")
            finish, logprobs = choice.get("finish_reason") or finish, logprobs or choice.get("logprobs")
    if not (finish or done):
        raise ValueError("the stream broke off")
    text = "".join(texts)
    choice = {"text": text, "message": {"content": text}, "finish_reason": finish, "logprobs": logprobs}
    return whole | {"choices": [choice]}


def first_token_of(logprobs: Any) -> dict[str, float] | None:
    """The likeliest tokens in the place of an answer's first one, with their logprobs; None where the server gives no
    logprobs, and nothing where the answer has no token.

    Read are the layout of chats, which llama.cpp uses for continued prompts, too, and the older one of these. Raises
    ``TypeError``, ``ValueError`` or ``AttributeError`` for any other.

    >>> no, yes = {"token": "No", "logprob": -0.1}, {"token": "Yes", "logprob": -2.5}
    >>> first_token_of({"content": [no | {"top_logprobs": [no, yes]}]})
    {'No': -0.1, 'Yes': -2.5}
    >>> first_token_of({"tokens": [" No"], "top_logprobs": [{" No": -0.1, " Yes": -2.5}]})
    {' No': -0.1, ' Yes': -2.5}
    """
    if not logprobs:
        return None
    content, tops = logprobs.get("content"), logprobs.get("top_logprobs")
    if content is None and tops is None:
        return None
    if content:
        alternatives = content[0].get("top_logprobs") or [content[0]]
        rows = [(row["token"], row["logprob"]) for row in alternatives]
    else:
        rows = list(tops[0].items()) if tops else []
    found: dict[str, float] = {}
    for token, logprob in rows:  # several may read alike: those that cannot be shown
        found[storable(token)] = max(float(logprob), found.get(storable(token), -math.inf))
    return {token: logprob for token, logprob in found.items() if math.isfinite(logprob)}


def storable(text: str | None) -> str:
    """Half a surrogate pair, as a token limit may leave it, cannot be written as UTF-8."""
    return (text or "").encode("utf-8", "replace").decode()
