"""The endpoints of an LLM: how many requests each has under way, when it is let alone, and how it is asked."""

from __future__ import annotations

import asyncio
import email.utils
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import openai
import tenacity

from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.messages import MAX_ANSWER_CHARACTERS, NO_LOGPROBS, Answer, EndpointSettings, Request

T = TypeVar("T")

_PASSING = (
    openai.APITimeoutError,
    openai.APIConnectionError,
    openai.RateLimitError,
    openai.InternalServerError,
    openai.ConflictError,
)
"""What may be gone at the next try."""
_ABOUT_SCHEMAS = re.compile("response_format|json_schema|schema|grammar|structured", re.IGNORECASE)
"""What a server says that takes no JSON schema, or not this one."""
_ABOUT_LOGPROBS = re.compile("logprob", re.IGNORECASE)
"""What a server says that gives no logprobs, or not so many."""


def _without_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in parameters.items() if key != "response_format"}
    if body := rest.pop("extra_body", None):
        rest |= (
            {"extra_body": body}
            if (body := {key: value for key, value in body.items() if key != "json_schema"})
            else {}
        )
    return rest


class NotACompletion(Exception):
    """The server said 200, and something else than the protocol has."""


class Endpoint:
    """One base URL: its client, and how many requests it has and may have under way.

    The limit starts low. After each round of answers it grows by half while a larger one has brought more answers a
    second, and goes back to the best one known when it has not. It is halved when the server says 429 or 503, and
    nothing is sent before the time that Retry-After names.
    """

    def __init__(self, settings: EndpointSettings, no_schemas: set[str]) -> None:
        self.settings = settings
        self.limit = min(4, settings.max_concurrency)
        self.active = 0
        self.blocked_until = 0.0
        self._failures = 0
        self._no_schemas = no_schemas
        self._rate: dict[int, float] = {}
        """Answers a second by limit."""
        self._round: list[float] = []

    def free(self, now: float) -> float:
        """Fraction of the limit that is free; 0 if nothing may be sent now."""
        return 0.0 if now < self.blocked_until else 1 - self.active / self.limit

    async def send(self, request: Request) -> Answer:
        started = time.monotonic()
        try:
            answer = await self._send(request)
        except (openai.RateLimitError, openai.InternalServerError) as error:
            if error.status_code in (429, 503):
                self._back_off(error)
            raise
        except openai.APIConnectionError:
            # one reset is an accident; with several in a row it is down, and would else take the most requests, as it
            # is the quickest to fail. Those that were under way together are one failure.
            if (now := time.monotonic()) >= self.blocked_until:
                self._failures += 1
                if self._failures >= 3:
                    self.blocked_until = now + min(30.0, 0.1 * 2**self._failures)
            raise
        self._failures = 0
        answer = replace(answer, seconds=round(time.monotonic() - started, 3))
        self._learn(answer.seconds)
        return answer

    async def _send(self, request: Request) -> Answer:
        try:
            if request.chat:
                ask = partial(
                    self.client.chat.completions.create, messages=[{"role": "user", "content": request.prompt}]
                )
            else:
                ask = partial(self.client.completions.create, prompt=request.prompt)
            response = await self._held_to_schema(partial(ask, model=self.settings.model), request.parameters)
            choice, usage = response.choices[0], response.usage
            first_token = first_token_of(choice.model_dump().get("logprobs")) if request.asks_logprobs else None
            text = _storable(choice.message.content if request.chat else choice.text)
            details = getattr(usage, "prompt_tokens_details", None)
            if usage:
                tokens = (
                    int(usage.prompt_tokens),
                    int((details and details.cached_tokens) or 0),
                    int(usage.completion_tokens),
                )
            else:  # some servers do not count; what it can be at most is on the safe side of a budget
                prompt_tokens, completion_tokens = request.token_bound()
                tokens = prompt_tokens, 0, completion_tokens
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if request.asks_logprobs and _ABOUT_LOGPROBS.search(str(error)):
                return Answer("", error=f"{NO_LOGPROBS}: {error}")
            raise
        except (LookupError, AttributeError, TypeError, ValueError) as error:  # no JSON, or JSON of another shape
            raise NotACompletion(str(error)) from error
        finish = choice.finish_reason or ""
        if len(text) > MAX_ANSWER_CHARACTERS:
            text, finish = text[:MAX_ANSWER_CHARACTERS], "length"
        if request.asks_logprobs and first_token is None:
            if text or finish != "stop":
                return Answer("", error=f"{NO_LOGPROBS}: the answer came without")
            first_token = {}  # it ended before its first token
        return Answer(text, finish, *tokens, first_token=first_token)

    async def _held_to_schema(self, ask: Callable[..., Awaitable[Any]], parameters: dict[str, Any]) -> Any:
        """Ask with the parameters, or without the JSON schema in them where the server takes none: the prompt asks for
        JSON all the same."""
        without = _without_schema(parameters)
        if self.settings.base_url in self._no_schemas:
            return await ask(**without)
        try:
            return await ask(**parameters)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if without == parameters or not _ABOUT_SCHEMAS.search(str(error)):
                raise
            answer = await ask(**without)
            self._no_schemas.add(self.settings.base_url)  # it was that, as this went well
            return answer

    def _back_off(self, error: openai.APIStatusError) -> None:
        self.limit = max(1, self.limit // 2)
        self._rate.clear()
        self._round.clear()
        self.blocked_until = max(self.blocked_until, time.monotonic() + _retry_after(error))

    def _learn(self, seconds: float) -> None:
        if self.active < self.limit:  # too little to do to say anything about the limit
            return
        self._round.append(seconds)
        if len(self._round) < max(12, 2 * self.limit):
            return
        self._rate[self.limit] = self.limit * len(self._round) / sum(self._round)
        self._round.clear()
        best = max(self._rate, key=lambda limit: (self._rate[limit], -limit))
        if best == self.limit:
            self.limit = min(self.settings.max_concurrency, self.limit + max(1, self.limit // 2))
        elif self._rate[self.limit] < 1.02 * self._rate[best]:
            self.limit = best


class EndpointPool:
    """The endpoints, of which each request goes to the one with the most room."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self._endpoints = endpoints

    @asynccontextmanager
    async def open(self, timeout: float) -> AsyncIterator[None]:
        self._changed = asyncio.Condition()
        async with AsyncExitStack() as stack:
            for endpoint in self._endpoints:
                settings = endpoint.settings
                http_client = openai.DefaultAsyncHttpxClient(trust_env=False) if settings.local else None
                client = openai.AsyncOpenAI(
                    base_url=settings.base_url,
                    api_key=settings.api_key,
                    timeout=timeout,
                    max_retries=0,
                    http_client=http_client,
                )
                if (
                    client.base_url.host != "api.openai.com"
                ):  # the account that $OPENAI_ORG_ID names is nobody else's business
                    client.organization = client.project = None
                endpoint.client = await stack.enter_async_context(client)
            yield

    async def send(self, request: Request, max_retries: int) -> Answer:
        """Send the request, and again what may pass: connections refused or reset, time-outs, 409, 429 and 5xx.

        Raises ``InputError`` if no endpoint can be reached, or one refuses the key or the model. Any other error comes
        as the answer's.
        """
        tries = tenacity.AsyncRetrying(
            retry=_may_pass, stop=tenacity.stop_after_attempt(max_retries + 1), wait=_pause, reraise=True
        )
        last = None
        try:
            async for attempt in tries:
                with attempt:
                    async with self.turn() as endpoint:
                        last = endpoint
                        return await endpoint.send(request)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise InputError(
                f"llm: {last.settings.base_url} refuses the request for model {last.settings.model!r}: {error}. Check"
                " llm.model and llm.api_key_env"
            ) from error
        except openai.APITimeoutError as error:
            return Answer("", error=f"timeout: {error}")
        except openai.APIConnectionError as error:
            raise InputError(
                f"llm: cannot reach {last.settings.base_url} after {max_retries} retries"
                f" ({error.__cause__ or error}). Is the server running? Check llm.base_url"
            ) from error
        except openai.APIError as error:
            return Answer("", error=f"{type(error).__name__}: {error}")
        except NotACompletion as error:
            return Answer("", error=f"not a completion: {error}")
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Endpoint]:
        """Wait until a request may be sent, and say where."""
        endpoint = await self.wait_for(self._take)
        try:
            yield endpoint
        finally:
            endpoint.active -= 1
            await self.announce()

    def _take(self) -> Endpoint | None:
        now = time.monotonic()
        best = max(self._endpoints, key=lambda endpoint: endpoint.free(now))
        if best.free(now) <= 0:
            return None
        best.active += 1
        return best

    async def wait_for(self, question: Callable[[], T | None]) -> T:
        """The answer to ``question``, asked again after each change for as long as it is None."""
        async with self._changed:
            while (answer := question()) is None:
                now = time.monotonic()
                blocked = [endpoint.blocked_until - now for endpoint in self._endpoints if endpoint.blocked_until > now]
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), min(blocked, default=None))
            return answer

    async def announce(self) -> None:
        """Say that something has changed."""
        async with self._changed:
            self._changed.notify_all()


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
        found[_storable(token)] = max(float(logprob), found.get(_storable(token), -math.inf))
    return {token: logprob for token, logprob in found.items() if math.isfinite(logprob)}


def _may_pass(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception()
    if (
        isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota"
    ):  # an empty account fills no sooner
        return False
    return isinstance(error, _PASSING) or (isinstance(error, NotACompletion) and state.attempt_number == 1)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try; none where the server has named a time, as its endpoint waits for that anyhow."""
    error = state.outcome.exception()
    if isinstance(error, openai.APIStatusError) and _retry_after(error):
        return 0.0
    return tenacity.wait_random_exponential(multiplier=0.5, max=60)(state)


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds that Retry-After asks to wait (as a number or a date); 0 if it is not there, or not readable."""
    value = error.response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _storable(text: str | None) -> str:
    """Half a surrogate pair, as a token limit may leave it, cannot be written as UTF-8."""
    return (text or "").encode("utf-8", "replace").decode()
