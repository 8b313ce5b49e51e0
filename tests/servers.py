"""HTTP servers for tests: one that misbehaves as it is told, and one that passes on to a real LLM and counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def serve_replies(reply: Callable[[str, dict, dict], Reply]) -> Iterator[str]:
    """Serve POST and GET requests with ``reply(path, body, headers)`` on a free port of the loopback address. Yields
    the base URL. A body that is no JSON is given as bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = json.loads(raw) if self.headers["Content-Type"] == "application/json" and raw else raw
            status, headers, content = reply(self.path, body, self.headers)
            if status == 0:  # hang up without an answer
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            for name, value in (
                {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def chat_answer(text: str, finish_reason: str = "stop", **more) -> Reply:
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}} | more
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    return (
        200,
        {},
        json.dumps(
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        ).encode(),
    )


def logprobs_answer(first_token: dict[str, float], chat: bool = True) -> Reply:
    """An answer of one token, the first of ``first_token``, with the logprobs of all of them: in the layout of chats,
    or in the older one of continued prompts."""
    text = next(iter(first_token), "")
    if chat:
        rows = [{"token": token, "logprob": logprob} for token, logprob in first_token.items()]
        place = [{"token": text, "logprob": first_token[text], "top_logprobs": rows}] if rows else []
        choice = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": place}}
    else:
        tops = {"tokens": [text], "token_logprobs": [first_token.get(text)], "top_logprobs": [first_token]}
        choice = {"text": text, "logprobs": tops}
    usage = {"prompt_tokens": 15, "completion_tokens": 1, "total_tokens": 16}
    return 200, {}, json.dumps({"choices": [choice | {"finish_reason": "length"}], "usage": usage}).encode()
