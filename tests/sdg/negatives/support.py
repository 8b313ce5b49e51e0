"""Rows of miners, and an LLM whose answers are given."""

from __future__ import annotations

from contextlib import contextmanager

from sharpen.sdg.llm.budget import Spending
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives import Negative
from sharpen.sdg.resources import Resources


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
