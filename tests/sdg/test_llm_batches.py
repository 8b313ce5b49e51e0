"""The batch API: nothing is paid twice, whenever the program is stopped, and the budget holds."""

import json
import re
import threading
from collections import Counter
from decimal import Decimal

import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.llm import batches
from sharpen.sdg.llm.budget import Prices, Spending
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import OVER_BUDGET, EndpointSettings, Request
from sharpen.sdg.llm.settings import LLM, LLMSettings
from sharpen.sdg.queries import generate_queries
from sharpen.sdg.strategies.document import Document as DocumentStrategy
from tests.servers import chat_answer, serve_replies

SECRET = "sk-very-secret"


class Stopped(BaseException):
    """As Ctrl-C or a lost machine."""


def _stop(*_args, **_kwargs):
    raise Stopped


class BatchServer:
    """OpenAI's batch protocol. ``polls``: questions until a batch is done. ``outcome(prompt)``: an error in place of an
    answer, as (status, body), or the string ``expired``. ``stop_at``: raises ``Stopped`` in the client by hanging up on
    requests whose path matches."""

    def __init__(self, polls=1, outcome=lambda prompt: None, refuses=()):
        self.polls, self.outcome, self.refuses = polls, outcome, refuses
        self.files, self.batches, self.left = {}, {}, {}
        self.direct, self.in_batches = Counter(), Counter()
        self.down = False
        self.lock = threading.Lock()

    def __call__(self, path, body, headers):
        assert headers["Authorization"] == f"Bearer {SECRET}"
        if self.down:
            return 0, {}, b""
        with self.lock:
            if path.endswith("/chat/completions"):
                return self._answer(body, self.direct)
            return self._batch_api(path.removeprefix("/v1"), body)

    def _answer(self, body, counter):
        for name in self.refuses:
            if name in body:
                error = {"message": f"Unsupported parameter: '{name}'", "param": name}
                return 400, {}, json.dumps({"error": error}).encode()
        prompt = body["messages"][0]["content"]
        if counter is self.in_batches and (outcome := self.outcome(prompt)):
            return outcome[0], {}, json.dumps(outcome[1]).encode()
        counter[prompt] += 1
        return chat_answer(f"about {prompt}" if len(prompt) < 20 else _query(prompt))

    def _batch_api(self, path, body):
        if path == "/files":
            number = f"file-{len(self.files)}"
            self.files[number] = re.search(rb"\r\n\r\n(\{.*\}\n)\r\n--", body, re.DOTALL)[1]
            assert b'name="purpose"\r\n\r\nbatch' in body
            return _json({"id": number, "object": "file", "purpose": "batch"})
        if match := re.fullmatch("/files/(.+)/content", path):
            return 200, {"Content-Type": "application/octet-stream"}, self.files[match[1]]
        if path.startswith("/batches?"):
            return _json({"object": "list", "data": list(self.batches.values()), "has_more": False})
        if path == "/batches":
            assert body["completion_window"] == "24h" and body["endpoint"] == "/v1/chat/completions"
            number = f"batch-{len(self.batches)}"
            self.batches[number] = {"id": number, "object": "batch", "status": "validating", **body}
            self.left[number] = self.polls
            return _json(self.batches[number])
        return self._poll(path.removeprefix("/batches/"))

    def _poll(self, number):
        batch = self.batches[number]
        self.left[number] -= 1
        if self.left[number] == 0:
            self._run(batch)
        return _json(batch)

    def _run(self, batch):
        answers, errors, status = [], [], "completed"
        for line in self.files[batch["input_file_id"]].splitlines():
            row = json.loads(line)
            if self.outcome(row["body"]["messages"][0]["content"]) == "expired":
                status = "expired"
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                errors.append({"custom_id": row["custom_id"], "response": None, "error": error})
                continue
            code, _, content = self._answer(row["body"], self.in_batches)
            response = {"status_code": code, "body": json.loads(content)}
            (answers if code == 200 else errors).append(
                {"custom_id": row["custom_id"], "response": response, "error": None}
            )
        for key, rows in (("output_file_id", answers), ("error_file_id", errors)):
            if rows:
                self.files[batch["id"] + key] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
                batch[key] = batch["id"] + key
        batch["status"] = status


def _json(value):
    return 200, {}, json.dumps(value).encode()


def _query(prompt):
    return "how is " + (re.findall(r"number (\w+)", prompt) or ["it"])[-1] + " explained there"


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr(batches, "FIRST_POLL", 0.01)
    monkeypatch.setattr(batches, "RETRIES", 0)


def _client(url, tmp_path, **settings):
    endpoint = EndpointSettings(url, SECRET, "m", 4)
    settings = {"batch": True, "max_retries": 0, "say": lambda _sentence: None} | settings
    return LLMClient([endpoint], Journal(tmp_path / "j.sqlite"), **settings)


def _requests(*numbers):
    return [Request(f"prompt {n}", chat=True, parameters={"max_tokens": 10, "seed": n}) for n in numbers]


def test_a_run_by_batch_brings_every_query_and_a_second_one_asks_for_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    corpus = {f"d{w}": Document(f"d{w}", f"the number {w} is explained here at length") for w in ("two", "six", "ten")}
    strategy = DocumentStrategy(pool=[{"document": "Soak the beans.", "query": "how long do beans soak"}])
    server, said = BatchServer(polls=3, refuses=("temperature",)), []
    with serve_replies(server) as url:
        settings = LLMSettings(
            base_url=url, model="m", api_key_env="TEST_KEY", batch=True, prices=Prices(input=1, output=1, batch="0.5")
        )
        llm = LLM(settings=settings, journal=tmp_path / "j.sqlite", say=said.append)
        first, second = (generate_queries(corpus, llm, [strategy]) for _ in range(2))
        with LLM(settings=settings.model_copy(update={"batch": False}), journal=llm.journal).open() as client:
            assert client.spending.prices.batch == Decimal("0.5")
            third = generate_queries(corpus, client, [strategy])  # how it was asked is no part of what was asked
    assert sorted(q.text for q in first) == [f"how is {w} explained there" for w in ("six", "ten", "two")]
    assert [q.text for q in first] == [q.text for q in second] == [q.text for q in third]
    assert (server.direct.total(), server.in_batches.total(), len(server.batches)) == (1, 2, 1)
    assert first.counts()["refused_parameters"] == {"temperature": "left out"}
    assert [s for s in said if "2 requests are handed in" in s] and SECRET not in repr(said)
    assert settings.fingerprint() == settings.model_copy(update={"batch": False}).fingerprint()
    assert settings.expected_prices.input == Decimal("0.5")
    with pytest.raises(ValueError, match="batch needs base_url"):
        LLMSettings(embedded="gemma-3-270m", batch=True)


@pytest.mark.parametrize("where", ["after the creation", "while it is waited for", "before it is kept"])
def test_a_run_that_is_stopped_goes_on_with_its_batch(where, tmp_path, monkeypatch):
    server = BatchServer(polls=2)

    async def stop_later(*_args, **_kwargs):
        raise Stopped

    with serve_replies(server) as url:
        first = _client(url, tmp_path)
        with monkeypatch.context() as patch:
            if where == "after the creation":
                create = server._batch_api
                patch.setattr(server, "_batch_api", lambda path, body: _hang_up(create(path, body), path))
            elif where == "while it is waited for":
                patch.setattr(batches.asyncio, "sleep", stop_later)
            else:
                patch.setattr(Journal, "cross_out_batch", _stop)
            with pytest.raises((Stopped, InputError, BaseExceptionGroup)):
                first.ask(_requests(*range(6)))
        first.journal.close()
        client = _client(url, tmp_path)
        answers = client.ask(_requests(*range(6)))
        assert [a.text for a in answers] == [f"about prompt {n}" for n in range(6)]
        assert client.journal.batches(f"{url} m") == []
    assert len(server.batches) == 1 and server.direct == Counter(["prompt 0"])
    assert set(server.in_batches.values()) == {1} and len(server.in_batches) == 5


def test_a_batch_that_was_never_made_is_asked_anew_within_the_budget(tmp_path, monkeypatch):
    server, said = BatchServer(), []
    with serve_replies(server) as url:
        first, note = _client(url, tmp_path), Journal.note_batch
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "note_batch", lambda *a: (note(*a), _stop())[0])
            with pytest.raises(Stopped):
                first.ask(_requests(*range(6)))
        first.journal.close()
        spending = Spending(Prices(input=1000, output=1000, batch="0.5"), Decimal("0.016"))
        client = _client(url, tmp_path, say=said.append, spending=spending)  # it suffices for what is there
        assert [a.error_kind for a in client.ask(_requests(*range(6)))] == ["", *[OVER_BUDGET] * 5]
        assert not server.batches and client.journal.batches(f"{url} m") == []
        assert [s for s in said if "was not made; its requests are asked anew" in s]
        answers = _client(url, tmp_path).ask(_requests(*range(6)))
    assert all(a.text for a in answers) and len(server.batches) == 1


@pytest.mark.parametrize(
    ("status", "message", "goes_on"),
    [
        (404, "No such File object: file-0", True),
        (400, "The file has expired", True),
        (400, "no", False),
        (403, "file", False),
    ],
)
def test_a_batch_whose_files_are_gone_is_asked_anew(status, message, goes_on, tmp_path, monkeypatch):
    server, said = BatchServer(), []
    serve = server._batch_api

    def lose(path, body):
        lost = path.startswith("/files/batch-0")
        return (status, {}, json.dumps({"error": {"message": message}}).encode()) if lost else serve(path, body)

    with serve_replies(server) as url:
        first = _client(url, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "cross_out_batch", _stop)
            with pytest.raises(Stopped):
                first.ask(_requests(*range(6)))
        first.journal.close()
        server._batch_api = lose
        client = _client(url, tmp_path, say=said.append)
        if not goes_on:
            with pytest.raises(InputError, match="does not take the batch"):
                client.ask(_requests(*range(6)))
            assert client.journal.batches(f"{url} m") != []  # it may be had another time
            return
        assert [a.text for a in client.ask(_requests(*range(6)))] == [f"about prompt {n}" for n in range(6)]
    assert [s for s in said if "has lost its files there; what it answered is asked, and paid, anew" in s]
    assert len(server.batches) == 2 and client.journal.batches(f"{url} m") == []


def _hang_up(reply, path):
    return (0, {}, b"") if path == "/batches" else reply


def test_what_a_batch_does_not_answer_is_asked_alone_or_in_the_next_one(tmp_path):
    slow = {"prompt 7", "prompt 8", "prompt 9"}

    def outcome(prompt):
        if prompt == "prompt 3":
            return 400, {"error": {"message": "flagged", "code": "content_filter"}}
        if prompt == "prompt 4":
            return 500, {"error": {"message": "oh"}}
        if prompt in slow and not expired.is_set():
            return "expired"
        return None

    expired = threading.Event()
    server = BatchServer(outcome=outcome)
    run = server._run
    server._run = lambda batch: (run(batch), expired.set())
    with serve_replies(server) as url:
        answers = _client(url, tmp_path).ask(_requests(*range(12)))
    assert [a.text for a in answers] == [f"about prompt {n}" for n in range(12)]
    assert len(server.batches) == 2 and set(server.direct) == {"prompt 0", "prompt 3", "prompt 4"}
    assert max((server.direct + server.in_batches).values()) == 1


def test_a_budget_holds_over_batches_at_their_price(tmp_path):
    prices = Prices(input=Decimal(1000), output=Decimal(1000), batch=Decimal("0.5"))
    server = BatchServer()  # 16 tokens an answer: 0.016, by batch 0.008; at most 72 + 10 tokens: 0.041
    with serve_replies(server) as url:
        spending = Spending(prices, Decimal("0.200"))
        answers = _client(url, tmp_path, spending=spending).ask(_requests(*range(60)))
        paid = [a for a in answers if not a.error]
        assert {a.error_kind for a in answers if a.error} == {OVER_BUDGET} and 5 < len(paid) < 60
        assert spending.spent == Decimal("0.016") + Decimal("0.008") * (len(paid) - 1) <= Decimal("0.2")
        assert spending.reserve(0, 0) is True and spending._reserved == 0
        asked = server.in_batches.total() + server.direct.total()
        spending = Spending(prices, Decimal("10"))
        again = _client(url, tmp_path, spending=spending).ask(_requests(*range(60)))
    assert not any(a.error for a in again) and asked == len(paid)
    assert max((server.direct + server.in_batches).values()) == 1


def test_large_runs_are_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MAX_REQUESTS", 4)
    server = BatchServer()
    with serve_replies(server) as url:
        answers = _client(url, tmp_path).ask(_requests(*range(11)))
    assert len(server.batches) == 3 and all(a.text for a in answers)
    assert [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()] == [4, 4, 2]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, {}, b'{"detail":"Not Found"}'), "does not take the batch: 404 Not Found. Where the server has none"),
        ((200, {}, b"<html>"), "Where the server has none"),
        ((403, {}, f'{{"error": {{"message": "no batches for {SECRET}"}}}}'.encode()), r"no batches for \[key\]"),
    ],
)
def test_a_server_without_batches_is_told(reply, message, tmp_path):
    def serve(path, body, headers):
        return chat_answer("yes") if path.endswith("/chat/completions") else reply

    with serve_replies(serve) as url, pytest.raises(InputError, match=message) as caught:
        _client(url, tmp_path).ask(_requests(1, 2, 3))
    assert SECRET not in str(caught.value)


def test_a_batch_that_fails_says_why(tmp_path):
    server = BatchServer()

    def fail(batch):
        batch["status"] = "failed"
        batch["errors"] = {"object": "list", "data": [{"code": "x", "message": f"model m of {SECRET} has no batches"}]}

    server._run = fail
    with (
        serve_replies(server) as url,
        pytest.raises(InputError, match=r"ended a batch as failed: model m of \[key\] has"),
    ):
        _client(url, tmp_path).ask(_requests(1, 2, 3))
