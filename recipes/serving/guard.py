"""Who may speak with a server on the loopback address: the page that it printed the address of, and nobody else.

Other pages in the same browser can send requests here, by the address or under a name of their own that resolves to
it (DNS rebinding). So each request must name this server as its host, an origin must be this server's own, and whatever
is no file of the page must bring the token, which stands in the printed address behind ``#``, as browsers send that to
nobody.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_BYTES = 64 * 1024
"""Of a request's body."""
MOST_HEADERS = 16 * 1024
"""Bytes of a request's address and headers."""
SECONDS = 10
"""In which it must have come."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class _TooLarge(Exception):
    pass


@dataclass(frozen=True)
class Guard:
    """An ASGI application before another one. ``hosts``: what a request may name, as ``127.0.0.1:8000``.
    ``open_paths``: the files of the page, which say nothing of a run and need no token."""

    app: App
    hosts: frozenset[str]
    token: str
    open_paths: frozenset[str]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: there is none here
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        if refused := self._refused(scope):
            await _answer(send, *refused)
            return
        try:
            body = await asyncio.wait_for(_read(receive), SECONDS)
        except TimeoutError:
            await _answer(send, 408, "the request did not end")
            return
        except _TooLarge:
            await _answer(send, 413, f"a request has {MOST_BYTES:,} bytes at most")
            return
        await self.app(scope, _replayed(body, receive), send)

    def _refused(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason of what is not answered."""
        head = [scope["raw_path"], scope["query_string"], *(part for header in scope["headers"] for part in header)]
        if sum(map(len, head)) > MOST_HEADERS:
            return 431, f"address and headers have {MOST_HEADERS:,} bytes at most"
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return 421, f"this is {min(self.hosts)}; through a tunnel, take the same port on both ends"
        if any(origin.lower() not in {f"http://{host}" for host in self.hosts} for origin in origins):
            return 403, "this is another page's request"
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", [])) and (
            scope["path"] not in self.open_paths
        ):
            return 403, "this is another page's request"
        given = headers.get("authorization", [""])
        if scope["path"] not in self.open_paths and not _same(given[0], f"Bearer {self.token}"):
            return 401, "open the address that sharpen serve has printed, with all that stands behind #"
        return None


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            more: Iterable[tuple[bytes, bytes]] = ((k.encode(), v.encode()) for k, v in HEADERS.items())
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


async def _read(receive: Receive) -> bytes:
    """A request's body, which may come in pieces and without its length. Raises ``_TooLarge``."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise _TooLarge
        if not message.get("more_body"):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def received() -> Message:
        return next(given, None) or await receive()

    return received


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
