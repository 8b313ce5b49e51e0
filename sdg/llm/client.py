"""One way to ask any LLM that speaks the OpenAI protocol: in parallel, with retries, through the journal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import OVER_BUDGET, Answer, EndpointSettings, Request

if TYPE_CHECKING:
    from sharpen.sdg.llm.endpoints import EndpointPool

T = TypeVar("T")

MAX_FAILED = 0.01
"""Fraction of the requests that may stay without an answer; more is an outage, and what is made of the rest would be
too little in silence."""


class LLMClient:
    """A model behind one base URL or several, open for questions.

    ``identity``: what the journal knows the model by (default: its name); servers of the same model share answers.
    ``timeout`` (seconds) holds for one try. What may pass (connections refused or reset, timeouts, 409, 429, 5xx) is
    tried again ``max_retries`` times with growing pauses, or after what Retry-After says, at another endpoint where
    there is one. The number of requests under way adapts to each endpoint, see ``endpoints.Endpoint``. ``spending``
    counts money, and no request is sent that could go over its budget. ``chat``: how the model is to be asked, for
    those who write requests.
    """

    def __init__(
        self,
        endpoints: Sequence[EndpointSettings],
        journal: Journal,
        identity: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 6,
        spending: Spending | None = None,
        *,
        chat: bool = True,
    ) -> None:
        self.endpoints = list(endpoints)
        self.identity = identity or endpoints[0].model
        self.journal = journal
        self.timeout = timeout
        self.max_retries = max_retries
        self.spending = spending or Spending()
        self.chat = chat
        self._no_schemas: set[str] = set()
        """Base URLs of servers that cannot hold a model to a JSON schema."""

    @property
    def warm_up(self) -> bool:
        """Whether prompts that begin alike should be preceded by what they share.

        True for a server of this program with one slot: its answers then do not depend on where an earlier run was
        killed.
        """
        return bool(self.endpoints) and all(endpoint.local for endpoint in self.endpoints)

    def ask(self, requests: Iterable[Request], use: Callable[[int, Request, Answer], T] | None = None) -> list[T]:
        """Answer every request; what the journal holds is not asked again.

        Requests are taken from the iterable as they can be sent. ``use(number, request, answer)`` is called for each
        answer as it comes, and what it returns is kept: the result, in the order of the requests (default: the
        answers). An answer that cannot be had (a bad request, a server error after all retries, no money left) comes
        with ``error`` set and is not kept in the journal. Raises ``InputError`` if no endpoint can be reached or one
        refuses the key or the model; what was answered until then is in the journal.
        """
        asking = self._ask(requests, use or (lambda _number, _request, answer: answer))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(asking)
        # in a notebook a loop is running in this thread already; the journal's connection allows the other one
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, asking).result()

    async def _ask(self, requests: Iterable[Request], use: Callable[[int, Request, Answer], T]) -> list[T]:
        from sharpen.sdg.llm.endpoints import Endpoint, EndpointPool  # loads openai

        results: dict[int, T] = {}
        under_way: dict[str, asyncio.Future[Answer]] = {}
        numbered = enumerate(requests)
        pool = EndpointPool([Endpoint(settings, self._no_schemas) for settings in self.endpoints])

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
        if answer.first_token is None:  # most are not asked for it
            del stored["first_token"]
        self.journal.put(self._key(request), stored)

    def _key(self, request: Request) -> str:
        return self.journal.key({"model": self.identity} | request.identity())

    async def _answer(self, pool: EndpointPool, request: Request) -> Answer:
        bound = request.token_bound()
        if not await pool.wait_for(lambda: self.spending.reserve(*bound)):
            return Answer("", error=f"{OVER_BUDGET}: {self.spending}")
        try:
            if request.warm_up is not None:
                await pool.send(request.warm_up, self.max_retries)
            answer = await pool.send(request, self.max_retries)
            if not answer.error:
                self.record(request, answer)
                self.spending.add(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        finally:
            self.spending.release(*bound)
            await pool.announce()
        return answer


def raise_if_outage(answers: Sequence[Answer]) -> None:
    """Raise ``InputError`` if more than 1 % of the answers failed in a way that may pass."""
    failed = [answer.error for answer in answers if answer.failed]
    if len(failed) > MAX_FAILED * len(answers):
        raise InputError(
            f"llm: {len(failed)} of {len(answers)} requests failed, the last with {failed[-1]!r}. What was answered is"
            " kept; run again to ask for the rest"
        )


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
