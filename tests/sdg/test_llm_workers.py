"""Prompts that workers answer in shards."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from sharpen.evaluation.files import InputError
from sharpen.evaluation.partitions.contract import Task, do, ready
from sharpen.evaluation.partitions.kept import Partitions
from sharpen.evaluation.partitions.local import LocalEngine
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.llm.settings import LLMSettings, open_llm
from sharpen.sdg.llm.workers import FEW, AskLLM, _warmed, asking_ahead
from tests.servers import chat_answer, serve_replies

REQUESTS = [Request(f"Say {n}.", chat=True, parameters={"max_tokens": 4}) for n in range(FEW + 8)]


class Worker:
    """An engine that is none of this process's own, as a cluster's."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.done = most, 0

    def run(self, to_do, tasks, advance) -> None:
        for task in tasks:
            if self.done == self.most:
                raise InputError("lost")
            LocalEngine().run(to_do, [task], advance)
            self.done += 1


@pytest.fixture
def server():
    answered = Counter()

    def reply(_path: str, body: dict, _headers: dict):
        prompt = body["messages"][-1]["content"]
        answered[prompt] += 1
        if prompt == "Say 5." and answered[prompt] == 1:
            return 400, {}, json.dumps({"error": {"message": "I will not"}}).encode()
        return chat_answer(f"It was {prompt}")

    with serve_replies(reply) as url:
        yield LLMSettings(base_url=url, model="m", concurrency=1), answered


def ask(settings: LLMSettings, folder: Path, engine: Worker, shared: Path | None = None) -> list[Answer]:
    ahead = asking_ahead(settings, Partitions(engine, shared or folder / "partitions", rows=6))
    with open_llm(settings, folder / "answers.sqlite", ahead=ahead) as client:
        return client.ask(REQUESTS)


def test_workers_answer_in_shards_and_what_they_were_refused_is_asked_from_here(server, tmp_path):
    settings, answered = server
    engine = Worker()
    answers = ask(settings, tmp_path, engine)
    assert [a.text for a in answers] == [f"It was Say {n}." for n in range(len(REQUESTS))]
    assert engine.done == 4 and answered.pop("Say 5.") == 2 and set(answered.values()) == {1}
    assert not list((tmp_path / "partitions").glob("answers-*"))
    assert [a.text for a in ask(settings, tmp_path, Worker(0))] == [a.text for a in answers]


def test_what_was_answered_before_a_program_was_lost_is_not_asked_again(server, tmp_path):
    settings, answered = server
    with pytest.raises(InputError, match="lost"):
        ask(settings, tmp_path, Worker(2))
    # of a third shard a worker had written down one answer
    (folder,) = (tmp_path / "partitions").glob("answers-*")
    with open_llm(settings, folder / "of-a-third.sqlite") as client:
        client.ask([REQUESTS[14]])
    ask(settings, tmp_path, Worker())
    answered.pop("Say 5.")
    assert set(answered.values()) == {1} and len(answered) == len(REQUESTS) - 1


def test_a_program_leaves_the_answers_that_another_one_is_getting(server, tmp_path):
    settings, answered = server
    second = []

    class AndAnother(Worker):
        def run(self, to_do, tasks, advance) -> None:
            super().run(to_do, tasks[:2], advance)
            second.append(pool.submit(ask, settings, tmp_path / "other", Worker(), tmp_path / "partitions"))
            wait(second, timeout=0.5)  # it asks the same LLM by the same folder, and has to wait
            super().run(to_do, tasks[2:], advance)

    with ThreadPoolExecutor(1) as pool, pytest.warns(UserWarning, match=r"another program asks .* there; waiting"):
        answers = ask(settings, tmp_path, AndAnother())
        assert [a.text for a in second[0].result(60)] == [a.text for a in answers]
    assert answered.pop("Say 5.") == 3 and set(answered.values()) == {2}


def test_who_has_nothing_left_to_ask_does_not_look_into_the_folder(server, tmp_path):
    settings, _ = server
    answers = ask(settings, tmp_path, Worker())
    name = hashlib.sha256(settings.identity.encode()).hexdigest()[:16]
    (theirs := tmp_path / "partitions" / f"answers-{name}" / "theirs.parquet").parent.mkdir()
    theirs.touch()
    assert [a.text for a in ask(settings, tmp_path, Worker(0))] == [a.text for a in answers] and theirs.exists()


def test_a_shard_that_is_done_again_asks_for_the_rest_only(server, tmp_path):
    settings, answered = server
    written = [json.dumps(r.identity() | {"warm_up": None}) for r in REQUESTS[:3]]
    worker = ready(AskLLM(settings, str(tmp_path)))
    for name in ("first", "again"):
        do(worker, Task(tmp_path / f"{name}.parquet", lambda: pa.table({"request": written})))
    assert answered.total() == 3
    (path,) = tmp_path.glob("*.sqlite")
    with closing(Journal(path)) as journal:
        assert len(list(journal.items())) == 3


def test_what_a_budget_or_a_batch_counts_is_asked_by_one_process(server, tmp_path):
    settings, _ = server
    workers, here = Partitions(Worker(), tmp_path), Partitions(LocalEngine(), tmp_path)
    prices = Prices(input=Decimal(1), output=Decimal(1))
    assert asking_ahead(settings, workers) and asking_ahead(settings, here) is asking_ahead(settings, None) is None
    assert asking_ahead(settings.model_copy(update={"prices": prices, "budget": Decimal(1)}), workers) is None
    assert asking_ahead(settings.model_copy(update={"batch": True}), workers) is None


def test_a_worker_warms_up_only_what_the_request_before_has_not():
    prefix, other = Request("Text: "), Request("Other: ")
    requests = [
        Request("Text: one", warm_up=prefix),
        Request("Text: two", warm_up=prefix),
        Request("Text: three", warm_up=prefix),
        Request("Other: one", warm_up=other),
    ]
    assert [r.warm_up for r in _warmed(iter(requests))] == [prefix, None, prefix, other]
