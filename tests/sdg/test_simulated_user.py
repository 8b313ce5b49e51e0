"""Sessions of a simulated user: real searches, and answers as a server gave them."""

import json
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from sharpen import sdg
from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.sdg.estimate import CostEstimator
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.strategies.pools import read_pool
from sharpen.sdg.strategies.settings import QueriesSettings
from tests.conftest import TOPICS
from tests.processes import kill_when, start
from tests.sdg.recorded import Recorded
from tests.servers import chat_answer, serve_replies

BUNDLED = Path(__file__).parents[2] / "recipes" / "pools" / "sessions.yaml"
POOL = [
    {
        "document": f"Thing {n} is blue and square.",
        "need": f"I need thing {n}.",
        "query": f"first query {n}",
        "results": [f"Useless {n}"],
        "reformulation": f"second query {n}",
    }
    for n in range(5)
] + [{"document": "A thing.", "need": "I need a thing.", "query": "good query"}]
CORPUS = {i: Document(i, text, title) for i, (title, text) in TOPICS.items()}


def _user(retriever, **settings):
    return sdg.SimulatedUser(**{"retriever": retriever, "pool": POOL, "top_k": 2, "documents": 3} | settings)


@pytest.fixture(scope="module")
def bm25():
    return BM25(CORPUS)


def _session(llm, user, *ids, seed=1):
    return sdg.generate_queries(CORPUS, llm, [user], seed=seed, documents=[CORPUS[i] for i in ids])


def test_a_session_goes_on_until_the_document_is_found(bm25):
    llm = Recorded(
        [Answer("I want bread."), Answer("Need: I have a flat tyre."), Answer("My instrument sounds wrong.")],
        # the first finds its document at once, the others find bread and bicycles
        [Answer("knead dough"), Answer("knead the flour"), Answer("inner tube patch glue")],
        [Answer("hole in the inner tube"), Answer("lift the rim with levers")],
        [Answer("strings out of tune fork")],
    )
    generated = _session(llm, _user(bm25), "bread", "bicycle", "guitar")
    found = [
        (q.text, q.metadata["positives"], q.metadata["round"], q.metadata["found"], q.metadata["rank"] == 1)
        for q in generated
    ]
    assert found == [
        ("knead dough", ["bread"], 1, True, True),
        ("knead the flour", ["bicycle"], 1, False, False),
        ("inner tube patch glue", ["guitar"], 1, False, False),
        ("hole in the inner tube", ["bicycle"], 2, True, True),
        ("lift the rim with levers", ["guitar"], 2, False, False),
        ("strings out of tune fork", ["guitar"], 3, True, True),
    ]
    assert {q.metadata["session"] for q in generated} == {
        f"simulated_user:{i}/0" for i in ("bread", "bicycle", "guitar")
    }
    assert len({q.id for q in generated}) == 6
    stats = generated.stats["simulated_user"]
    assert (stats.prompts, stats.asked, stats.kept) == (9, 6, 6)
    assert [row["need"] for row in generated.first_steps][:2] == ["I want bread.", "I have a flat tyre."]
    # whoever types first has the need alone; whoever types again has seen what was found, by title and first words
    first, second, third = llm.asked[1][1].prompt, llm.asked[2][0].prompt, llm.asked[3][0].prompt
    assert first.endswith("Need 5: I have a flat tyre.\nQuery 5:") and "Take the wheel off" not in first
    assert "Need 5: I have a flat tyre.\nTyped: knead the flour\nFound:\n- Baking bread: Mix flour, water," in second
    assert second.count("\n- ") == 1 + 4 and "doubled" not in second  # what was found, and those of four examples
    assert "Typed: inner tube patch glue / lift the rim with levers\nFound:\n- Repairing a bicycle tyre" in third


def test_found_at_once_nothing_more_is_asked(bm25):
    llm = Recorded([Answer("I want bread.")], [Answer("knead dough")])
    generated = _session(llm, _user(bm25), "bread")
    assert len(llm.asked) == 2 and not llm.answers
    (query,) = generated
    assert {key: query.metadata[key] for key in ("round", "rank", "found")} == {"round": 1, "rank": 1, "found": True}


def test_who_repeats_oneself_gives_up_and_so_does_who_types_nothing(bm25):
    llm = Recorded(
        [Answer("I want bread."), Answer("I want a clean keyboard."), Answer("", error="timeout: no answer")],
        [Answer("molten rock"), Answer(" ")],
        [Answer("Molten rock?")],
    )
    with pytest.raises(InputError, match="1 of 3 requests failed"):  # of three, one is an outage
        _session(llm, _user(bm25), "bread", "piano", "chess")
    llm = Recorded(
        [Answer("I want bread."), Answer("I want a clean keyboard."), Answer("  ")],
        [Answer("molten rock"), Answer(" ")],
        [Answer("Molten rock?")],
    )
    generated = _session(llm, _user(bm25), "bread", "piano", "chess")
    assert [q.text for q in generated] == ["molten rock"] and generated.kept[0].metadata["found"] is False
    stats = generated.stats["simulated_user"]
    assert stats.rejected == {"empty": 2, "duplicate": 1} and stats.asked == 4 == stats.kept + stats.rejected.total()


def test_a_need_of_the_examples_is_none_of_the_document(bm25):
    llm = Recorded([Answer("I want bread."), Answer("i need thing 3")], [Answer("knead dough")])
    generated = _session(llm, _user(bm25), "bread", "piano")
    assert [q.text for q in generated] == ["knead dough"] and len(generated.first_steps) == 1
    assert generated.rejected[0].message == "not readable: need copied from an example of the prompt"


def test_rounds_are_a_limit_and_a_copy_of_the_document_is_as_good(bm25):
    llm = Recorded([Answer("I want bread.")], [Answer("molten rock")])
    assert len(_session(llm, _user(bm25, rounds=1), "bread")) == 1 and not llm.answers
    copied = CORPUS | {"copy": Document("copy", CORPUS["bread"].text, "Another title")}
    user = sdg.SimulatedUser(retriever=_Only("copy"), pool=POOL)
    llm = Recorded([Answer("I want bread.")], [Answer("knead dough")])
    (query,) = sdg.generate_queries(copied, llm, [user], seed=1, documents=[CORPUS["bread"]])
    assert query.metadata["found"] and query.metadata["rank"] == 1


class _Only:
    """A search engine that has one document."""

    def __init__(self, doc_id):
        self.doc_id = doc_id

    def search(self, queries, k):
        return {q: {self.doc_id: 1.0} if self.doc_id else {} for q in queries}


def test_an_engine_that_finds_nothing_and_one_of_other_documents():
    llm = Recorded([Answer("I want bread.")], [Answer("knead dough")], [Answer("bread dough")])
    generated = _session(llm, _user(_Only(None), rounds=2), "bread")
    assert llm.asked[2][0].prompt.endswith("Found:\n- nothing\nQuery 5:") and len(generated) == 2
    assert [q.metadata["rank"] for q in generated] == [None, None]
    llm = Recorded([Answer("I want bread.")], [Answer("knead dough")])
    with pytest.raises(InputError, match="found 'elsewhere', which is no document of the corpus"):
        _session(llm, _user(_Only("elsewhere")), "bread")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 2}, "one query at a time"),
        ({"task": "x"}, "has no task"),
        ({"retriever": "bm52"}, "'dense' or 'bm25'"),
        ({"rounds": 0}, "greater than or equal to 1"),
        ({"pool": [{"document": "d", "need": "n"}]}, "the keys document, need and query"),
        ({"pool": [POOL[0] | {"results": []}]}, "one or more"),
        ({"pool": [POOL[0] | {"results": [" "]}]}, "are text"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QueriesSettings(strategies=[{"kind": "simulated_user", "pool": POOL} | settings])


def test_a_name_is_no_retriever_and_rounds_need_examples_before_anything_is_paid_for():
    llm = Recorded()
    document = sdg.Document(pool=[{"document": "d", "query": "q"}])
    with pytest.raises(InputError, match="give an object with search"):
        sdg.generate_queries(CORPUS, llm, [document, sdg.SimulatedUser(pool=POOL)])
    with pytest.raises(InputError, match="pool: no example has results and a reformulation"):
        sdg.generate_queries(CORPUS, llm, [document, _user(_Only(None), pool=POOL[-1:])])
    assert not llm.asked
    assert len(_user(_Only(None), pool=POOL[-1:], rounds=1).resolve().example_texts()) == 1


def test_an_estimate_counts_every_call_that_there_can_be():
    user = sdg.SimulatedUser(pool=POOL, per_document=2, examples_per_prompt=1).resolve()
    rows = CostEstimator(lambda text: len(text.split()), seed=1, chat=False).estimate(
        [user], list(CORPUS.values()), CORPUS
    )
    assert [(row.strategy, row.calls) for row in rows] == [
        ("simulated_user: need", 24),
        ("simulated_user", 24),
        ("simulated_user: reformulation", 48),
    ]
    assert rows[0].max_tokens == 80 and rows[1].max_tokens == 48 == rows[2].max_tokens
    assert rows[2].prompt_tokens > rows[1].prompt_tokens + 20  # ten results


def test_the_pool_that_comes_along_has_failures_and_good_first_queries():
    examples = read_pool(BUNDLED, sdg.SimulatedUser.parse_example)
    failed = [example for example in examples if example.reformulation]
    assert len(failed) >= 8 and len(examples) - len(failed) >= 5 and all(len(e.results) == 3 for e in failed)


def _reply(path, body, headers):
    """An answer that depends on what was asked, in words of the documents."""
    words = sorted({word for document in CORPUS.values() for word in document.text.split() if word.isalpha()})
    return chat_answer(" ".join(random.Random(json.dumps(body, sort_keys=True)).sample(words, 5)))


def _generate_with(base_url: str, folder: str) -> None:
    settings = sdg.LLMSettings(base_url=base_url, model="m", concurrency=1)
    llm = sdg.LLM(settings=settings, journal=Path(folder) / "answers.sqlite")
    user = sdg.SimulatedUser(retriever=Dense(CORPUS, "packaged:tiny-bert"), pool=POOL, top_k=1)
    queries = sdg.generate_queries(CORPUS, llm, [user], seed=3)
    rows = [[q.id, q.text, q.metadata["round"], q.metadata["rank"], q.metadata["session"]] for q in queries]
    (Path(folder) / "queries.json").write_text(json.dumps([rows, queries.counts()]))


def test_killed_in_any_round_nothing_is_asked_twice_and_the_queries_are_the_same(tmp_path: Path):
    answered: Counter[str] = Counter()
    lock = threading.Lock()

    def reply(path, body, headers):
        with lock:
            answered[json.dumps(body, sort_keys=True)] += 1
        time.sleep(0.02)  # so that a kill comes in the midst
        return _reply(path, body, headers)

    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    with serve_replies(reply) as base_url:
        _generate_with(base_url, str(tmp_path / "undisturbed"))
        calls = Counter(answered)
        assert set(calls.values()) == {1} and len(calls) > 2 * len(CORPUS) + 3  # there were several rounds
        answered.clear()
        for wanted in (5, len(CORPUS) + 4, 2 * len(CORPUS) + 3):  # needs, first queries, second queries
            process = start(_generate_with, base_url, str(tmp_path / "killed"))
            kill_when(process, lambda wanted=wanted: answered.total() >= wanted)
        _generate_with(base_url, str(tmp_path / "killed"))
    # what was under way when the process was killed had no chance to be written down
    assert answered.keys() == calls.keys() and answered.total() <= calls.total() + 3
    assert (tmp_path / "killed" / "queries.json").read_text() == (tmp_path / "undisturbed" / "queries.json").read_text()
