"""Settings of strategies: what is inherited, what stands in a fingerprint, and a user's own."""

import sys
from pathlib import Path

import pytest

from sharpen import sdg
from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.strategies.pools import read_pool
from sharpen.sdg.strategies.settings import QueriesSettings
from tests.sdg.recorded import Recorded

POOL = [{"document": "Boil eggs for six minutes.", "query": "how long to boil an egg", "answer": "six minutes"}]
OWN = '''
from sharpen import sdg


class Titles(sdg.CustomStrategy):
    """A question for each title."""

    name = "titles"

    def __init__(self, ask="Title"):
        self.ask = ask

    def units(self, documents, queries, corpus):
        for document in documents:
            yield sdg.Unit(f"titles:{document.id}", document.title, document, (document.id,))

    def request(self, unit, *, seed, chat):
        return sdg.Request(f"{self.ask}: {unit.text}\\nQuestion:", chat, {"max_tokens": self.max_tokens, "seed": seed})
'''


def test_a_strategy_takes_what_it_does_not_say_from_queries_and_then_from_its_class():
    settings = QueriesSettings(
        pool=POOL,
        task="All.",
        form="line",
        max_tokens=30,
        strategies=[
            {"queries": 3},
            {"kind": "sentence", "task": "Mine.", "max_tokens": 9},
            {"kind": "question_answer"},
            {"kind": "paraphrase", "pool": POOL},
        ],
    )
    whole, sentence, answers, paraphrase = settings.all_strategies()
    assert (whole.name, whole.task, whole.form, whole.max_tokens) == ("document", "All.", "list", 30)
    assert (sentence.task, sentence.form, sentence.max_tokens) == ("Mine.", "line", 9)
    assert (answers.task, answers.form, answers.max_tokens) == ("All.", "json", 110)
    assert paraphrase.task.startswith("Each question stands with the same question") and paraphrase.max_tokens == 30
    assert [s.examples_per_prompt for s in (whole, answers)] == [6, 6] and whole.examples[0].texts == (
        POOL[0]["query"],
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strategies": [{"kind": "metadata", "fields": ["a"]}]},
            "no pool of examples for metadata: give queries",
        ),
        ({"pool": POOL, "strategies": [{"kind": "paraphrase"}]}, "for paraphrase: give pool in the strategy"),
        ({"pool": POOL, "strategies": [{}, {}]}, "give those of the same kind different names"),
        ({"pool": POOL, "strategies": [{"name": "labelled"}]}, "no strategy can be named labelled"),
        ({"pool": POOL, "strategies": [{"queries": 2, "form": "line"}]}, "form: line has room for one query"),
        ({"pool": POOL, "strategies": [{"kind": "question_answer", "form": "line"}]}, "no room for an answer"),
        ({"pool": POOL, "strategies": [{"kind": "multi_hop", "pool": [], "task": "x"}]}, "multi_hop has no task"),
        ({"pool": POOL, "strategies": [{"kind": "back_translation", "pool": POOL, "queries": 2}]}, "say per_document"),
        ({"pool": POOL, "strategies": [{"kind": "metadata"}]}, "fields"),
        ({"pool": POOL, "strategies": [{"fields": ["a"]}]}, "fields"),
        ({"pool": [{"document": "x"}]}, "an example has the keys document and query"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QueriesSettings(**settings)


def test_a_fingerprint_has_the_pool_by_content_and_defaults_filled_in(tmp_path: Path):
    pool, copy = tmp_path / "pool.yaml", tmp_path / "copy.yaml"
    pool.write_text("- {document: a b, query: c d}\n")
    copy.write_text(pool.read_text())

    def fingerprint(**settings):
        return QueriesSettings(**settings).fingerprint()

    known = fingerprint(pool=str(pool))
    assert fingerprint(pool=str(copy), temperature=0.7, strategies=[{"kind": "document", "form": "line"}]) == known
    assert fingerprint(pool=str(pool), temperature=0.8) != known
    pool.write_text("- {document: a b, query: c e}\n")
    assert fingerprint(pool=str(pool)) != known
    with pytest.raises(InputError, match=r"pool: .*gone\.yaml: no such file"):
        QueriesSettings(pool=str(tmp_path / "gone.yaml")).check()


def test_a_pool_is_read_by_line(tmp_path: Path):
    path = tmp_path / "pool.yaml"
    for text, message in [
        ("- {document: a, query: b}\n- {document: a}\n", r"pool\.yaml, line 2: an example has the keys"),
        ("- {document: a, queries: [b, c], answers: [d]}\n", "line 1: 2 queries with 1 answers"),
        ("- {document: a, query: 7}\n", "line 1: document, queries and answers are text"),
        ("{document: a}\n", "expected a list of examples, each with document and query"),
        ("- [\n", r"pool\.yaml, line \d: not valid YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_pool(path)
    with pytest.raises(InputError, match="1 of 1 examples have none"):
        path.write_text("- {document: a, query: b}\n")
        sdg.QuestionAnswer(pool=str(path)).resolve().example_texts()


def test_a_users_own_strategy_from_a_file(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN)
    custom = {"kind": "custom", "use": f"{tmp_path / 'own.py'}:Titles", "options": {"ask": "Heading"}}
    settings = QueriesSettings(pool=POOL, strategies=[{"kind": "document"}, custom])
    corpus = {"d": Document("d", "Soak the beans overnight in water.", "Cooking beans")}
    llm = Recorded([Answer("how are beans prepared")], [Answer(" soaking time\nTitle: x", "stop", 5, 0, 3)])
    generated = sdg.generate_queries(corpus, llm, settings.all_strategies(), seed=1)
    assert [(q.text, q.metadata["strategy"]) for q in generated] == [
        ("how are beans prepared", "document"),
        ("soaking time", "titles"),
    ]
    assert llm.requests[0].prompt == "Heading: Cooking beans\nQuestion:"
    known = settings.fingerprint()
    (tmp_path / "own.py").write_text(OWN.replace("Question:", "Query:"))
    assert settings.fingerprint() != known


def test_settings_are_read_without_loading_what_computes():
    import subprocess

    heavy = ("torch", "sentence_transformers", "openai", "datasets", "faiss", "transformers", "bm25s")
    modules = "strategies.settings, sharpen.sdg.filters.settings, sharpen.sdg.splitting, sharpen.sdg.labelled"
    code = f"import sys, sharpen.sdg.{modules}, sharpen.sdg.chunking; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
