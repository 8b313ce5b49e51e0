"""Where a difference comes from: query by query, with the documents that changed ranks, and by kinds of queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sharpen.evaluation.beir import Document, Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.languages import n_words
from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.report.comparison import Comparison, make_comparison
from sharpen.evaluation.runs import ranking

TOP_K = 10
"""The ranks that a person looks at, and that nDCG@10 looks at."""
SNIPPET = 160
"""Characters of a document in a report."""
MIN_QUERIES = 10
"""Of a kind: with fewer, an interval says nothing."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that only one of the two systems has in its top 10."""

    doc_id: str
    text: str
    rank: int
    grade: int


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query before and after."""

    query_id: str
    text: str
    before: float
    """nDCG@10."""
    after: float
    relevant: int
    """Relevant documents that it has."""
    words: int
    overlap: float
    """Fraction of its words that a relevant document contains, the largest of all relevant documents."""
    left: tuple[Hit, ...]
    """Documents that left the top 10."""
    entered: tuple[Hit, ...]
    """Documents that entered the top 10."""
    relevant_ranks: tuple[tuple[str, int | None, int | None], ...]
    """Relevant documents whose rank changed: ID, rank before and after; None where it is not in the run."""

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def outcome(self) -> str:
        return "won" if self.difference > 0 else "lost" if self.difference < 0 else "tied"


def query_changes(task: Task, runs: tuple[Run, Run], scores: tuple[PerQuery, PerQuery]) -> list[QueryChange]:
    """Every query of the task, those whose nDCG@10 changed most first; ``runs`` and ``scores``: before and after."""
    before, after = (side[PRIMARY] for side in scores)
    documents = _documents(task)
    changes = []
    for query_id, query in task.queries.items():
        ranked = [ranking(run.get(query_id, {})) for run in runs]
        top = [ids[:TOP_K] for ids in ranked]
        grades = {i: grade for i, grade in task.qrels[query_id].items() if grade > 0}
        ranks = [{i: rank for rank, i in enumerate(ids, start=1)} for ids in ranked]
        changes.append(
            QueryChange(
                query_id,
                query.text,
                before[query_id],
                after[query_id],
                len(grades),
                n_words(query.text),
                _overlap(query.text, [documents[i] for i in grades if i in documents]),
                _hits(top[0], top[1], documents, grades),
                _hits(top[1], top[0], documents, grades),
                tuple((i, ranks[0].get(i), ranks[1].get(i)) for i in grades if ranks[0].get(i) != ranks[1].get(i)),
            )
        )
    return sorted(changes, key=lambda c: (-abs(c.difference), c.query_id))


def slices(
    task: Task, changes: list[QueryChange], scores: tuple[PerQuery, PerQuery], seed: int, comparison: Comparison
) -> dict[str, Comparison]:
    """The comparison for kinds of queries: by length, words in common with a relevant document, number of relevant
    documents, and strategy. Kinds with fewer than 10 queries, and those that contain all queries, are left out."""
    kinds: tuple[Callable[[QueryChange], str | None], ...] = (
        _length,
        _overlap_kind,
        _relevant,
        lambda change: task.queries[change.query_id].metadata.get("strategy"),
    )
    result: dict[str, Comparison] = {}
    for kind in kinds:
        members: dict[str, list[str]] = {}
        for change in changes:
            if (name := kind(change)) is not None:
                members.setdefault(str(name), []).append(change.query_id)
        for name in sorted(members, key=_natural):
            if MIN_QUERIES <= len(members[name]) < len(changes):
                result[name] = comparison_of_some(members[name], task, scores, seed, comparison)
    return result


def comparison_of_some(
    queries: Sequence[str], task: Task, scores: tuple[PerQuery, PerQuery], seed: int, comparison: Comparison
) -> Comparison:
    """The comparison by the primary measure for some of its queries, by their IDs."""
    first, second = ({PRIMARY: {q: side[PRIMARY][q] for q in queries}} for side in scores)
    return make_comparison(
        first,
        second,
        seed=seed,
        queries_of=comparison.queries_of,
        groups=task.groups,
        names=comparison.names,
    )


def _length(change: QueryChange) -> str:
    limits = ((3, "1 to 3 words"), (8, "4 to 8 words"), (15, "9 to 15 words"))
    return next((name for most, name in limits if change.words <= most), "more than 15 words")


def _overlap_kind(change: QueryChange) -> str:
    if change.overlap < 1 / 3:
        return "under a third of its words in a relevant document"
    return f"{'over two thirds' if change.overlap > 2 / 3 else 'a third to two thirds'} of its words in one"


def _relevant(change: QueryChange) -> str:
    if change.relevant == 1:
        return "one relevant document"
    return f"{'2 to 4' if change.relevant < 5 else '5 and more'} relevant documents"


def _natural(name: str) -> tuple[float, str]:
    """Kinds by the first number in their names, and without one by name; those of more, last."""
    number = re.search(r"\d+", name)
    return (float("inf") if name.startswith("more") else float(number.group()) if number else 0.0, name)


def _overlap(query: str, documents: list[Document]) -> float:
    words = _words(query)
    return max((len(words & _words(d.content)) / len(words) for d in documents if words), default=0.0)


def _words(text: str) -> set[str]:
    return set(map(str.lower, _WORD.findall(text)))


def _hits(
    top: list[str], other: list[str], documents: Mapping[str, Document], grades: Mapping[str, int]
) -> tuple[Hit, ...]:
    """Documents of ``top`` that are not in ``other``."""
    ranked = [(rank, i) for rank, i in enumerate(top, start=1) if i not in other]
    return tuple(Hit(i, _snippet(documents.get(i)), rank, grades.get(i, 0)) for rank, i in ranked)


def _documents(task: Task) -> Mapping[str, Document]:
    """By the IDs of a run: chunks, or documents by their first chunk."""
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
