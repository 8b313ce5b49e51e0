"""What a retriever is, and the run that it gives for a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from sharpen.evaluation.beir import Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.runs import ranking, to_documents

Advance = Callable[[int], None]
"""Called with the number of texts or queries that were done."""

RUN_DEPTH = 100
"""Documents of a run for each query: as deep as ``recall@100`` looks."""


class Retriever(Protocol):
    """Whatever has this method: ours, or a user's own for any search engine.

    >>> class Everything:
    ...     def __init__(self, ids):
    ...         self.ids = ids
    ...     def search(self, queries, k):
    ...         return {q: {i: 1.0 for i in self.ids[:k]} for q in queries}
    >>> Everything(["a", "b"]).search({"q1": "text"}, k=1)
    {'q1': {'a': 1.0}}
    """

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The ``k`` best documents of each query, as query ID to document ID to score; ``queries``: ID to text."""
        ...


def search_task(task: Task, retriever: Retriever, depth: int = RUN_DEPTH) -> Run:
    """The ``depth`` best documents of each of the task's queries.

    A document with the ID of the query is left out, as in BEIR: the queries of ArguAna and Quora are also documents.
    Where documents were cut into chunks, and the qrels name documents, a document has the score of its best chunk.
    """
    # deeper than asked: a hundred documents may have many chunks, and a hit with the query's ID is left out
    return task_run(task, retriever.search(task.texts, depth * 10 if is_chunked(task) else depth + 1), depth)


def is_chunked(task: Task) -> bool:
    """Whether documents were cut into chunks, and qrels name the documents."""
    return task.by_document and any(d.doc_id != i for i, d in task.corpus.items())


def task_run(task: Task, run: Run, depth: int = RUN_DEPTH) -> Run:
    """What a search found, as the task's qrels name it: ``depth`` documents of each query, best first."""
    if is_chunked(task):
        run = to_documents(run, task.corpus)
    return {q: {d: scores[d] for d in [d for d in ranking(scores) if d != q][:depth]} for q, scores in run.items()}
