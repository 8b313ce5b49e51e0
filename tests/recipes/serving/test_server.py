"""The server of the page: whom it answers, and what it does with requests that no page sends."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sharpen.evaluation.files import InputError
from sharpen.recipes.serving.app import FILES, open_socket
from sharpen.recipes.serving.guard import HEADERS, MOST_BYTES
from tests.processes import environment, sharpen
from tests.recipes.serving.conftest import Served

SEARCH = {"query": "ice flowing downhill", "systems": ["bm25", "base", "tuned"], "k": 10}


def _ask(served: Served, method: str, path: str, body=None, **headers) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    given = {"authorization": f"Bearer {served.token}", "content-type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(body) if isinstance(body, dict) else body
    with contextlib.closing(connection):
        given = {name: value for name, value in given.items() if value is not None}
        connection.request(method, path, body, given, encode_chunked="transfer-encoding" in given)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


def test_a_search_a_mark_and_a_decision(served):
    about = json.loads(_ask(served, "GET", "/api/about")[2])
    assert about["run"] == "small" and about["documents"] == 12 and about["who"] == "Anna"
    assert [system["name"] for system in about["systems"]] == ["bm25", "base", "tuned", "fused", "reranked"]
    found = json.loads(_ask(served, "POST", "/api/search", SEARCH)[2])
    assert list(found["systems"]) == SEARCH["systems"]
    assert all(len(of["hits"]) <= 10 for of in found["systems"].values()) and found["moves"]
    assert {hit["id"] for of in found["systems"].values() for hit in of["hits"]} <= found["documents"].keys()
    mark = {"query": SEARCH["query"], "document": "glacier", "relevant": True}
    assert json.loads(_ask(served, "POST", "/api/mark", mark)[2])["marks"] == {"glacier": True}
    assert json.loads(_ask(served, "POST", "/api/search", SEARCH)[2])["marks"] == {"glacier": True}
    items = json.loads(_ask(served, "POST", "/api/items", {"group": "accepted"})[2])
    assert items["total"] == about["groups"]["accepted"] >= len(items["items"])
    decision = {key: items["items"][0][key] for key in ("key", "query", "copy_key")} | {"decision": "reject"}
    for seen in ({"query": "what stood there before"}, {"copy_key": "0"}):
        status, _, reply = _ask(served, "POST", "/api/decide", decision | seen)
        assert status == 400 and "load the page again" in json.loads(reply)["error"]
    assert json.loads(_ask(served, "POST", "/api/decide", decision)[2])["decided"] == 1
    assert json.loads(_ask(served, "POST", "/api/decide", decision | {"decision": None})[2])["decided"] == 0


def test_what_the_server_cannot_write_is_said(served, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharpen.recipes.serving.marks.append", full)
    mark = {"query": SEARCH["query"], "document": "glacier", "relevant": True}
    status, _, reply = _ask(served, "POST", "/api/mark", mark)
    assert status == 500 and "No space left on device" in json.loads(reply)["error"]


def test_every_answer_carries_the_policy(served):
    for path in (*FILES, "/api/about", "/api/nothing", "/docs", "/openapi.json", "/page.js/../../app.py"):
        status, headers, body = _ask(served, "GET", path)
        assert {name: headers.get(name) for name in HEADERS} == HEADERS and "server" not in headers
        assert status == (200 if path in FILES or path == "/api/about" else 404), path
        if path in FILES:
            body = body.replace(b"http://www.w3.org/2000/svg", b"")  # a name, which nobody fetches
            assert b"http://" not in body and b"https://" not in body
    assert "unsafe" not in HEADERS["content-security-policy"]
    script = b"".join(_ask(served, "GET", path)[2] for path in FILES if path.endswith(".js"))
    for forbidden in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("):
        assert forbidden not in script


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": None}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer " + "x" * 43}, 401),
        ({"authorization": "Bearer \xff"}, 401),
        ({"host": "evil.example"}, 421),  # a name that resolves to this address
        ({"host": "127.0.0.1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
def test_who_is_not_this_page_is_not_answered(served, headers, status):
    for method, path, body in (("POST", "/api/search", SEARCH), ("GET", "/api/about", None)):
        assert _ask(served, method, path, body, **headers)[0] == status
    if "host" in headers or "origin" in headers:
        assert _ask(served, "GET", "/", **headers)[0] == status


def test_the_page_is_answered_by_both_names_of_the_address(served):
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{served.port}"
        assert _ask(served, "GET", "/api/about", host=origin[7:], origin=origin, sec_fetch_site="same-origin")[0] == 200
    assert _ask(served, "GET", "/", authorization=None)[0] == 200
    assert served.token.encode() not in _ask(served, "GET", "/")[2] and len(served.token) >= 43


def test_half_characters_and_blanks_are_refused(served):
    for query in ("\ud800", "ice \udfff", " \n ", ""):
        assert _ask(served, "POST", "/api/search", SEARCH | {"query": query})[0] == 422
        mark = {"query": query, "document": "glacier", "relevant": True}
        assert _ask(served, "POST", "/api/mark", mark)[0] == 422
    unknown = {"query": "ice", "document": "no such", "relevant": True}
    assert _ask(served, "POST", "/api/mark", unknown)[0] == 400


def test_sizes_are_limited(served):
    assert _ask(served, "POST", "/api/search", "x" * (MOST_BYTES + 1))[0] == 413
    assert _ask(served, "POST", "/api/search", iter([b"x" * 1000] * 66), transfer_encoding="chunked")[0] == 413
    assert _ask(served, "POST", "/api/search", SEARCH | {"query": "x" * 2001})[0] == 422
    assert _ask(served, "POST", "/api/search", SEARCH | {"k": 51})[0] == 422
    assert _ask(served, "POST", "/api/search", SEARCH | {"query": "x" * 2000})[0] == 200
    assert _ask(served, "GET", "/api/about", x="y" * 20_000)[0] == 431
    assert _ask(served, "GET", "/api/about?" + "y" * 20_000)[0] == 431


def test_it_listens_on_the_loopback_address_alone(served):
    with open_socket(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address that others see
        if not (outer := probe.getsockname()[0]).startswith("127."):
            with pytest.raises(OSError), socket.create_connection((outer, served.port), timeout=2):
                pass
    with pytest.raises(InputError, match=f"--port {served.port}"):
        open_socket(served.port)


def test_a_run_that_cannot_be_served_is_named(tmp_path):
    result = sharpen("serve", str(tmp_path), "--port", "0", cwd=tmp_path)
    assert result.returncode == 2 and "no run there" in result.stderr


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(run):
    command = [sys.executable, "-m", "sharpen.recipes", "serve", str(run), "--port", "0", "--as", "Ben"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            served = Served(run, process.stdout.readline().strip())
            assert json.loads(_ask(served, "GET", "/api/about")[2])["who"] == "Ben"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


VALUES = (
    *(None, True, -1, 0, 1e308, 10**400, "", " ", "\ud800", "\x00", "x" * 3000, [], {}, [[]], {"a": {"b": []}}),
    *("../../etc/passwd", "<img src=x onerror=alert(1)>", "'; DROP TABLE marks; --", "\u202e", "glacier", "bm25"),
)
KEYS = (
    "query",
    "systems",
    "k",
    "document",
    "relevant",
    "group",
    "words",
    "start",
    "key",
    "decision",
    "text",
    "__proto__",
)
PATHS = (
    "/api/search",
    "/api/mark",
    "/api/items",
    "/api/decide",
    "/api/about",
    "/",
    "/api/",
    "/..%2f..%2fapp.py",
    "//x",
)


def test_a_thousand_bad_requests_change_nothing_and_none_is_an_error_of_the_server(served):
    drawn = random.Random(26)
    before = _contents(served.run)
    statuses = [_one_of_many(served, drawn) for _ in range(1000)]
    assert all(status is None or 400 <= status < 500 for status in statuses), sorted({str(s) for s in statuses})
    assert len(set(statuses)) >= 6  # of many kinds
    assert _contents(served.run) == before
    assert _ask(served, "POST", "/api/search", SEARCH)[0] == 200


def _contents(run: Path) -> dict[str, str]:
    files = [run / "decisions.jsonl", *(run / "marks").rglob("*")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def _one_of_many(served: Served, drawn: random.Random) -> int | None:
    """The status of a bad request; None where the connection ended without one."""
    kind = drawn.randrange(6)
    path = drawn.choice(PATHS[:4])
    if kind == 0:  # values that are none
        body = {key: drawn.choice(VALUES) for key in drawn.sample(KEYS, drawn.randint(0, 6))}
        return _status(served, "POST", path, json.dumps(body | {"__proto__": 1}))
    if kind == 1:  # no JSON
        body = drawn.choice([b"\xff\xfe", b"{", b"[" * 20_000, b'{"query": NaN}', b"", b"null", drawn.randbytes(200)])
        return _status(served, "POST", path, body)
    if kind == 2:  # cut and changed
        text = json.dumps(SEARCH)
        place = drawn.randrange(len(text) - 1)
        return _status(served, "POST", path, text[:place] + drawn.choice(["\x00", '"', "\ud83d"]))
    if kind == 3:  # ways that there are not
        method = drawn.choice(["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "HEAD"])
        return _status(served, method, drawn.choice(PATHS[:4]))
    if kind == 4:  # not this page
        header = drawn.choice(
            [("host", "x"), ("origin", "http://x"), ("authorization", "Bearer x"), ("x", "y" * 20_000)]
        )
        return _status(served, "POST", path, json.dumps(SEARCH), **dict([header]))
    return _raw(served, drawn)


def _status(served: Served, method: str, path: str, body=None, **headers) -> int | None:
    body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    try:
        return _ask(served, method, path, body, **headers)[0]
    except (http.client.HTTPException, OSError):
        return None


def _raw(served: Served, drawn: random.Random) -> int | None:
    """Bytes that are no request, or not quite."""
    host = f"Host: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.token}\r\n"
    lines = [
        drawn.randbytes(drawn.randint(1, 300)) + b"\r\n\r\n",
        f"GET /api/nothing HTTP/9.9\r\n{host}\r\n".encode(),
        f"POST /api/mark HTTP/1.1\r\n{host}Content-Length: -5\r\n\r\n".encode(),
        f"POST /api/mark HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{{}}".encode(),
        f"POST /api/mark HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
        f"GET /api/about HTTP/1.1\r\n{host}Host: other\r\n\r\n".encode(),
        f"GET /{'a' * 20_000} HTTP/1.1\r\n{host}\r\n".encode(),
        f"GET /api/nothing HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode(),
    ]
    try:
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(drawn.choice(lines))
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(4096)
    except OSError:
        return None
    return int(reply.split()[1]) if reply.startswith(b"HTTP/") else None
