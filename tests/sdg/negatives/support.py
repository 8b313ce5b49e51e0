"""Random corpora with many copies, and an LLM whose answers are given."""

from __future__ import annotations

from contextlib import contextmanager

from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query
from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives import Negative
from sharpen.sdg.resources import Resources

WORDS = ["ice", "snow", "river", "wood", "bread", "salt", "wheel", "rope"]
texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)


@st.composite
def corpora(draw):
    """Documents with many equal texts, some of them chunks of one document, and queries for some."""
    contents = draw(st.lists(texts, min_size=2, max_size=25))
    corpus = {}
    for n, text in enumerate(contents):
        metadata = {"chunk_of": f"parent{n // 3}"} if draw(st.booleans()) else {}
        corpus[f"d{n}"] = Document(f"d{n}", text, title=f"file {n}" if n % 2 else "", metadata=metadata)
    chosen = draw(st.lists(st.sampled_from(sorted(corpus)), min_size=1, max_size=8, unique=True))
    queries = [Query(f"q{i}", draw(texts), {"positives": [doc_id]}) for i, doc_id in enumerate(chosen)]
    return corpus, queries


def row(query_id, doc_id, miner="m", rank=1, verdict="candidate", reason=None, detail=""):
    return Negative(query_id, doc_id, miner, rank, 1.0, verdict, 0, reason, detail)


def kept(rows):
    return [n for n in rows if n.verdict == "kept"]


class RecordedLLM:
    """Gives the answers of a list for each time that it is asked."""

    identity = "recorded"

    def __init__(self, *answers):
        self.answers, self.requests, self.spending = list(answers), [], Spending()

    def ask(self, requests, use):
        self.requests = list(requests)
        answers = self.answers.pop(0) if self.requests else []
        self.spending.add(10 * len(answers), 5 * len(answers))
        return [use(n, request, answer) for n, (request, answer) in enumerate(zip(self.requests, answers, strict=True))]


class RecordedResources(Resources):
    """Lends a recorded LLM, which is asked by chat or has its prompts continued."""

    def __init__(self, recorded, chat=True, embedded=False, **more):
        where = {"embedded": "gemma-3-270m"} if embedded else {"base_url": "http://localhost:1/v1", "model": "recorded"}
        super().__init__(llm=LLMSettings(**where, chat=chat), **more)
        self.recorded, self.opened = recorded, []

    @contextmanager
    def open_llm(self, other=None):
        self.opened.append(other)
        yield self.recorded
