"""Two systems on one task, from search to verdict."""

from __future__ import annotations

from os import PathLike, fspath

from sharpen.evaluation.beir import Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.encoders.families import AnyEncoder, load_any, probe_any
from sharpen.evaluation.metrics import PerQuery, evaluate
from sharpen.evaluation.report.by_query import query_changes, slices
from sharpen.evaluation.report.comparison import BEFORE_AFTER, Report, make_comparison
from sharpen.evaluation.retrievers.base import Retriever, search_task
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.encoders import encoder_index

System = str | PathLike | AnyEncoder | Retriever
"""The name or folder of an encoder (or what a training returned), a loaded one, or a retriever over the task's
corpus."""


def compare(
    task: Task,
    before: System,
    after: System,
    *,
    bm25: bool = True,
    seed: int = 13,
    names: tuple[str, str] = BEFORE_AFTER,
) -> Report:
    """Search the task's corpus with two systems, score both, and test the difference.

    ``before``, ``after``: an encoder's name or folder, or a loaded one of any family, or any ``Retriever``. ``bm25``:
    put the figures of BM25 (English) beside them. ``seed``: of the resampling; the same seed gives the same intervals.
    ``names``: of the two systems in the report. Raises ``InputError`` if a model cannot be loaded. Under ``accelerate
    launch`` every process must call this.

    >>> from sharpen.evaluation.beir import Document, Query
    >>> corpus = {"a": Document("a", "Baking bread"), "b": Document("b", "Ice flows"), "c": Document("c", "Tuning")}
    >>> queries = {"q1": Query("q1", "bread"), "q2": Query("q2", "flows of ice")}
    >>> task = Task(corpus, queries, {"q1": {"a": 1}, "q2": {"b": 1}})
    >>> class First:  # a retriever that does not read the query
    ...     def search(self, queries, k):
    ...         return {q: {"c": 1.0} for q in queries}
    >>> report = compare(task, First(), BM25(corpus), names=("the first", "BM25"))
    >>> report.verdict, report.to_dict()["delta"]["ndcg@10"]["value"]
    ('not distinguishable', 1.0)
    """
    runs = tuple(search_task(task, _retriever(task, system)) for system in (before, after))
    scores = tuple(evaluate(task.qrels, run) for run in runs)
    of_bm25 = evaluate(task.qrels, search_task(task, BM25(task.corpus))) if bm25 else None
    return report_of(task, runs, scores, seed=seed, names=names, bm25=of_bm25)


def report_of(
    task: Task,
    runs: tuple[Run, Run],
    scores: tuple[PerQuery, PerQuery],
    *,
    seed: int,
    names: tuple[str, str],
    bm25: PerQuery | None = None,
) -> Report:
    """The report on two systems that were searched with and scored already."""
    comparison = make_comparison(
        *scores, seed=seed, queries_of=f"queries of {task.name}", groups=task.groups, bm25=bm25, names=names
    )
    changes = query_changes(task, runs, scores)
    kinds = slices(task, changes, scores, seed, comparison)
    return Report(f"{names[0]} and {names[1]} on {task.name}", comparison, changes, kinds)


def _retriever(task: Task, system: System) -> Retriever:
    if isinstance(system, PathLike):
        system = fspath(system)
    if isinstance(system, str):
        name, system = system, load_any(system)
        probe_any(system, name)
    return encoder_index(task.corpus, system) if isinstance(system, AnyEncoder) else system
