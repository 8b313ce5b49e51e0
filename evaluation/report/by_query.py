"""Where a difference comes from: query by query with the documents that changed places, and by kinds of queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sharpen.evaluation.beir import Document, Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.report.comparison import Comparison, make_comparison
from sharpen.evaluation.runs import ranking

SHOWN = 10
"""The ranks that a person looks at, and that ``PRIMARY`` looks at."""
SNIPPET = 160
"""Characters of a document that are shown."""
FEWEST = 10
"""Queries of a slice, or an interval says nothing."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that one system shows and the other does not."""

    doc_id: str
    text: str
    rank: int
    grade: int


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query before and after; ``gone`` and ``come`` are the documents that left and entered the first ten."""

    query_id: str
    text: str
    before: float
    after: float
    relevant: int
    words: int
    overlap: float
    """Share of its words that stand in a relevant document, of the one where most do."""
    gone: tuple[Hit, ...]
    come: tuple[Hit, ...]
    relevant_ranks: tuple[tuple[str, int | None, int | None], ...]
    """Relevant documents whose rank is another one: ID, rank before and after; None where it is not in the run."""

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def outcome(self) -> str:
        return "won" if self.difference > 0 else "lost" if self.difference < 0 else "tied"


def query_changes(task: Task, runs: tuple[Run, Run], scores: tuple[PerQuery, PerQuery]) -> list[QueryChange]:
    """Every query of the task, those that moved most first; differences are of nDCG@10."""
    before, after = (side[PRIMARY] for side in scores)
    documents = _documents(task)
    changes = []
    for query_id, query in task.queries.items():
        ranked = [ranking(run.get(query_id, {})) for run in runs]
        first, second = (own[:SHOWN] for own in ranked)
        grades = {i: grade for i, grade in task.qrels[query_id].items() if grade > 0}

        def hits(own, other):
            return tuple(
                Hit(i, _snippet(documents.get(i)), rank, grades.get(i, 0))
                for rank, i in enumerate(own, start=1)
                if i not in other
            )

        places = [{i: rank for rank, i in enumerate(own, start=1)} for own in ranked]
        moved = tuple((i, *(place.get(i) for place in places)) for i in grades if places[0].get(i) != places[1].get(i))
        words = set(map(str.lower, _WORD.findall(query.text)))
        overlap = max(
            (
                len(words & set(map(str.lower, _WORD.findall(documents[i].content)))) / len(words)
                for i in grades
                if i in documents and words
            ),
            default=0.0,
        )
        changes.append(
            QueryChange(
                query_id,
                query.text,
                before[query_id],
                after[query_id],
                len(grades),
                len(query.text.split()),
                overlap,
                hits(first, second),
                hits(second, first),
                moved,
            )
        )
    return sorted(changes, key=lambda c: (-abs(c.difference), c.query_id))


def slices(
    task: Task, changes: list[QueryChange], scores: tuple[PerQuery, PerQuery], seed: int, comparison: Comparison
) -> dict[str, Comparison]:
    """The comparison for kinds of queries: by length, words in common with a relevant document, number of relevant
    documents, and strategy. Kinds of fewer than 10 queries, and those that all queries are of, are left out."""
    kinds: dict[str, Callable[[QueryChange], str | None]] = {
        "length": lambda c: (
            "1 to 3 words"
            if c.words <= 3
            else "4 to 8 words"
            if c.words <= 8
            else "9 to 15 words"
            if c.words <= 15
            else "more than 15 words"
        ),
        "overlap": lambda c: (
            "under a third of its words in a relevant document"
            if c.overlap < 1 / 3
            else (
                "over two thirds of its words in one"
                if c.overlap > 2 / 3
                else "a third to two thirds of its words in one"
            )
        ),
        "relevant": lambda c: (
            "one relevant document"
            if c.relevant == 1
            else "2 to 4 relevant documents"
            if c.relevant < 5
            else "5 and more relevant documents"
        ),
        "strategy": lambda c: task.queries[c.query_id].metadata.get("strategy"),
    }
    result: dict[str, Comparison] = {}
    for kind in kinds.values():
        members: dict[str, list[str]] = {}
        for change in changes:
            if (name := kind(change)) is not None:
                members.setdefault(str(name), []).append(change.query_id)
        for name in sorted(members, key=_natural):
            if FEWEST <= len(members[name]) < len(changes):
                first, second = ({PRIMARY: {q: side[PRIMARY][q] for q in members[name]}} for side in scores)
                result[name] = make_comparison(
                    first,
                    second,
                    seed=seed,
                    queries_of=comparison.queries_of,
                    groups=task.groups,
                    names=comparison.names,
                )
    return result


def _natural(name: str) -> tuple[float, str]:
    """Kinds by the first number in their names, and without one by name; those of more, last."""
    number = re.search(r"\d+", name)
    return (float("inf") if name.startswith("more") else float(number.group()) if number else 0.0, name)


def _documents(task: Task) -> Mapping[str, Document]:
    """What the run's IDs stand for: chunks, or documents by their first chunk."""
    if not task.by_document:
        return task.corpus
    first: dict[str, Document] = {}
    for chunk in task.corpus.values():
        first.setdefault(chunk.doc_id, chunk)
    return first


def _snippet(document: Document | None) -> str:
    if document is None:
        return ""
    text = " ".join(document.content.split())
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1].rstrip() + "…"
