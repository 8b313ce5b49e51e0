"""Prompts are what the journal of answers is keyed by: a changed one is asked, and paid for, again."""

import hashlib
import json

import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.truncation import Truncation, collect_truncations
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.reranking.questions import OrderQuestion, RelevanceQuestion
from sharpen.sdg.reranking.settings import LLMRerankerSettings
from sharpen.sdg.strategies.settings import QueriesSettings
from tests.sdg.support import MULTI_HOP_EXAMPLE

POOL = [
    {
        "document": f"Thing {n}: about {n}.",
        "queries": [f"What is {n}?", f"Which is {n}?"],
        "answers": [f"it is {n}", f"that is {n}"],
    }
    for n in range(9)
]
TOPICS = ("kiln", "beans", "sail", "glacier")


def _corpus() -> dict[str, Document]:
    chunks = [
        Document(
            f"{topic}#{n}",
            f"The {topic} of part {n} has glaze and salt in it. Then there is some rope for the {topic}.",
            f"About the {topic}" if n % 2 else "",
            {"chunk_of": topic, "author": f"A. {topic.title()}"},
        )
        for topic in TOPICS
        for n in range(3)
    ]
    return {chunk.id: chunk for chunk in chunks}


CASES = {
    "document": {"kind": "document"},
    "several": {"kind": "document", "name": "three", "queries": 3, "example_draws": 4},
    "json": {"kind": "document", "queries": 2, "form": "json", "per_document": 2, "extra_body": {"top_k": 20}},
    "sentence": {"kind": "sentence", "sentences": 2, "per_document": 2},
    "metadata": {"kind": "metadata", "fields": ["author"], "documents": 9},
    "question_answer": {"kind": "question_answer"},
    "multi_hop": {"kind": "multi_hop", "pool": [MULTI_HOP_EXAMPLE], "bundle": {"documents": 2, "related": False}},
    "paraphrase": {"kind": "paraphrase", "pool": POOL},
    "back_translation": {"kind": "back_translation", "pool": POOL, "per_document": 2},
}

SUMS = {
    "document": ("1ddfb4025b808657", "7458833a0e7587a4"),
    "several": ("f05a4162f8b3c752", "62703e9ad0146970"),
    "json": ("0c5177ff395aaf12", "d753f4a3c693e4ef"),
    "sentence": ("3835fdb4d3876037", "d6794494b8a2481e"),
    "metadata": ("3adc66fcb7544c60", "597ff515f6bd90e5"),
    "question_answer": ("0ee00d13b08e17ab", "42ead5a29361b691"),
    "multi_hop": ("36bfd4b5cc72a75f", "7f1da61eaac2321f"),
    "paraphrase": ("09a23a6fcf5ea96c", "2b7baf5114f279bf"),
    "back_translation": ("d7f1f155ff4ec6e4", "800e050161d1bdc4"),
}
"""Of unit keys, positives and the requests' keys, asked by chat and as a text to continue."""


@pytest.mark.parametrize("name", CASES)
def test_prompts_and_keys_have_not_changed(name: str):
    case = CASES[name]
    before = [{"name": "before"}] if case["kind"] in ("paraphrase", "back_translation") else []
    strategy = QueriesSettings(pool=POOL, temperature=0.6, strategies=[*before, case]).all_strategies()[-1]
    corpus = _corpus()
    queries = [
        Query(f"q{n}", f"what about {topic} number {n}", {"positives": [f"{topic}#0"]})
        for n, topic in enumerate(TOPICS)
    ]
    sums = []
    for chat in (True, False):
        rows = []
        for unit in strategy.units(list(corpus.values()), queries, corpus):
            steps = [strategy.first, strategy] if strategy.first else [strategy]
            for step in steps:
                request = step.request(unit, seed=13, chat=chat)
                rows.append([unit.key, list(unit.positives), Journal.key(request.identity())])
                if step is not strategy:
                    unit = strategy.after_first(unit, ParsedAnswer((ParsedQuery(query='{"entities": ["kiln"]}'),)))
        sums.append(hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16])
    assert tuple(sums) == SUMS[name]


@pytest.mark.parametrize("name", ["document", "json", "question_answer", "multi_hop"])
def test_what_a_prompt_does_not_show_of_a_document_is_counted(name: str):
    case = CASES[name] | {"max_document_words": 50}
    strategy = QueriesSettings(pool=POOL, strategies=[case]).all_strategies()[-1]
    corpus = {
        d.id: Document(d.id, d.text + " salt" * 1000 * (n == 0), d.title, d.metadata)
        for n, d in enumerate(_corpus().values())
    }
    with collect_truncations() as found:
        for unit in strategy.units(list(corpus.values()), [], corpus):
            strategy.request(unit, seed=13, chat=True)
    (prompts,) = found.all()
    assert (prompts.what, prompts.truncated, prompts.limit) == ("in_prompts", 1, 50) and prompts.longest > 1000


@pytest.mark.parametrize("question", [RelevanceQuestion, OrderQuestion])
def test_what_a_reranking_llm_is_not_shown_is_counted(question):
    document = Document("d", "salt " * 2000)
    with collect_truncations() as found:
        question(LLMRerankerSettings(max_document_words=200)).request("what is salt", [document], True, False)
    assert found.all() == [Truncation("in_prompts", 1, 1, 2000, 200)]
