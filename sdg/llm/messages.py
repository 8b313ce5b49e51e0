"""What is sent to an LLM, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sharpen.sdg.llm.thoughts import without_thoughts

MAX_ANSWER_CHARACTERS = 100_000
"""Longer answers are no answers to what is asked here, and would fill journal and memory."""
OVER_BUDGET = "over budget"
"""Error of a request that was not sent, as it could have gone over the budget."""
BROKEN_OFF = "broken off"
"""Error of an answer of which a part is missing."""
NO_LOGPROBS = "no logprobs"
"""Error of a request for logprobs to a server that gives none."""
FILTERED_OUT = "content_filter"
"""``finish_reason`` of an answer that the server has held back."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue (``chat`` off) or a user message to answer (``chat`` on), with the sampling parameters.

    ``parameters`` go into the request as they are: max_tokens, temperature, top_p, seed, stop, response_format, ...
    ``warm_up``: another request to send ahead of this one, whose answer is thrown away; it brings a server's prefix
    cache into the same state whether or not earlier requests came from the journal. ``shorter``: gives the same request
    with half as much of its document, for servers that find it too long; None where nothing is left to leave out.

    >>> Request("Say yes.", chat=True, parameters={"max_tokens": 2}).identity()
    {'prompt': 'Say yes.', 'chat': True, 'parameters': {'max_tokens': 2}}
    """

    prompt: str
    chat: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    warm_up: Request | None = field(default=None, compare=False)
    shorter: Callable[[], Request | None] | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        """What the answer depends on."""
        return {"prompt": self.prompt, "chat": self.chat, "parameters": self.parameters}

    @property
    def asks_logprobs(self) -> bool:
        """Whether logprobs are a part of the answer."""
        return bool(self.parameters.get("logprobs"))

    def with_body(self, more: Mapping[str, Any]) -> Request:
        """The request with more parameters for the endpoint; its own hold where both have one."""
        if not more:
            return self
        parameters = self.parameters | {"extra_body": {**more, **(self.parameters.get("extra_body") or {})}}
        if "max_completion_tokens" in more:
            parameters.pop("max_tokens", None)
        return replace(self, parameters=parameters)

    def token_bound(self) -> tuple[int, int]:
        """Tokens of prompt and completion at most: no tokenizer makes more tokens than bytes, but for its own marks."""
        requests = [self] if self.warm_up is None else [self, self.warm_up]
        return sum(len(r.prompt.encode()) + 64 for r in requests), sum(map(_most_tokens, requests))


def _most_tokens(request: Request) -> int:
    sent = request.parameters | (request.parameters.get("extra_body") or {})
    return int(sent.get("max_completion_tokens") or sent.get("max_tokens") or 4096)


@dataclass(frozen=True)
class Answer:
    """``text`` as it came, and the server's own count of tokens. ``error``: why there is no text. ``seconds``: of the
    try that succeeded. ``first_token``: the likeliest tokens in the first one's place with their logprobs (natural
    logarithm), where the request asked for logprobs. ``shortened``: how often the document was halved until the server
    took it. ``batch``: whether it was paid at the price of batches."""

    text: str
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    from_journal: bool = False
    first_token: Mapping[str, float] | None = None
    shortened: int = 0
    batch: bool = False

    def readable(self) -> Answer:
        """The answer without the thoughts of the model; one that ended within them has no text, and was cut off."""
        if self.first_token is not None:  # that it begins to think is then what it says
            return self
        text, whole = without_thoughts(self.text)
        if whole and text == self.text:
            return self
        return replace(self, text=text, finish_reason=self.finish_reason if whole else "length")

    @property
    def is_empty(self) -> bool:
        """Whether nothing came, for no reason that the server gives: another time there may be an answer."""
        return not self.text.strip() and self.first_token is None and not (self.ate_budget or self.held_back)

    @property
    def ate_budget(self) -> bool:
        """Whether the model's thoughts took all of the tokens that an answer may have."""
        return not self.text.strip() and self.finish_reason == "length"

    @property
    def held_back(self) -> bool:
        """Whether the server's content filter has stopped it."""
        return self.finish_reason == FILTERED_OUT

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens by kind: prompt, cached, completion."""
        return {"prompt": self.prompt_tokens, "cached": self.cached_tokens, "completion": self.completion_tokens}

    @property
    def error_kind(self) -> str:
        """The name of the error, without what the server said; empty where there is none."""
        return self.error.partition(":")[0]

    @property
    def failed(self) -> bool:
        """Whether asking again later may help: not after a refusal (a prompt too long) or an answer that is none."""
        return self.error_kind in (
            "timeout",
            "RateLimitError",
            "InternalServerError",
            "ConflictError",
            "APIConnectionError",
            "APITimeoutError",
            BROKEN_OFF,
        )


@dataclass(frozen=True)
class EndpointSettings:
    """Where a model is served. ``max_concurrency``: requests under way at once at most; ``local``: served by this
    program, whose answers depend on nothing else."""

    base_url: str
    api_key: str = field(repr=False)
    model: str
    max_concurrency: int = 8
    local: bool = False
