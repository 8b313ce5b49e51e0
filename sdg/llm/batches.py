"""Asking by a server's batch API: files of requests that are answered within a day, often at half the price.

A batch is noted beside the answers before it is made on the server, and crossed out when its answers are in the
journal. A run that was stopped in between goes on with the same batch, so that none is paid twice. One that the server
does not know, or whose files it has no more, is crossed out, and its requests are asked anew, within the budget.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import openai

from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.connections import key_headers
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.llm.replies import NotACompletion, ServerError, read_answer, read_error, without_secret

if TYPE_CHECKING:
    from sharpen.sdg.llm.client import LLMClient
    from sharpen.sdg.llm.endpoints import Endpoint

MAX_REQUESTS = 50_000
"""In a batch, and MAX_BYTES of its file: what OpenAI takes."""
MAX_BYTES = 150_000_000
FIRST_POLL, LAST_POLL = 1.0, 60.0
"""Seconds between two questions whether a batch is done; they grow by half."""
RETRIES = 30
"""Tries more of each question about a batch, over some minutes: it is a matter of hours, and a network may be gone."""
_ENDED = ("completed", "failed", "expired", "cancelled")
_GONE = (404, 410)
"""Statuses of a batch or a file that a server has no more; some say 400 and speak of the file."""


@dataclass
class Batches:
    """The batches of an LLM at one ``endpoint``, which is open. ``client``: whose journal the answers go into."""

    client: LLMClient
    endpoint: Endpoint

    async def finish(self, requests: Mapping[str, Request]) -> None:
        """Keep the answers of batches that were under way when the program was stopped; ``requests``: by key. What
        cannot be had of a batch any more is said, and it is crossed out: each later start would else end here."""
        for file_id, path in self.client.journal.batches(self._where()):
            with self._explained():
                if (batch := await self._made_of(file_id)) is None:
                    self._give_up(file_id, "was not made; its requests are asked anew")
                    continue
                try:
                    await self._finish(file_id, path, batch, requests)
                except openai.APIStatusError as error:
                    if not _is_gone(error):
                        raise
                    self._give_up(file_id, "has lost its files there; what it answered is asked, and paid, anew")

    async def answer(self, requests: Mapping[str, Request]) -> None:
        """Put the answers to these requests, by their keys, into the journal, as far as batches bring them.

        What they do not bring (an error of a request, no money left for it) is not there afterwards. Raises
        ``InputError`` if the server has no batches, or ends one without any answer.
        """
        spending, tried = self.client.spending, set()
        while True:
            held, left = self._hold(requests)
            chosen = self._affordable({key: request for key, request in left.items() if key not in tried})
            try:
                if not chosen:
                    return
                with self._explained():
                    tried |= await self._run(chosen, requests)
            finally:
                for tokens in [*held, *((*self._bound(requests[key]), True) for key in chosen)]:
                    spending.release(*tokens)

    def _hold(self, requests: Mapping[str, Request]) -> tuple[list[tuple[int, int, bool]], dict[str, Request]]:
        """Reserve what the answers that are there have cost: they are counted when they are used, which is later.

        Returns what was reserved, and the requests that have none."""
        held, left = [], {}
        for key, request in requests.items():
            if (answer := self.client.known(request)) is None:
                left[key] = request
            elif not self.client.spending.is_counted(key) and self.client.spending.reserve(
                *(cost := (answer.prompt_tokens, answer.completion_tokens, answer.batch))
            ):
                held.append(cost)
        return held, left

    def _where(self) -> str:
        return f"{self.endpoint.url} {self.endpoint.settings.model}"

    def _bound(self, request: Request) -> tuple[int, int]:
        return request.with_body(self.client.extra_body).token_bound()

    def _affordable(self, requests: Mapping[str, Request]) -> dict[str, bytes]:
        """The lines of the next batch's file, by key; what they may cost at most is reserved."""
        lines: dict[str, bytes] = {}
        size = 0
        for key, request in requests.items():
            line = self._line(key, request)
            if len(lines) == MAX_REQUESTS or size + len(line) > MAX_BYTES:
                break
            if not self.client.spending.reserve(*self._bound(request), batch=True):
                break
            lines[key], size = line, size + len(line)
        return lines

    def _line(self, key: str, request: Request) -> bytes:
        body = self.endpoint.body(request.with_body(self.client.extra_body))
        row = {"custom_id": key, "method": "POST", "url": _path(request), "body": body}
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"

    async def _run(self, lines: Mapping[str, bytes], requests: Mapping[str, Request]) -> set[str]:
        """One batch, from its file to its answers. Returns the keys of what is not to be asked by batch again."""
        api = self._api()
        path = _path(requests[next(iter(lines))])
        content = b"".join(lines.values())
        file = await api.files.create(file=("requests.jsonl", content), purpose="batch", extra_headers=self._headers())
        self.client.journal.note_batch(file.id, self._where(), path)
        self.client.say(
            f"llm.batch: {len(lines):,} requests are handed in at {self.endpoint.url}; the answers come within a day."
            " This program may be stopped meanwhile: it goes on with them when it is started again."
        )
        # tried once: if its answer is lost, the server may have made it, and the next start of the program will see
        batch = await self.endpoint.client.batches.create(
            input_file_id=file.id, endpoint=path, completion_window="24h", extra_headers=self._headers()
        )
        return await self._finish(file.id, path, batch, requests, lines)

    async def _finish(
        self,
        file_id: str,
        path: str,
        batch: Any,
        requests: Mapping[str, Request],
        lines: Mapping[str, bytes] | None = None,
    ) -> set[str]:
        """Wait for a batch, keep its answers, and cross it out."""
        api = self._api()
        pause = FIRST_POLL
        while batch.status not in _ENDED:
            await asyncio.sleep(pause)
            pause = min(LAST_POLL, 1.5 * pause)
            batch = await api.batches.retrieve(batch.id, extra_headers=self._headers())
        answered, refused = 0, set()
        rows = [*await self._rows(batch.output_file_id), *await self._rows(batch.error_file_id)]
        with self.client.journal.together():
            for row in rows:
                kept = self._keep(row, requests, chat=path.endswith("/chat/completions"))
                answered += kept is True
                refused |= {row["custom_id"]} if kept is False else set()
            self.client.journal.cross_out_batch(file_id)
        if batch.status != "completed" and not answered and lines is not None:
            said = without_secret(_reasons(batch), self.endpoint.settings.api_key)
            raise InputError(f"llm.batch: {self.endpoint.url} ended a batch as {batch.status}{said}")
        # of a batch that expired, what is not answered goes into the next one
        return refused | (set(lines or ()) if batch.status == "completed" else set())

    def _give_up(self, file_id: str, why: str) -> None:
        self.client.say(f"llm.batch: a batch that an earlier start handed in at {self.endpoint.url} {why}.")
        self.client.journal.cross_out_batch(file_id)

    async def _made_of(self, file_id: str) -> Any:
        """The batch that was made of a file, if the server has made it before the program was stopped."""
        async for batch in self._api().batches.list(limit=100, extra_headers=self._headers()):
            if batch.input_file_id == file_id:
                return batch
        return None

    async def _rows(self, file_id: str | None) -> list[dict[str, Any]]:
        if not file_id:
            return []
        content = await self._api().files.content(file_id, extra_headers=self._headers())
        return [json.loads(line) for line in content.text.splitlines() if line.strip()]

    def _keep(self, row: Mapping[str, Any], requests: Mapping[str, Request], chat: bool) -> bool | None:
        """Keep a row's answer: True. False: it is an error, and whoever asks for it alone will see which; None: it may
        be answered in another batch.

        An answer to what is not asked now (the recipe was changed meanwhile) is paid for, too, and is kept as it is.
        """
        key, response = str(row["custom_id"]), row.get("response") or {}
        body = response.get("body")
        request = requests.get(key) or Request("", chat)
        try:
            status = int(response.get("status_code") or 0)
            if status != 200 or row.get("error"):
                error = read_error(status, json.dumps(body or {"error": row.get("error")}))
                return None if error.name in ("RateLimitError", "InternalServerError", "HTTP 0") else False
            answer = read_answer(json.dumps(body), request)
        except (ServerError, NotACompletion):
            return False
        if answer.error:
            return False
        self.client.record_key(key, replace(answer, batch=True))
        return True

    def _api(self) -> openai.AsyncOpenAI:
        return self.endpoint.client.with_options(max_retries=RETRIES)

    def _headers(self) -> dict[str, Any]:
        return key_headers(self.endpoint.settings)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the batch API itself, as a person may read them."""
        try:
            yield
        except openai.APIStatusError as error:
            secret = self.endpoint.settings.api_key
            said = read_error(error.response.status_code, error.response.text, error.response.headers, secret)
            raise InputError(
                f"llm.batch: {self.endpoint.url} does not take the batch: {said}. Where the server has none, leave"
                " batch out; what was answered is kept"
            ) from error
        except openai.APIConnectionError as error:
            raise InputError(
                f"llm.batch: cannot reach {self.endpoint.url} any more ({error.__cause__ or error}). The batch goes on"
                " there: run again to fetch its answers"
            ) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"llm.batch: {self.endpoint.url} answers with what is no batch ({error}). Where the server has none,"
                " leave batch out; what was answered is kept"
            ) from error


def _path(request: Request) -> str:
    return "/v1/chat/completions" if request.chat else "/v1/completions"


def _is_gone(error: openai.APIStatusError) -> bool:
    return error.status_code in _GONE or (error.status_code == 400 and "file" in error.response.text.lower())


def _reasons(batch: Any) -> str:
    errors = getattr(batch.errors, "data", None) or []
    return "".join(f": {error.message}" for error in errors[:1])
