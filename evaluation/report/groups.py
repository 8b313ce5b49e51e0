"""Who gains and who loses: the comparison by groups of documents, and which documents have queries at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

from sharpen.evaluation.beir import Corpus, Document, chunks_by_document
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.languages import language_name, language_of
from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.report.by_query import MIN_QUERIES, comparison_of_some
from sharpen.evaluation.report.comparison import Comparison, code, markdown_row
from sharpen.evaluation.significance import LEVEL, document_groups, holm

MOST_GROUPS = 12
"""Of one kind, those with most documents; the others are counted together."""
OTHERS = "others"
_LENGTHS = ((1_000, "up to 1,000 characters"), (5_000, "1,001 to 5,000 characters"))
_YEAR = re.compile(r"(?<!\d)(1[89]|20)\d\d(?!\d)")
KINDS = ("folder", "format", "length", "language", "year")

DocumentGroups = Mapping[str, Mapping[str, str]]
"""Kind (folder, format, length, language, year) to document ID to the name of its group."""


def groups_of_documents(corpus: Corpus) -> dict[str, dict[str, str]]:
    """Each document's groups: by the folder (or the source in its metadata) and the format that it came from, its
    length, its language, and the year of its date. Kinds by which all documents are the same are left out.

    >>> corpus = {i: Document(i, "text " * n) for i, n in (("law/a.md", 3), ("law/b.md", 900), ("news/c.md", 3))}
    >>> groups_of_documents(corpus)["folder"]
    {'law/a.md': 'law', 'law/b.md': 'law', 'news/c.md': 'news'}
    """
    named: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for doc_id, chunks in chunks_by_document(corpus).items():
        first = chunks[0]
        length = sum(len(chunk.text) for chunk in chunks)
        values = {
            "folder": _folder(doc_id, first),
            "format": str(first.metadata.get("format") or ""),
            "length": next((name for most, name in _LENGTHS if length <= most), "over 5,000 characters"),
            "language": language_of(first),
            "year": found[0] if (found := _YEAR.search(str(first.metadata.get("date") or ""))) else "",
        }
        for kind, value in values.items():
            if value:
                named[kind][doc_id] = value
    names = {code: language_name(code) for code in set(named["language"].values())}
    named["language"] = {doc_id: names[code] for doc_id, code in named["language"].items()}
    return {kind: _largest(of) for kind, of in named.items() if len(set(of.values())) > 1}


def group_comparisons(
    task: Task, groups: DocumentGroups, scores: tuple[PerQuery, PerQuery], comparison: Comparison, seed: int
) -> dict[str, Comparison]:
    """The comparison for the queries of each group, under ``kind: name``; ``scores``: before and after. A query belongs
    where its most relevant document does. Groups with fewer than 10 queries are left out."""
    place = document_groups(task.qrels, task.corpus)
    result = {}
    for kind, of in groups.items():
        members: dict[str, list[str]] = {}
        for query, doc_id in place.items():
            if doc_id in of:
                members.setdefault(of[doc_id], []).append(query)
        for name in sorted(members):
            if MIN_QUERIES <= len(members[name]) < len(task.queries):
                result[f"{kind}: {name}"] = comparison_of_some(members[name], task, scores, seed, comparison)
    return result


def losing_groups(comparisons: Mapping[str, Comparison]) -> list[str]:
    """Those with an interval below zero and a p below 0.05 that is adjusted for all groups by ``holm``."""
    adjusted = holm([c.delta[PRIMARY].p for c in comparisons.values()])
    return [
        name
        for (name, c), p in zip(comparisons.items(), adjusted, strict=True)
        if p < 1 - LEVEL and c.delta[PRIMARY].interval[1] < 0
    ]


def lost_in_groups(comparisons: Mapping[str, Comparison], comparison: Comparison, named: bool = True) -> str:
    """A warning where the mean gains and a group loses; nothing otherwise. ``named``: folders by their names.

    >>> before = {"ndcg@10": {f"q{n}": 0.5 for n in range(40)}}
    >>> after = {"ndcg@10": {f"q{n}": 0.4 if n < 12 else 0.9 for n in range(40)}}
    >>> part = [{"ndcg@10": {q: v for q, v in side["ndcg@10"].items() if int(q[1:]) < 12}} for side in (before, after)]
    >>> from sharpen.evaluation.report.comparison import make_comparison
    >>> whole, lost = (make_comparison(*sides, seed=1, queries_of="queries") for sides in ((before, after), part))
    >>> lost_in_groups({"language: German": lost}, whole)
    '**A group lost** while the mean gained: language: German, -0.1000 (-0.1000 to -0.1000, 12 queries).'
    """
    if comparison.delta[PRIMARY].value <= 0 or not (lost := losing_groups(comparisons)):
        return ""
    said = []
    for name in lost:
        d = comparisons[name].delta[PRIMARY]
        shown = name if named or not name.startswith("folder:") else "documents of one folder"
        interval = f"{d.interval[0]:+.4f} to {d.interval[1]:+.4f}, {comparisons[name].queries:,} queries"
        said.append(f"{shown}, {d.value:+.4f} ({interval})")
    return f"**A group lost** while the mean gained: {'; '.join(said)}."


def coverage_table(groups: DocumentGroups, documents: Collection[str], trained: Collection[str]) -> list[str]:
    """For all documents and by group, how many have a query that was trained on."""
    lines = [markdown_row(["documents", "in all", "with a query trained on", ""]), markdown_row(["---"] * 4)]
    rows = {"all": list(documents)}
    for kind, of in groups.items():
        sizes = Counter(of.values())
        for name in sorted(sizes):
            rows[f"{kind}: {code(name)}"] = [i for i, group in of.items() if group == name]
    for name, ids in rows.items():
        covered = sum(i in trained for i in ids)
        lines.append(markdown_row([name, f"{len(ids):,}", f"{covered:,}", f"{covered / len(ids):.0%}"]))
    return lines


def unanswered(task: Task, runs: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Queries of which no run has a relevant document, however far down."""
    return [
        query
        for query, grades in task.qrels.items()
        if not any(grade > 0 and doc_id in run.get(query, {}) for run in runs for doc_id, grade in grades.items())
    ]


def _folder(doc_id: str, document: Document) -> str:
    source = str(document.metadata.get("source") or doc_id)
    parts = PurePosixPath(source).parts
    if len(parts) > 1:
        return parts[0] if parts[0] not in ("/", "https:", "http:") else parts[1]
    # a source that is no file, as the name of a newspaper
    return source if source != doc_id and "." not in source else ""


def _largest(of: Mapping[str, str]) -> dict[str, str]:
    kept = {name for name, _ in Counter(of.values()).most_common(MOST_GROUPS)}
    return {doc_id: name if name in kept else OTHERS for doc_id, name in of.items()}
