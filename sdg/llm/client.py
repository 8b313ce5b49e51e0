"""One way to ask any LLM that speaks the OpenAI protocol: in parallel, with retries, through the journal."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import OVER_BUDGET, Answer, EndpointSettings, Request
from sharpen.sdg.llm.servers import Kind, told

if TYPE_CHECKING:
    from sharpen.sdg.llm.endpoints import EndpointPool

T = TypeVar("T")

MAX_FAILED = 0.01
"""Fraction of the requests that may stay without an answer; more is an outage, and what is made of the rest would be
too little in silence."""
TURNED_AWAY = (Kind.REFUSED, Kind.WEB_PAGE)
"""Errors that are of a document where others are answered, and of the endpoint where none is."""
Refused = dict[str, str | None]
"""Parameters that a server does not take, with what they are sent as (None: left out)."""
Ahead = Callable[["LLMClient", Sequence[Request]], None]
POLL = 0.1
"""Seconds between two looks for an answer that another program asks for."""
MAX_TURNED_AWAY = 10
"""So many in a row are the endpoint's."""


def warn(sentence: str) -> None:
    """Say something to whoever has not said how."""
    warnings.warn(sentence, stacklevel=2)


@dataclass(repr=False, eq=False)
class LLMClient:
    """A model behind one base URL or several, open for questions.

    ``identity``: what the journal knows the model by (default: its name); servers of the same model share answers.
    ``timeout`` (seconds) holds for one try. What may pass (connections refused or reset, timeouts, 408, 409, 425, 429,
    5xx) is tried again ``max_retries`` times with growing pauses, or after what Retry-After says, at another endpoint
    where there is one. The number of requests under way adapts to each endpoint, see ``endpoints.Endpoint``.
    ``spending`` counts money, and no request is sent that could go over its budget. ``chat``: how the model is to be
    asked, for those who write requests. ``extra_body``: parameters that go into every request. ``batch``: ask by the
    server's batch API, see ``batches``. ``ahead``: is given the client and all requests that the journal does not know,
    before any is asked, and may bring answers into it, see ``workers``. ``say`` is given a sentence on what a person
    should know. ``refused``: what servers are known not to take, to be shared by clients.
    """

    endpoints: Sequence[EndpointSettings]
    journal: Journal
    identity: str = ""
    timeout: float = 120.0
    max_retries: int = 6
    spending: Spending | None = None
    _: KW_ONLY
    chat: bool = True
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    batch: bool = False
    ahead: Ahead | None = None
    say: Callable[[str], None] = warn
    refused: dict[str, Refused] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identity = self.identity or self.endpoints[0].model
        self.spending = self.spending or Spending()
        self._empty: set[str] = set()
        """Keys of answers without a text that came just now."""
        self._turned_away: list[str] = []
        """The errors in a row."""
        self._was_answered = False
        self._waits = False

    @property
    def refused_parameters(self) -> dict[str, str]:
        """What the servers did not take until now: parameter to what became of it (left out, sent as ...)."""
        return {name: what for changes in self.refused.values() for name, what in told(changes).items()}

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
        with ``error`` set and is not kept in the journal. One without a text is kept, and counts as known for as long
        as this client is open. Raises ``InputError`` if no endpoint can be reached, one refuses the key or the model,
        has no money left or wants to be left alone for more than 10 minutes, or if every request is turned away; what
        was answered until then is in the journal.
        """
        if self.ahead:
            requests = list(requests)
            self.ahead(self, list(self._unknown(requests).values()))
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
        every = list(requests) if self.batch else requests
        numbered = enumerate(every)
        refused = [self.refused.setdefault(f"{e.base_url} {e.model}", {}) for e in self.endpoints]
        pool = EndpointPool([Endpoint(e, what, self.say) for e, what in zip(self.endpoints, refused, strict=True)])

        async def work() -> None:
            for number, request in numbered:  # one iterator for all workers: each request is taken once
                key = self.key(request)
                while key in under_way:  # the same request again: it waits for the first one's answer
                    await asyncio.wait([under_way[key]])
                answer = self.known(request)
                if answer is None:
                    under_way[key] = asyncio.ensure_future(self._claimed(pool, request))
                    try:
                        answer = await under_way[key]
                    finally:
                        del under_way[key]
                else:
                    self._was_answered = True
                    self._count(key, answer)
                    await asyncio.sleep(0)  # let answers in that have come meanwhile
                results[number] = use(number, request, answer)

        async with pool.open(self.timeout):
            if self.batch:
                await self._ask_by_batch(pool, every)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(sum(settings.max_concurrency for settings in self.endpoints)):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
        self._raise_if_turned_away()
        return [results[number] for number in range(len(results))]

    async def _claimed(self, pool: EndpointPool, request: Request) -> Answer:
        """The answer to a request, of this program or of another one that shares the journal and asks for the same."""
        key = self.key(request)
        while not self.journal.claim(key):
            if not self._waits:
                self._waits = True
                self.say(f"another program asks {self.identity} for the same answers; waiting for them")
            await asyncio.sleep(POLL)
        try:
            if (answer := self.known(request)) is None:
                return await self._answer(pool, request)
            self._was_answered = True
            self._count(key, answer)
            return answer
        finally:
            self.journal.release(key)

    def known(self, request: Request) -> Answer | None:
        """The answer that the journal has. One without a text, of a server that may be mended by now, is none, but for
        a model that this program serves itself."""
        stored = self.journal.get(key := self.key(request))
        if stored is None:
            return None
        answer = Answer(**stored, from_journal=True).readable()
        return answer if not answer.is_empty or key in self._empty or self.warm_up else None

    def _unknown(self, requests: Iterable[Request]) -> dict[str, Request]:
        """By their keys, each once, those that the journal has no answer to."""
        return {self.key(request): request for request in requests if self.known(request) is None}

    def record(self, request: Request, answer: Answer) -> None:
        """Put an answer into the journal, as if the request had been asked now."""
        self.record_key(self.key(request), answer)

    def record_key(self, key: str, answer: Answer) -> None:
        """As ``record``, of a request of which the key is known."""
        usual = asdict(Answer(""))
        always = ("text", "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds", "error")
        stored = {name: v for name, v in asdict(answer).items() if name in always or v != usual[name]}
        stored.pop("from_journal", None)
        self.journal.put(key, stored)
        if answer.readable().is_empty:
            self._empty.add(key)

    def _count(self, key: str, answer: Answer) -> None:
        self.spending.add(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens, answer.batch, key)

    def key(self, request: Request) -> str:
        """By which the journal knows the answer."""
        more = {"extra_body": dict(self.extra_body)} if self.extra_body else {}
        return self.journal.key({"model": self.identity} | request.identity() | more)

    async def _answer(self, pool: EndpointPool, request: Request) -> Answer:
        sent = request.with_body(self.extra_body)
        bound = sent.token_bound()
        if not await pool.wait_for(lambda: self.spending.reserve(*bound)):
            return Answer("", error=f"{OVER_BUDGET}: {self.spending}")
        try:
            if request.warm_up is not None:
                await pool.send(_computed_anew(request.warm_up), self.max_retries)
            answer = await self._shortened(pool, sent)
            if not answer.error:
                self.record(request, answer)
                self._count(self.key(request), answer)
        finally:
            self.spending.release(*bound)
            await pool.announce()
        self._watch(answer)
        return answer.readable()

    async def _ask_by_batch(self, pool: EndpointPool, requests: Iterable[Request]) -> None:
        """Bring as many answers as can be had by batch into the journal. One request goes ahead by itself: what the
        server refuses of it, a key or a parameter, it would refuse of all."""
        from sharpen.sdg.llm.batches import Batches  # loads openai

        unknown = self._unknown(requests)
        if len(unknown) > 1:
            batches = Batches(self, pool.first)
            await batches.finish(unknown)
            left = [request for request in unknown.values() if self.known(request) is None]
            if len(left) > 1 and self.spending.reserve(*(bound := left[0].with_body(self.extra_body).token_bound())):
                try:
                    answer = await self._shortened(pool, left[0].with_body(self.extra_body))
                finally:
                    self.spending.release(*bound)
                if not answer.error:  # it is counted when it is used, as all that is in the journal
                    self.record(left[0], answer)
                await batches.answer(unknown)

    async def _shortened(self, pool: EndpointPool, request: Request) -> Answer:
        """The answer, with the document halved until the server takes it."""
        answer, times = await self._send(pool, request), 0
        while answer.error_kind == Kind.TOO_LONG and request.shorter and (less := request.shorter()):
            request, times = less.with_body(self.extra_body), times + 1
            answer = replace(await self._send(pool, request), shortened=times)
        return answer

    async def _send(self, pool: EndpointPool, request: Request) -> Answer:
        return await pool.send(request, self.max_retries, lambda: self.spending.lose(*request.token_bound()))

    def _watch(self, answer: Answer) -> None:
        """One request that is turned away is that document's trouble; all of them end the run."""
        if answer.error_kind in TURNED_AWAY:
            self._turned_away.append(answer.error)
        elif not answer.error:
            self._was_answered = True
            self._turned_away.clear()
        if len(self._turned_away) >= MAX_TURNED_AWAY:
            self._was_answered = False
            self._raise_if_turned_away()

    def _raise_if_turned_away(self) -> None:
        if self._turned_away and not self._was_answered:
            from sharpen.sdg.llm.endpoints import ending

            kind, _, said = self._turned_away[-1].partition(": ")
            raise InputError(ending(self.endpoints[0], kind, said))


def raise_if_unanswered(client: LLMClient, answers: Sequence[Answer], what: str, instead: str) -> None:
    """Raise ``InputError`` where the budget ended before the last answer, and for an outage. ``what`` was asked;
    ``instead``: what a person may do in place of raising the budget."""
    if unpaid := sum(answer.error_kind == OVER_BUDGET for answer in answers):
        raise InputError(
            f"llm.budget: {unpaid:,} of {len(answers):,} {what} were not asked ({client.spending}). What was answered"
            f" is kept: raise it and run again, or {instead}"
        )
    raise_if_outage(answers)


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


def _computed_anew(warm_up: Request) -> Request:
    """The request without what the server's cache has of an earlier prompt: a run that was killed has none, and what is
    computed in other pieces differs in the last bits."""
    body = warm_up.parameters.get("extra_body", {}) | {"cache_prompt": False}
    return replace(warm_up, parameters=warm_up.parameters | {"extra_body": body})
