"""One way to ask any LLM that speaks the OpenAI protocol: in parallel, with retries, through the journal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import openai

from evaluation.files import InputError
from sdg.journal import Journal


@dataclass(frozen=True)
class Request:
    """A prompt to continue (``chat`` off) or a user message to answer (``chat`` on), with the sampling parameters.

    ``parameters`` go into the request as they are: max_tokens, temperature, top_p, seed, stop, ...
    """

    prompt: str
    chat: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """``text`` as it came, and the server's own count of tokens. ``error``: why there is no text."""

    text: str
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    from_journal: bool = False

    @property
    def failed(self) -> bool:
        """Whether asking again later may help: not after a refusal (a prompt too long) or an answer that is none."""
        return self.error.partition(":")[0] in ("timeout", "RateLimitError", "InternalServerError", "ConflictError")


class LLM:
    """A model behind a base URL.

    ``identity``: what the journal knows the model by (default: ``model``); two servers of the same model share answers.
    ``concurrency``: requests under way at once. ``timeout`` (seconds) holds for one try; refused connections, 408, 409,
    429 and 5xx are tried again ``max_retries`` times, with growing pauses, or after what Retry-After says. ``local``: go
    past the proxies that the environment names.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        journal: Journal,
        identity: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_retries: int = 6,
        local: bool = False,
    ) -> None:
        self._settings = {"base_url": base_url, "api_key": api_key, "timeout": timeout, "max_retries": max_retries}
        self._local = local
        self.base_url = base_url
        self.model = model
        self.identity = identity or model
        self.journal = journal
        self.concurrency = concurrency

    def ask(
        self,
        requests: Sequence[Request],
        warm_up: Sequence[Request | None] = (),
        on_answer: Callable[[Answer], None] | None = None,
    ) -> list[Answer]:
        """Answer every request, in the order given; what the journal holds is not asked again.

        ``warm_up``: for each request, one to send ahead of it whose answer is thrown away, or None. It serves to bring
        a server's prefix cache into the same state whether or not earlier requests came from the journal.
        An answer that cannot be had (a bad request, a server error after all retries) comes back with ``error`` set and
        is not kept. Raises ``InputError`` if the endpoint cannot be reached or refuses the key or the model; what was
        answered until then is in the journal.
        """
        return asyncio.run(self._ask(requests, warm_up, on_answer))

    def knows(self, request: Request) -> bool:
        """Whether the journal has the answer."""
        return self.journal.get(self._key(request)) is not None

    def _key(self, request: Request) -> str:
        return self.journal.key({"model": self.identity} | asdict(request))

    async def _ask(self, requests, warm_up, on_answer) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(requests)
        queue = iter(range(len(requests)))

        async def work(client: openai.AsyncOpenAI) -> None:
            for i in queue:  # one iterator for all workers: each index is taken once
                key = self._key(requests[i])
                if (stored := self.journal.get(key)) is not None:
                    answers[i] = Answer(**stored, from_journal=True)
                else:
                    if i < len(warm_up) and warm_up[i] is not None:
                        await self._send(client, warm_up[i])
                    answers[i] = await self._send(client, requests[i])
                    if not answers[i].error:
                        stored = asdict(answers[i])
                        del stored["from_journal"]
                        self.journal.put(key, stored)
                if on_answer:
                    on_answer(answers[i])

        http_client = openai.DefaultAsyncHttpxClient(trust_env=False) if self._local else None
        async with openai.AsyncOpenAI(**self._settings, http_client=http_client) as client:
            if client.base_url.host != "api.openai.com":  # the account that $OPENAI_ORG_ID names is nobody else's business
                client.organization = client.project = None
            workers = [asyncio.create_task(work(client)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
        return answers

    async def _send(self, client: openai.AsyncOpenAI, request: Request) -> Answer:
        try:
            if request.chat:
                response = await client.chat.completions.create(model=self.model, messages=[{"role": "user", "content": request.prompt}], **request.parameters)
            else:
                response = await client.completions.create(model=self.model, prompt=request.prompt, **request.parameters)
            choice, usage = response.choices[0], response.usage
            text = _storable(choice.message.content if request.chat else choice.text)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise InputError(f"llm: {self.base_url} refuses the request for model {self.model!r}: {error}. Check llm.model and llm.api_key_env") from error
        except openai.APITimeoutError as error:
            return Answer("", error=f"timeout: {error}")
        except openai.APIConnectionError as error:
            raise InputError(f"llm: cannot reach {self.base_url} after {self._settings['max_retries']} retries ({error.__cause__ or error}). Is the server running? Check llm.base_url") from error
        except openai.APIError as error:
            return Answer("", error=f"{type(error).__name__}: {error}")
        except (IndexError, AttributeError, TypeError, ValueError) as error:  # no JSON, or JSON of another shape
            return Answer("", error=f"not a completion: {error}")
        if usage is None:
            return Answer(text, choice.finish_reason or "")
        details = getattr(usage, "prompt_tokens_details", None)
        return Answer(text, choice.finish_reason or "", usage.prompt_tokens, (details and details.cached_tokens) or 0, usage.completion_tokens)


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
        raise InputError(f"llm.api_key_env: the value of {variable} is no key: it has characters other than printable ASCII")
    return key
