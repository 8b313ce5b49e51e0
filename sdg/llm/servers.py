"""What servers of the OpenAI protocol do differently, as data: addresses, errors, and parameters that they refuse."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

# ---- where they are


@dataclass(frozen=True)
class Server:
    """``url``: pattern of its base URLs. ``path``: what these end in. ``key_header``: takes the key in this header
    (default: Authorization). ``query``: stands in each URL, where the base URL does not say otherwise."""

    name: str
    url: str
    path: str = "/v1"
    key_header: str = ""
    query: Mapping[str, str] = field(default_factory=dict)


SERVERS = (
    Server("Azure OpenAI, by deployment", "/openai/deployments/", "", "api-key", {"api-version": "2024-10-21"}),
    Server("Azure OpenAI", r"\.azure\.com", "/openai/v1", "api-key"),
    Server("OpenRouter", r"openrouter\.ai", "/api/v1"),
    Server("OpenAI, vLLM, llama.cpp, Ollama, LM Studio, TGI", ""),
)
"""The first that fits."""


@dataclass(frozen=True)
class Address:
    """How a base URL is asked. ``mended``: what the recipe should say in its place; empty: nothing."""

    base_url: str
    query: Mapping[str, str]
    key_header: str
    mended: str = ""


def address_of(base_url: str) -> Address:
    """The address behind a base URL: a query stands beside it, and the full path of a request is cut off.

    >>> address_of("http://localhost:8000/v1/chat/completions").base_url
    'http://localhost:8000/v1'
    >>> address_of("https://x.openai.azure.com/openai/deployments/gpt?api-version=2025-01-01").query
    {'api-version': '2025-01-01'}
    """
    parts = urlsplit(base_url.strip())
    path = re.sub(r"(/chat)?/completions/?$", "", parts.path)
    bare = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    server = _server(bare)
    query = {**server.query, **dict(parse_qsl(parts.query))}
    mended = shown_url(bare) if path != parts.path else ""
    return Address(bare, query, server.key_header, mended)


def likely_base_url(base_url: str) -> str:
    """What may be meant by a base URL without a version; empty where it has one.

    >>> likely_base_url("http://localhost:11434/api"), likely_base_url("http://localhost:8000/v1")
    ('http://localhost:11434/v1', '')
    """
    parts = urlsplit(base_url)
    if re.search(r"/v\d", parts.path) or "/deployments/" in parts.path:
        return ""
    path = re.sub(r"/(api|openai)$", "", parts.path.rstrip("/")) + _server(base_url).path
    return shown_url(urlunsplit((parts.scheme, parts.netloc, path, "", "")))


def shown_url(url: str) -> str:
    """A URL as it may be printed: without a password and without a query, in which keys may stand.

    >>> shown_url("https://me:secret@host:8000/v1?key=secret")
    'https://host:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether a URL is of this machine, which is reached through no proxy.

    >>> is_loopback("http://localhost:8000/v1"), is_loopback("http://[::1]:80"), is_loopback("http://10.0.0.1/v1")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _server(url: str) -> Server:
    return next(server for server in SERVERS if re.search(server.url, url))


# ---- what their errors mean


class Kind(StrEnum):
    """What is to be done about an error. The value is the ``error_kind`` of answers."""

    # these end the run
    QUOTA = "no money"
    KEY = "key refused"
    PROXY = "proxy login"
    PATH = "wrong path"
    MODEL = "no such model"
    # these do so when nothing else comes
    REFUSED = "refused"
    WEB_PAGE = "web page"
    # these are one document's
    FILTERED = "content filter"
    TOO_LONG = "prompt too long"
    # tried again
    PASSING = "passing"
    OTHER = "other"


@dataclass(frozen=True)
class Trouble:
    """What an error is, by its HTTP status and a pattern of what its message, code and type say."""

    kind: Kind
    statuses: Collection[int]
    words: str = ""


TROUBLES = (
    Trouble(Kind.PROXY, (407,)),
    # OpenRouter, DeepSeek: 402; OpenAI: 429 with a code
    Trouble(Kind.QUOTA, (402,)),
    Trouble(
        Kind.QUOTA,
        (200, 400, 403, 429),
        r"insufficient[_ ](quota|balance|credits?|funds)|billing[_ ](hard[_ ]limit|not[_ ]active)"
        r"|credit balance is too low",
    ),
    Trouble(Kind.TOO_LONG, (413,)),
    # OpenAI, vLLM; llama.cpp; LM Studio; TGI
    Trouble(
        Kind.TOO_LONG,
        (200, 400, 422, 500),
        r"context_length_exceeded|maximum context length|exceed_context_size|context[ _](length|size|window)"
        r"|tokens to keep from the initial prompt|`inputs` (tokens|must have less)|(prompt|input) is too long"
        r"|too many (input |prompt )?tokens",
    ),
    # OpenAI, Azure; OpenRouter: 403 of a moderated model
    Trouble(
        Kind.FILTERED,
        (200, 400, 403, 422, 451),
        r"content_filter|content (management )?policy|content_policy_violation|responsibleai|invalid_prompt|moderation"
        r"|flagged|safety system",
    ),
    Trouble(Kind.PASSING, (408, 409, 425, 429, *range(500, 600))),
    Trouble(Kind.KEY, (401,)),
    Trouble(Kind.REFUSED, (403,)),
    # vLLM and FastAPI; llama.cpp; Ollama; LM Studio, with status 200
    Trouble(
        Kind.PATH, (200, 404, 405), r"^not found|file not found|page not found|unexpected endpoint|method not allowed"
    ),
    Trouble(Kind.PATH, (405,)),
    Trouble(Kind.MODEL, (404,)),
)
"""The first that fits."""

ENDINGS = {
    Kind.QUOTA: "{where} says that there is no money left for it: {error}. What was answered is kept: top the account"
    " up or raise its limit, and run again",
    Kind.KEY: "{where} refuses the request for model {model!r}: {error}. Check llm.model and llm.api_key_env",
    Kind.PROXY: "the proxy in front of {where} wants a login: {error}. Put it into the proxy's URL in the environment,"
    " or the server's name into NO_PROXY",
    Kind.PATH: "{where} has nothing at this address: {error}. {base_url_hint}",
    Kind.MODEL: "{where} refuses the request for model {model!r}: {error}. Check llm.model, and that llm.base_url ends"
    " as the server's manual says",
    Kind.REFUSED: "{where} refuses the request for model {model!r}, and every other one: {error}. Check llm.model and"
    " llm.api_key_env",
    Kind.WEB_PAGE: "{where} answers with {error}, as a login page or a proxy does, and not as an LLM. {base_url_hint}"
    " Check, too, whether one must log in first",
}
"""What a person is told where an error ends the run."""

ERROR_NAMES = {
    400: "BadRequestError",
    408: "timeout",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    425: "ConflictError",
    429: "RateLimitError",
}
"""What an answer's ``error_kind`` is else, by status; from 500 on InternalServerError."""


def kind_of(status: int, said: str) -> Kind:
    """What an error with this status is, that says ``said``."""
    for trouble in TROUBLES:
        if status in trouble.statuses and re.search(trouble.words, said, re.IGNORECASE):
            return trouble.kind
    return Kind.OTHER


# ---- parameters that they refuse

STREAM = "stream"
INSTEAD = {"max_tokens": "max_completion_tokens"}
"""Other names of parameters that cannot be left out."""
_ALSO_CALLED = {
    "response_format": "json_schema|schema|grammar|structured",
    "json_schema": "schema|grammar|structured",
    "logprobs": "logprob",
    STREAM: r"(stream\W.{0,40}(true|required|must)|only.{0,40}\bstream|must.{0,20}\bstream)",
}
"""What servers say and mean these."""
_PLAIN_WORDS = ("stop", "n", "user", "store", "echo")
"""Names that stand in other sentences, too: they count within quotes only."""
_ALWAYS = ("model", "messages", "prompt", "max_completion_tokens", STREAM)


def refused_parameter(body: Mapping[str, Any], said: str, param: str) -> str | None:
    """Which parameter of a request a server does not take, by ``param`` and by what it says; None: none.

    >>> refused_parameter({"seed": 1, "top_p": 1}, "body.seed: Extra inputs are not permitted", "seed")
    'seed'
    >>> refused_parameter({"max_tokens": 9}, "Use 'max_completion_tokens' instead", "") is None
    True
    """
    names = [name for name in body if name not in _ALWAYS]
    if (first := re.split(r"[.\[]", param)[0]) in names:
        return first
    found = {name: match.start() for name in names if (match := re.search(_name(name), said, re.IGNORECASE))}
    if found:
        return min(found, key=found.__getitem__)
    also = [*names, *([] if body.get(STREAM) else [STREAM])]
    return next((n for n in also if n in _ALSO_CALLED and re.search(_ALSO_CALLED[n], said, re.IGNORECASE)), None)


def _name(name: str) -> str:
    escaped = re.escape(name)
    return rf"['\"`]{escaped}['\"`]" if name in _PLAIN_WORDS else rf"(?<![\w]){escaped}(?![\w])"


def adapted(parameters: Mapping[str, Any], changes: Mapping[str, str | None]) -> dict[str, Any]:
    """The parameters as they go into a request, with what its server is known to refuse under another name or left
    out.

    >>> adapted({"seed": 1, "max_tokens": 9, "extra_body": {"top_k": 5}}, {"seed": None, "max_tokens": "n_predict"})
    {'top_k': 5, 'n_predict': 9}
    """
    body = {name: value for name, value in parameters.items() if name != "extra_body"}
    body |= parameters.get("extra_body") or {}
    if STREAM in changes:
        body |= {STREAM: True, "stream_options": {"include_usage": True}}
    for name, instead in changes.items():
        if name != STREAM and name in body:
            value = body.pop(name)
            if instead:
                body[instead] = value
    return body


def told(changes: Mapping[str, str | None]) -> dict[str, str]:
    """What was changed, for people: parameter to what became of it."""
    return {
        name: "asked for" if name == STREAM else f"sent as {instead}" if instead else "left out"
        for name, instead in changes.items()
    }
