"""What a retriever is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from sharpen.evaluation.beir import Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.runs import ranking, to_documents

Progress = Callable[[int], None]


RUN_DEPTH = 100


class Retriever(Protocol):
    """What gives a run; ``queries`` are ID to text."""

    def search(self, queries: Mapping[str, str], k: int) -> Run: ...


def search_task(task: Task, retriever: Retriever, depth: int = RUN_DEPTH) -> Run:
    """The ``depth`` best documents of each of the task's queries, without a document of the query's own ID, as in BEIR:
    of ArguAna and Quora the queries stand in the corpus, too."""
    cut = task.by_document and any(d.doc_id != i for i, d in task.corpus.items())
    # the chunks of a hundred documents may be many, and a hit of the query's own ID is none: search deeper, cut after
    run = retriever.search(task.texts, depth * 10 if cut else depth + 1)
    if cut:
        run = to_documents(run, task.corpus)
    return {q: {d: scores[d] for d in [d for d in ranking(scores) if d != q][:depth]} for q, scores in run.items()}
