"""Every answer of an LLM, written down before it is used, so that none is asked or paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from sharpen.evaluation.files import InputError

MEMORY = ":memory:"
"""In place of a path: nothing is kept."""
CLAIM_SECONDS = 3600
"""After which a program has lost what it claimed, be it alive or not: no request takes as long."""


class Journal:
    """A durable map from request to answer in one SQLite file.

    The key is a hash of the request (model, messages or prompt, parameters); the answer is any JSON object. ``put``
    returns after the answer is on disk. Programs that share the file claim what they are about to ask. Use from one
    thread at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self._owner = uuid.uuid4().hex
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, written REAL)"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS batches (file TEXT PRIMARY KEY, server TEXT, path TEXT)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT, host TEXT, pid INTEGER, at REAL)"
            )
            # what is claimed need not outlive the machine, and would else cost each answer two waits for the disk
            self._claims = (
                self._db
                if str(path) == MEMORY
                else sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            )
            self._claims.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path}: not a usable journal of LLM answers ({error}); move it away to start a new one"
            ) from error

    @staticmethod
    def key(request: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def get(self, key: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, answer: dict[str, Any]) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
            (key, json.dumps(answer, ensure_ascii=False), time.time()),
        )

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All keys with their answers."""
        for key, answer in self._db.execute("SELECT key, answer FROM answers ORDER BY written"):
            yield key, json.loads(answer)

    def claim(self, key: str) -> bool:
        """Whether this journal may ask for the answer now; False while another program that shares the file does, or
        this one through another connection. A program that has ended has no claims."""
        row = self._claims.execute("SELECT owner, host, pid, at FROM claims WHERE key = ?", (key,)).fetchone()
        if row is not None:
            if row[0] != self._owner and _is_alive(*row[1:]):
                return False
            self._claims.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, row[0]))
        claimed = self._claims.execute(
            "INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?)",
            (key, self._owner, platform.node(), os.getpid(), time.time()),
        )
        return claimed.rowcount == 1

    def release(self, key: str) -> None:
        """Give back what was claimed, whether the answer has come or not."""
        self._claims.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all that is put in the block at its end, many times faster; what is lost with the process is all of
        it."""
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def note_batch(self, file: str, server: str, path: str) -> None:
        """Remember a batch of requests that is being made of a file on a server."""
        self._db.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", (file, server, path))

    def batches(self, server: str) -> list[tuple[str, str]]:
        """File and path of the batches at a server whose answers are not here yet."""
        return self._db.execute("SELECT file, path FROM batches WHERE server = ?", (server,)).fetchall()

    def cross_out_batch(self, file: str) -> None:
        """Forget a batch, as its answers are here, or nowhere."""
        self._db.execute("DELETE FROM batches WHERE file = ?", (file,))

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._claims.close()
        self._db.close()


def _is_alive(host: str, pid: int, at: float) -> bool:
    """Whether who claimed something may still be asking for it: of another machine nobody knows."""
    if time.time() - at > CLAIM_SECONDS:
        return False
    if host != platform.node():
        return True
    try:
        # a container that starts again gives its processes the same numbers
        return psutil.Process(pid).create_time() < at + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # another user's
        return True
