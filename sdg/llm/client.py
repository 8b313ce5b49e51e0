"""One way to ask any LLM that speaks the OpenAI protocol: in parallel, with retries, through the journal."""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import openai
import tenacity
from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.llm.journal import Journal

T = TypeVar("T")

MAX_ANSWER_CHARACTERS = 100_000
"""Longer answers are no answers to what is asked here, and would fill journal and memory."""
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


@dataclass(frozen=True)
class Request:
    """A prompt to continue (``chat`` off) or a user message to answer (``chat`` on), with the sampling parameters.

    ``parameters`` go into the request as they are: max_tokens, temperature, top_p, seed, stop, response_format, ...
    ``warm_up``: another request to send ahead of this one, whose answer is thrown away; it brings a server's prefix
    cache into the same state whether or not earlier requests came from the journal.
    """

    prompt: str
    chat: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    warm_up: Request | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        """What the answer depends on."""
        return {"prompt": self.prompt, "chat": self.chat, "parameters": self.parameters}


@dataclass(frozen=True)
class Answer:
    """``text`` as it came, and the server's own count of tokens. ``error``: why there is no text. ``seconds``: of the
    try that succeeded."""

    text: str
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    from_journal: bool = False

    @property
    def failed(self) -> bool:
        """Whether asking again later may help: not after a refusal (a prompt too long) or an answer that is none."""
        return self.error.partition(":")[0] in (
            "timeout",
            "RateLimitError",
            "InternalServerError",
            "ConflictError",
            "APIConnectionError",
        )


OVER_BUDGET = "over budget"


@dataclass(frozen=True)
class EndpointSettings:
    """Where a model is served. ``max_concurrency``: requests under way at once at most; ``local``: go past the proxies
    that the environment names."""

    base_url: str
    api_key: str
    model: str
    max_concurrency: int = 8
    local: bool = False


class LLM:
    """A model behind one base URL or several.

    ``identity``: what the journal knows the model by (default: its name); servers of the same model share answers.
    ``timeout`` (seconds) holds for one try. What may pass (connections refused or reset, timeouts, 409, 429, 5xx) is
    tried again ``max_retries`` times with growing pauses, or after what Retry-After says, at another endpoint where
    there is one. The number of requests under way adapts to each endpoint, see ``_Endpoint``. ``spending`` counts
    money, and no request is sent that could go over its budget.
    """

    def __init__(
        self,
        endpoints: Sequence[EndpointSettings],
        journal: Journal,
        identity: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 6,
        spending: Spending | None = None,
    ) -> None:
        self.endpoints = list(endpoints)
        self.identity = identity or endpoints[0].model
        self.journal = journal
        self.timeout = timeout
        self.max_retries = max_retries
        self.spending = spending or Spending()
        self._no_schemas: set[str] = set()
        """Base URLs of servers that cannot hold a model to a JSON schema."""

    def ask(self, requests: Iterable[Request], use: Callable[[int, Request, Answer], T] | None = None) -> list[T]:
        """Answer every request; what the journal holds is not asked again.

        Requests are taken from the iterable as they can be sent. ``use(number, request, answer)`` is called for each
        answer as it comes, and what it returns is kept: the result, in the order of the requests (default: the
        answers). An answer that cannot be had (a bad request, a server error after all retries, no money left) comes
        with ``error`` set and is not kept in the journal. Raises ``InputError`` if no endpoint can be reached or one
        refuses the key or the model; what was answered until then is in the journal.
        """
        return asyncio.run(self._ask(requests, use or (lambda _number, _request, answer: answer)))

    async def _ask(self, requests: Iterable[Request], use: Callable[[int, Request, Answer], T]) -> list[T]:
        results: dict[int, T] = {}
        under_way: dict[str, asyncio.Future[Answer]] = {}
        numbered = enumerate(requests)
        pool = _Pool([_Endpoint(settings, self._no_schemas) for settings in self.endpoints])

        async def work() -> None:
            for number, request in numbered:  # one iterator for all workers: each request is taken once
                key = self._key(request)
                while key in under_way:  # the same request again: it waits for the first one's answer
                    await asyncio.wait([under_way[key]])
                answer = self.known(request)
                if answer is None:
                    under_way[key] = asyncio.ensure_future(self._answer(pool, request))
                    try:
                        answer = await under_way[key]
                    finally:
                        del under_way[key]
                else:
                    self.spending.add(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
                    await asyncio.sleep(0)  # let answers in that have come meanwhile
                results[number] = use(number, request, answer)

        async with pool.open(self.timeout):
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(sum(settings.max_concurrency for settings in self.endpoints)):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [results[number] for number in range(len(results))]

    def known(self, request: Request) -> Answer | None:
        """The answer that the journal has."""
        stored = self.journal.get(self._key(request))
        return None if stored is None else Answer(**stored, from_journal=True)

    def record(self, request: Request, answer: Answer) -> None:
        """Put an answer into the journal, as if the request had been asked now."""
        stored = asdict(answer)
        del stored["from_journal"]
        self.journal.put(self._key(request), stored)

    def _key(self, request: Request) -> str:
        return self.journal.key({"model": self.identity} | request.identity())

    async def _answer(self, pool: _Pool, request: Request) -> Answer:
        bound = _token_bound(request)
        if not await pool.wait_for(lambda: self.spending.reserve(*bound)):
            return Answer("", error=f"{OVER_BUDGET}: {self.spending}")
        try:
            if request.warm_up is not None:
                await self._send(pool, request.warm_up)
            answer = await self._send(pool, request)
            if not answer.error:
                self.record(request, answer)
                self.spending.add(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        finally:
            self.spending.release(*bound)
            await pool.announce()
        return answer

    async def _send(self, pool: _Pool, request: Request) -> Answer:
        tries = tenacity.AsyncRetrying(
            retry=_may_pass,
            stop=tenacity.stop_after_attempt(self.max_retries + 1),
            wait=_pause,
            reraise=True,
        )
        last = None
        try:
            async for attempt in tries:
                with attempt:
                    async with pool.turn() as endpoint:
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
                f"llm: cannot reach {last.settings.base_url} after {self.max_retries} retries"
                f" ({error.__cause__ or error}). Is the server running? Check llm.base_url"
            ) from error
        except openai.APIError as error:
            return Answer("", error=f"{type(error).__name__}: {error}")
        except _NotACompletion as error:
            return Answer("", error=f"not a completion: {error}")
        raise AssertionError("unreachable")


def _without_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in parameters.items() if key != "response_format"}
    if body := rest.pop("extra_body", None):
        rest |= (
            {"extra_body": body}
            if (body := {key: value for key, value in body.items() if key != "json_schema"})
            else {}
        )
    return rest


class _NotACompletion(Exception):
    """The server said 200, and something else than the protocol has."""


class _Endpoint:
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
        """Share of the limit that is free; 0 if nothing may be sent now."""
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
            text = _storable(choice.message.content if request.chat else choice.text)
            details = getattr(usage, "prompt_tokens_details", None)
            if usage:
                tokens = (
                    int(usage.prompt_tokens),
                    int((details and details.cached_tokens) or 0),
                    int(usage.completion_tokens),
                )
            else:  # some servers do not count; what it can be at most is on the safe side of a budget
                prompt_tokens, completion_tokens = _token_bound(request)
                tokens = prompt_tokens, 0, completion_tokens
        except (IndexError, AttributeError, TypeError, ValueError) as error:  # no JSON, or JSON of another shape
            raise _NotACompletion(str(error)) from error
        finish = choice.finish_reason or ""
        if len(text) > MAX_ANSWER_CHARACTERS:
            text, finish = text[:MAX_ANSWER_CHARACTERS], "length"
        return Answer(text, finish, *tokens)

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


class _Pool:
    """The endpoints, of which each request goes to the one with the most room."""

    def __init__(self, endpoints: list[_Endpoint]) -> None:
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

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[_Endpoint]:
        """Wait until a request may be sent, and say where."""
        endpoint = await self.wait_for(self._take)
        try:
            yield endpoint
        finally:
            endpoint.active -= 1
            await self.announce()

    def _take(self) -> _Endpoint | None:
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


def _may_pass(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception()
    if (
        isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota"
    ):  # an empty account fills no sooner
        return False
    return isinstance(error, _PASSING) or (isinstance(error, _NotACompletion) and state.attempt_number == 1)


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


def _token_bound(request: Request) -> tuple[int, int]:
    """Tokens of prompt and completion at most: no tokenizer makes more tokens than bytes, but for its own marks."""
    requests = [request] if request.warm_up is None else [request, request.warm_up]
    return sum(len(r.prompt.encode()) + 64 for r in requests), sum(
        r.parameters.get("max_tokens", 4096) for r in requests
    )


def _storable(text: str | None) -> str:
    """Half a surrogate pair, as a token limit may leave it, cannot be written as UTF-8."""
    return (text or "").encode("utf-8", "replace").decode()


def api_key_from(variable: str | None) -> str:
    """The key in the environment variable named, or ``-`` (local servers ask for none).

    White space around it is removed (files with secrets end in a line break). Raises ``InputError`` if it is unset, or
    cannot stand in a header; an error of the HTTP library would show it.
    """
    if variable is None:
        return "-"
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"llm.api_key_env: the environment variable {variable} is not set")
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"llm.api_key_env: the value of {variable} is no key: it has characters other than printable ASCII"
        )
    return key
