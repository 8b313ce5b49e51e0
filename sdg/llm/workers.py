"""Requests that workers of a cluster answer, each with its own connections, or with its own embedded server."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from sharpen.evaluation.partitions.contract import Task
from sharpen.evaluation.partitions.kept import Partitions
from sharpen.evaluation.processes import alone
from sharpen.sdg.asking import share_exactly
from sharpen.sdg.llm.client import Ahead, LLMClient
from sharpen.sdg.llm.journal import MEMORY, Journal
from sharpen.sdg.llm.messages import Answer, Request

if TYPE_CHECKING:
    from sharpen.sdg.llm.settings import LLMSettings

FEW = 16
"""Requests that are not worth a worker's start."""
REQUESTS = 256
"""Of a shard at most."""


@dataclass
class AskLLM:
    """Requests, as JSON, to an LLM's answers. Each shard has a journal of its own in ``journals``, named by what is in
    it, so that whoever does it after a worker that was lost asks for the rest only."""

    name: ClassVar[str] = "answers"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("request",)
    outputs: ClassVar[tuple[str, ...]] = ("answer",)

    llm: LLMSettings
    journals: str
    batch_size: int | None = None
    _open: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)
    _client: LLMClient | None = field(default=None, init=False, repr=False, compare=False)

    def fingerprint(self) -> Any:
        return self.llm.fingerprint()

    def setup(self) -> None:
        from sharpen.sdg.llm.settings import open_llm

        # open as long as the worker is: an embedded LLM takes a second to start
        self._open = ExitStack()
        self._client = self._open.enter_context(open_llm(self.llm, Path(MEMORY)))

    def __call__(self, table: pa.Table) -> pa.Table:
        written = table["request"].to_pylist()
        name = hashlib.sha256("\0".join(written).encode()).hexdigest()[:32]
        with closing(Journal(Path(self.journals) / f"{name}.sqlite")) as journal:
            answers = replace(self._client, journal=journal).ask(_warmed(map(_read, written)))
        return pa.table({"answer": [json.dumps(asdict(a), ensure_ascii=False) for a in answers]})


def asking_ahead(settings: LLMSettings, partitions: Partitions | None) -> Ahead | None:
    """What has the workers of a cluster answer; None where one process does, as an LLM's budget and its batches are
    counted in one place."""
    from sharpen.evaluation.partitions.local import LocalEngine

    if partitions is None or isinstance(partitions.engine, LocalEngine) or settings.budget or settings.batch:
        return None

    def ahead(client: LLMClient, requests: Sequence[Request]) -> None:
        if not requests:
            return
        name = hashlib.sha256(client.identity.encode()).hexdigest()[:16]
        folder = partitions.folder / f"answers-{name}"
        partitions.folder.mkdir(parents=True, exist_ok=True)
        # another program that asks the same LLM would take the folder away, with answers that were paid for
        with _alone(FileLock(partitions.folder / f"asking-{name}.lock"), client):
            _ask(client, requests, settings, replace(partitions, folder=folder))

    return ahead


@contextmanager
def _alone(lock: FileLock, client: LLMClient) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warnings.warn(f"{lock.lock_file}: another program asks {client.identity} there; waiting for it", stacklevel=2)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ask(client: LLMClient, requests: Sequence[Request], settings: LLMSettings, partitions: Partitions) -> None:
    """Bring answers into the client's journal, by way of a folder that nobody else is at."""
    folder = partitions.folder
    _take_in(client, folder)  # of a program that was killed
    left = [request for request in requests if client.known(request) is None]
    if len(left) > FEW:
        folder.mkdir(exist_ok=True)
        size = min(partitions.rows, REQUESTS)
        shards = [left[start : start + size] for start in range(0, len(left), size)]
        tasks = [_task(folder, client, shard) for shard in shards]
        with alone():  # the first process of accelerate launch asks for all
            partitions.engine.run(AskLLM(settings, str(folder)), tasks, lambda _rows: None)
        for task, shard in zip(tasks, shards, strict=True):
            _record(client, task, shard)
    shutil.rmtree(folder, ignore_errors=True)  # all is in the journal; what failed is asked once more, from here


def _task(folder: Path, client: LLMClient, requests: Sequence[Request]) -> Task:
    name = hashlib.sha256("\0".join(map(client.key, requests)).encode()).hexdigest()[:32]
    return Task(folder / f"{name}.parquet", lambda: pa.table({"request": [_written(r) for r in requests]}))


def _record(client: LLMClient, task: Task, requests: Sequence[Request]) -> None:
    answers = pq.read_table(task.target, partitioning=None)["answer"].to_pylist()
    with client.journal.together():
        for request, answer in zip(requests, answers, strict=True):
            if not (answer := Answer(**json.loads(answer))).error:
                client.record(request, answer)


def _take_in(client: LLMClient, folder: Path) -> None:
    """What was answered in shards that were not finished."""
    for path in sorted(folder.glob("*.sqlite")):
        with closing(Journal(path)) as journal, client.journal.together():
            for key, answer in journal.items():
                if client.journal.get(key) is None:
                    client.journal.put(key, answer)


def _written(request: Request) -> str:
    """The request as JSON; what a document can be shortened by stays with whoever asks."""
    warm_up = request.warm_up.identity() if request.warm_up else None
    return json.dumps(request.identity() | {"warm_up": warm_up}, ensure_ascii=False)


def _read(written: str) -> Request:
    values = json.loads(written)
    warm_up = values.pop("warm_up")
    return Request(**values, warm_up=Request(**warm_up) if warm_up else None)


def _warmed(requests: Iterator[Request]) -> Iterator[Request]:
    """The requests, without the warming up that the one before has done."""
    before = ""
    for request in requests:
        if request.warm_up and share_exactly(request.warm_up.prompt, before, request.prompt):
            before, request = request.prompt, replace(request, warm_up=None)
        else:
            before = request.prompt
        yield request
