"""``sharpen serve``: one page on the loopback address, to search a run's systems, mark what they find, and go through
its queries and negatives."""

from __future__ import annotations

import secrets
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from sharpen.evaluation.files import InputError
from sharpen.recipes.decided import DECISIONS
from sharpen.recipes.serving.guard import App, Guard
from sharpen.recipes.serving.marks import Marks
from sharpen.recipes.serving.review import GROUPS, Group, Item, Review
from sharpen.recipes.serving.systems import Found, RunSystems, SystemName
from sharpen.recipes.serving.why import Move, moves, segments

ADDRESS = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
FILES = {
    "/": "page.html",
    **{f"/{name}": name for name in ("page.css", "page.js", "search.js", "review.js", "elements.js", "icon.svg")},
}
"""Path to file of the page."""
MOST_RESULTS = 50
A_PAGE = 20
"""Items to decide on at a time."""

Query = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SearchRequest(_Request):
    """``systems``: None: all."""

    query: Query
    systems: list[SystemName] | None = Field(None, max_length=5)
    k: int = Field(10, ge=1, le=MOST_RESULTS)


class MarkRequest(_Request):
    query: Query
    document: Id
    relevant: bool | None


class ItemsRequest(_Request):
    group: Group
    words: Annotated[str, StringConstraints(max_length=200)] = ""
    start: int = Field(0, ge=0, le=10**9)


class DecisionRequest(_Request):
    """``query``, ``copy_key``: of what the page shows, as ``_item`` gives it."""

    key: Id
    query: str
    copy_key: str
    decision: Literal["accept", "reject", "correct", "relevant"] | None
    text: Annotated[str, StringConstraints(max_length=2000)] | None = None


class Looking:
    """What the page asks for. ``who``: stands with all marks and decisions."""

    def __init__(self, systems: RunSystems, who: str) -> None:
        self.systems, self.who = systems, who
        self.marks = Marks.of_run(systems.folder, systems.corpus)
        self._review: tuple[object, Review] | None = None

    @property
    def review(self) -> Review:
        """Of the run as it lies there now. Raises ``InputError`` where it has no pairs."""
        files = [self.systems.folder / stage / "manifest.json" for stage in ("pairs", "negatives")]
        made = [file.stat().st_mtime_ns for file in files if file.exists()]
        if self._review is None or self._review[0] != made:
            self._review = made, Review(self.systems.folder)
        return self._review[1]

    def about(self) -> dict[str, Any]:
        queries, marks = self.marks.count()
        return {
            "run": self.systems.folder.resolve().name,
            "who": self.who,
            "documents": len(self.systems.corpus),
            "systems": [{"name": s.name, "label": s.label, "deploy": s.deploy} for s in self.systems.systems.values()],
            "marked": {"queries": queries, "marks": marks, "use": self.marks.how_to_use()},
            "groups": self.review.counts(),
            "decided": self.review.number_decided(),
            "next": (
                f"sharpen run {self.systems.folder}\n"
                f"elsewhere: sharpen run RECIPE name=other decisions={self.systems.folder / DECISIONS}"
            ),
        }

    def search(self, asked: SearchRequest) -> dict[str, Any]:
        found = self.systems.search(asked.query, asked.systems)
        changed = moves(self.systems, asked.query, found, asked.k) if {"base", "tuned"} <= found.keys() else []
        shown = dict.fromkeys(i for of in found.values() for i in list(of.scores)[: asked.k])
        shown |= dict.fromkeys(move.document for move in changed)
        return {
            "systems": {name: _found(of, asked.k) for name, of in found.items()},
            "documents": {i: self._document(asked.query, i) for i in shown},
            "moves": [_move(move) for move in changed],
            "marks": self.marks.of(asked.query),
        }

    def mark(self, asked: MarkRequest) -> dict[str, Any]:
        self.systems.check_same()
        self.marks.mark(asked.query, asked.document, asked.relevant, self.who)
        queries, marks = self.marks.count()
        return {
            "marks": self.marks.of(asked.query),
            "queries": queries,
            "total": marks,
            "use": self.marks.how_to_use(),
        }

    def items(self, asked: ItemsRequest) -> dict[str, Any]:
        items = self.review.items(asked.group, asked.words)
        shown = items[asked.start : asked.start + A_PAGE]
        return {"total": len(items), "start": asked.start, "page": A_PAGE, "items": [_item(item) for item in shown]}

    def decide(self, asked: DecisionRequest) -> dict[str, Any]:
        seen = (asked.query, asked.copy_key)
        item = self.review.decide(asked.key, asked.decision, asked.text, self.who, seen)
        return {"item": _item(item), "decided": self.review.number_decided()}

    def _document(self, query: str, doc_id: str) -> dict[str, Any]:
        document = self.systems.corpus[doc_id]
        return {
            "name": document.title or doc_id,
            "title": segments(query, document.title, document),
            "text": segments(query, document.text, document),
        }


def make_app(looking: Looking) -> FastAPI:
    """The application itself, without its ``Guard``: whoever asks is answered."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their pages fetch scripts from elsewhere
    for path, name in FILES.items():
        app.add_api_route(path, lambda name=name: FileResponse(STATIC / name), methods=["GET"], response_model=None)

    # plain functions, which run in threads: the models compute for seconds
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return looking.about()

    @app.post("/api/search")
    def search(asked: SearchRequest) -> dict[str, Any]:
        return looking.search(asked)

    @app.post("/api/mark")
    def mark(asked: MarkRequest) -> dict[str, Any]:
        return looking.mark(asked)

    @app.post("/api/items")
    def items(asked: ItemsRequest) -> dict[str, Any]:
        return looking.items(asked)

    @app.post("/api/decide")
    def decide(asked: DecisionRequest) -> dict[str, Any]:
        return looking.decide(asked)

    @app.exception_handler(InputError)
    def wrong(_request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(OSError)
    def failed(_request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 500)  # a full disk, a folder that is gone

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # without what was sent, which may not even be text
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    def other(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    return app


def guarded(app: App, port: int, token: str) -> Guard:
    """The application for the page of this server alone."""
    hosts = frozenset({f"{ADDRESS}:{port}", f"localhost:{port}"})
    return Guard(app, hosts, token, frozenset(FILES))


def open_socket(port: int) -> socket.socket:
    """One that listens on the loopback address alone; ``port`` 0: a free one. Raises ``InputError`` if it is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen(128)  # who comes before the server is ready waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(f"--port {port}: {error}; give another one, or 0 for any that is free") from None
    return listening


def make_server(looking: Looking, listening: socket.socket) -> tuple[uvicorn.Server, str]:
    """A server for a listening socket, to be ``run(sockets=[listening])``, and the address of its page."""
    port, token = listening.getsockname()[1], secrets.token_urlsafe(32)
    config = uvicorn.Config(
        guarded(make_app(looking), port, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=64,
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=16 * 1024,
        http="h11",
    )
    return uvicorn.Server(config), f"http://{ADDRESS}:{port}/#token={token}"


def _found(found: Found, k: int) -> dict[str, Any]:
    hits = [{"id": i, "score": score} for i, score in list(found.scores.items())[:k]]
    return {"hits": hits, "milliseconds": round(1000 * found.seconds, 1)}


def _move(move: Move) -> dict[str, Any]:
    return asdict(move) | {"sentence": move.sentence}


def _item(item: Item) -> dict[str, Any]:
    positive = item.positive and {"id": item.positive.id, "title": item.positive.title, "text": item.positive.text}
    return {
        "key": item.key,
        "query": item.query.text,
        "copy_key": item.document.copy_key,
        "document": {"id": item.document.id, "title": item.document.title, "text": item.document.text},
        "positive": positive,
        "why": item.why,
        "decision": item.decision,
        "text": item.text,
    }


__all__ = ["ADDRESS", "GROUPS", "Looking", "guarded", "make_app", "make_server", "open_socket"]
