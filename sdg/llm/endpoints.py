"""The endpoints of an LLM: how many requests each has under way, when it is let alone, and how it is asked."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import openai
import tenacity

from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.connections import is_unreachable, key_headers, may_be_billed, open_client, unreachable
from sharpen.sdg.llm.messages import NO_LOGPROBS, Answer, EndpointSettings, Request
from sharpen.sdg.llm.replies import NotACompletion, ServerError, read_answer, read_error
from sharpen.sdg.llm.servers import (
    ENDINGS,
    INSTEAD,
    Kind,
    adapted,
    address_of,
    likely_base_url,
    refused_parameter,
    shown_url,
    told,
)

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that a run waits where nobody listens, and nobody has until now."""
LONG_PATIENCE = 120.0
"""... where somebody has: a server that starts again loads its model first."""
MOMENT = 1.0
"""Seconds of silence that are none, where several requests are under way."""
MAX_RETRY_AFTER = 600.0
"""Seconds that a run waits at most because a server says so; it ends with a message rather than sleep for longer."""


class Endpoint:
    """One base URL: its client, and how many requests it has and may have under way.

    The limit starts low. After each round of answers it grows by half while a larger one has brought more answers a
    second, and goes back to the best one known when it has not. It is halved when the server says 429 or 503, and
    nothing is sent before the time that Retry-After names.
    """

    def __init__(self, settings: EndpointSettings, refused: dict[str, str | None], say: Callable[[str], None]) -> None:
        """``refused``: parameters that this server does not take, with what they are sent as (None: left out); more
        are added as they are found. ``say``: is told of them."""
        self.settings = settings
        self.url = shown_url(address_of(settings.base_url).base_url)
        self.limit = min(4, settings.max_concurrency)
        self.active = 0
        self.blocked_until = 0.0
        self._failures = 0
        self._headers = key_headers(settings)
        self._refused = refused
        self._say = say
        self._rate: dict[int, float] = {}
        """Answers a second by limit."""
        self._round: list[float] = []

    def free(self, now: float) -> float:
        """Fraction of the limit that is free; 0 if nothing may be sent now."""
        return 0.0 if now < self.blocked_until else 1 - self.active / self.limit

    async def send(self, request: Request) -> Answer:
        """Raises ``ServerError``, ``NotACompletion``, and what the HTTP library does where nothing comes back."""
        started = time.monotonic()
        try:
            answer = await self._send(request)
        except ServerError as error:
            if error.retry_after or error.status in (429, 503):
                self._back_off(error)
            raise
        except openai.APIConnectionError:
            # one reset is an accident; with several in a row it is down, and would else take the most requests, as it
            # is the quickest to fail. Those that were under way together are one failure.
            if (now := time.monotonic()) >= self.blocked_until:
                self._failures += 1
                if self._failures >= 3:
                    self.blocked_until = now + min(5.0, 0.1 * 2**self._failures)
            raise
        self._failures = 0
        answer = replace(answer, seconds=round(time.monotonic() - started, 3))
        self._learn(answer.seconds)
        return answer

    async def _send(self, request: Request) -> Answer:
        """Ask, and again without what the server refuses. That is believed once an answer has come without it."""
        path = "/chat/completions" if request.chat else "/completions"
        found: dict[str, str | None] = {}
        while True:
            body = self.body(request, found)
            try:
                answer = read_answer(await self._post(path, body), request, self.settings.api_key)
                break
            except ServerError as error:
                name = refused_parameter(body, error.said, error.param) if _is_refusal(error) else None
                if name and request.asks_logprobs and "logprobs" in name:
                    return Answer("", error=f"{NO_LOGPROBS}: {error}")
                if name is None or name in found:
                    raise
                found[name] = INSTEAD.get(name)
        if new := {name: instead for name, instead in found.items() if name not in self._refused}:
            self._refused |= new
            said = ", ".join(f"{name} is {what}" for name, what in told(new).items())
            self._say(f"llm: {self.url} does not take every parameter: {said} from now on.")
        return answer

    def body(self, request: Request, found: dict[str, str | None] | None = None) -> dict[str, Any]:
        """The request as this server takes it. ``found``: more that it refuses."""
        text = (
            {"messages": [{"role": "user", "content": request.prompt}]} if request.chat else {"prompt": request.prompt}
        )
        changes = self._refused | (found or {})
        return {"model": self.settings.model} | text | adapted(request.parameters, changes)

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        try:
            return await self.client.post(path, cast_to=str, body=body, options={"headers": self._headers})
        except openai.APIStatusError as error:
            response = error.response
            raise read_error(response.status_code, response.text, response.headers, self.settings.api_key) from error

    def _back_off(self, error: ServerError) -> None:
        self.limit = max(1, self.limit // 2)
        self._rate.clear()
        self._round.clear()
        self.blocked_until = max(self.blocked_until, time.monotonic() + error.retry_after)

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
        self._silent_since = math.inf
        """Since when nobody has answered a connection."""
        self._patience = PATIENCE

    @property
    def first(self) -> Endpoint:
        return self._endpoints[0]

    @asynccontextmanager
    async def open(self, timeout: float) -> AsyncIterator[None]:
        """Raises ``InputError`` for a proxy in the environment that cannot be used."""
        self._changed = asyncio.Condition()
        async with AsyncExitStack() as stack:
            for endpoint in self._endpoints:
                client = open_client(endpoint.settings, timeout)
                endpoint.client = await stack.enter_async_context(client)
            yield

    async def send(self, request: Request, max_retries: int, lose: Callable[[], bool] = lambda: True) -> Answer:
        """Send the request, and again what may pass: connections refused or reset, time-outs, 408, 409, 425, 429 and
        from 500 on. ``lose``: counts a try that timed out after it was sent, and says whether another one is paid for.

        Raises ``InputError`` if no endpoint can be reached for ``PATIENCE`` seconds, if one refuses the key or the
        model, has no money left or is to be left alone for longer than ``MAX_RETRY_AFTER``. Any other error comes as
        the answer's.
        """
        is_paid = True
        tries = tenacity.AsyncRetrying(
            retry=lambda state: is_paid and self._may_pass(state),
            stop=lambda state: self._gives_up(state, max_retries),
            wait=_pause,
            reraise=True,
        )
        last, number = None, 0
        try:
            async for attempt in tries:
                with attempt:
                    async with self.turn() as endpoint:
                        last, number = endpoint, attempt.retry_state.attempt_number
                        try:
                            return await self._watched(endpoint, request)
                        except openai.APITimeoutError as error:
                            is_paid = not may_be_billed(error) or lose()
                            raise
        except ServerError as error:
            if error.kind in ENDINGS and error.kind not in (Kind.REFUSED, Kind.WEB_PAGE):
                raise InputError(ending(last.settings, error.kind, str(error))) from error
            return Answer("", error=f"{error.name}: {error}")
        except openai.APIConnectionError as error:
            if not is_unreachable(error):
                return Answer(
                    "", error=f"timeout: {error}{'' if is_paid else ' Another try could go over the budget.'}"
                )
            if self._is_another_heard():
                return Answer("", error=f"{type(error).__name__}: {error.__cause__ or error}")
            raise InputError(unreachable(last.settings, error, number - 1)) from error
        except NotACompletion as error:
            return Answer("", error=f"{error.kind}: {error}")
        raise AssertionError("unreachable")

    async def _watched(self, endpoint: Endpoint, request: Request) -> Answer:
        """Note whether somebody answers at all, and end the run where all endpoints want to be left alone for long."""
        try:
            answer = await endpoint.send(request)
        except openai.APIConnectionError as error:
            if is_unreachable(error):
                self._silent_since = min(self._silent_since, time.monotonic())
            raise
        except (ServerError, NotACompletion) as error:
            self._heard()
            wait = min(e.blocked_until for e in self._endpoints) - time.monotonic()
            if isinstance(error, ServerError) and wait > MAX_RETRY_AFTER:
                until = datetime.now(UTC) + timedelta(seconds=wait)
                raise InputError(
                    f"llm: {endpoint.url} takes no more requests until {until:%Y-%m-%d %H:%M} UTC, in"
                    f" {wait / 3600:.1f} hours: {error}. That is longer than the {MAX_RETRY_AFTER / 60:.0f} minutes"
                    " that a run waits; what was answered is kept: run again then"
                ) from error
            raise
        self._heard()
        return answer

    def _heard(self) -> None:
        self._silent_since, self._patience = math.inf, LONG_PATIENCE

    def _may_pass(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception()
        if isinstance(error, ServerError):
            odd = error.status == 200 and error.kind is Kind.OTHER
            return error.kind is Kind.PASSING or (odd and state.attempt_number == 1)
        if isinstance(error, NotACompletion):
            return state.attempt_number == 1
        return isinstance(error, openai.APIConnectionError) and self._silent_for() < self._patience

    def _gives_up(self, state: tenacity.RetryCallState, max_retries: int) -> bool:
        """After ``max_retries``; a server that has answered and is down now may be starting again, which takes it
        longer."""
        if state.attempt_number <= max_retries:
            return False
        error = state.outcome.exception()
        down = isinstance(error, openai.APIConnectionError) and is_unreachable(error) and self._has_heard()
        return not (max_retries and down and self._silent_for() > MOMENT)

    def _has_heard(self) -> bool:
        return self._patience == LONG_PATIENCE

    def _is_another_heard(self) -> bool:
        """Whether others are answered: what fails is then this request, and not the endpoint."""
        return self._has_heard() and self._silent_for() <= MOMENT

    def _silent_for(self) -> float:
        """Seconds since the first connection failed of those after which none was answered; negative: there is none."""
        return time.monotonic() - self._silent_since

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


def ending(settings: EndpointSettings, kind: Kind, error: str) -> str:
    """The message of a run that this ends."""
    where = shown_url(address_of(settings.base_url).base_url)
    likely = likely_base_url(where)
    hint = f"Should llm.base_url be {likely}?" if likely else "Check llm.base_url."
    return "llm: " + ENDINGS[kind].format(where=where, model=settings.model, error=error, base_url_hint=hint)


def _is_refusal(error: ServerError) -> bool:
    """Whether it may be a parameter that the server does not take (403: OpenAI's, of logprobs)."""
    return error.kind in (Kind.OTHER, Kind.REFUSED) and error.status in (200, 400, 403, 422)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try; none where the server has named a time, as its endpoint waits for that anyhow."""
    error = state.outcome.exception()
    if isinstance(error, ServerError) and error.retry_after:
        return 0.0
    most = 4 if isinstance(error, openai.APIConnectionError) else 60
    return tenacity.wait_random_exponential(multiplier=0.5, max=most)(state)
