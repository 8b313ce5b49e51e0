"""Runs: query ID to document ID to score; TREC run files, ranks, fusion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.files import InputError, atomic_file
from sharpen.evaluation.ids import KnownIds
from sharpen.evaluation.qrels import is_qrels_row

_SPACE = re.compile(r"\s+")


def write_run(path: Path, run: Run, tag: str = "sharpen") -> None:
    """Write a TREC run file: query, Q0, document, rank from 1, score, tag. White space in IDs becomes ``_``, as the
    format separates by it. Raises ``InputError`` for two IDs that are then the same, and for a score that is not
    finite."""
    _check_writable(path, run)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, scores in run.items():
            for rank, doc_id in enumerate(ranking(scores), start=1):
                file.write(
                    f"{_SPACE.sub('_', query_id)} Q0 {_SPACE.sub('_', doc_id)} {rank} {scores[doc_id]!r}"
                    f" {_SPACE.sub('_', tag)}\n"
                )


def read_run(path: Path, queries: Iterable[str] = (), documents: Iterable[str] = ()) -> Run:
    """Read a TREC run file, whoever wrote it: what counts is the score, not the rank.

    ``queries``, ``documents``: IDs that are known, so that those whose white space became ``_`` are found again, and
    those in another Unicode spelling, which are counted in a warning. Raises ``InputError`` (file and line) for a bad
    row, for a document that a query has twice, for qrels, and if the file has none of the queries or of the documents.
    """
    names = [_Names(ids) for ids in (queries, documents)]
    run: Run = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                query_id, doc_id, value = _row(path, number, line)
                scores, doc_id = run.setdefault(names[0].find(query_id), {}), names[1].find(doc_id)
                if doc_id in scores:
                    raise InputError(
                        f"{path}, line {number}: query {query_id!r} has document {doc_id!r} on an earlier line, too"
                    )
                scores[doc_id] = value
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    for ids, what in zip(names, ("queries", "documents"), strict=True):
        ids.check(path, what)
    return run


class _Names:
    """IDs of a run file as they are known, and whether any is; nothing is known of none."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = KnownIds(ids)
        self._by_written = {_SPACE.sub("_", i): i for i in ids if _SPACE.search(i)}
        self._is_empty, self._seen, self._found = not ids, "", False

    def find(self, written: str) -> str:
        found = self._by_written.get(written) or self._ids.find(written)
        self._seen, self._found = self._seen or written, self._found or found is not None
        return found or written

    def check(self, path: Path, what: str) -> None:
        if self._is_empty:
            return
        if not self._found:
            seen = f"as {self._seen!r}" if self._seen else "and no row at all"
            raise InputError(
                f"{path}: none of its {what} ({seen}) is among those that are evaluated on, which are"
                f" {self._ids.first()}; give the run of the same collection"
            )
        self._ids.warn(path, what)


def _row(path: Path, number: int, line: str) -> tuple[str, str, float]:
    """Query, document and score of a line."""
    parts = line.split()
    try:
        query_id, _, doc_id, _, score, _ = parts
        value = float(score)
    except ValueError:
        if is_qrels_row(parts):
            raise InputError(
                f"{path}, line {number}: {line.strip()[:100]!r} looks like qrels, which say what is right, in the place"
                " of a run, which says what a system found (query, Q0, document, rank, score, tag)"
            ) from None
        raise InputError(
            f"{path}, line {number}: expected query, Q0, document, rank, score and tag, separated by blanks; found"
            f" {line.strip()[:100]!r}"
        ) from None
    if not isfinite(value):
        raise InputError(f"{path}, line {number}: the score {score} is not a finite number, so it cannot be ranked by")
    return query_id, doc_id, value


def _check_writable(path: Path, run: Run) -> None:
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    for query_id, scores in run.items():
        for ids, name in ((queries, query_id), *((documents, doc_id) for doc_id in scores)):
            if ids.setdefault(_SPACE.sub("_", name), name) != name:
                raise InputError(
                    f"{path}: the IDs {ids[_SPACE.sub('_', name)]!r} and {name!r} would be the same in a run file,"
                    " which has _ for white space; rename one of them"
                )
        if not all(map(isfinite, scores.values())):
            raise InputError(f"{path}: query {query_id!r} has a score that is not a finite number")


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Document IDs, best first; equal scores by ID, so that the order is a function of the scores.

    >>> ranking({"b": 1.0, "a": 1.0, "c": 2.0})
    ['c', 'a', 'b']
    """
    return sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))


def fuse(runs: Sequence[Run], k: int = 60) -> Run:
    """Reciprocal rank fusion (Cormack et al. 2009): a document scores the sum of 1 / (``k`` + rank) over the runs.

    >>> ranking(fuse([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.2, "c": 0.1}}])["q"])
    ['b', 'a', 'c']
    """
    fused: Run = {}
    for run in runs:
        for query_id, scores in run.items():
            target = fused.setdefault(query_id, {})
            for rank, doc_id in enumerate(ranking(scores), start=1):
                target[doc_id] = target.get(doc_id, 0.0) + 1 / (k + rank)
    return fused


def first(run: Run, depth: int) -> Run:
    """The ``depth`` best documents of each query, best first.

    >>> first({"q": {"a": 1.0, "b": 3.0, "c": 2.0}}, 2)
    {'q': {'b': 3.0, 'c': 2.0}}
    """
    return {q: {d: scores[d] for d in ranking(scores)[:depth]} for q, scores in run.items()}


def to_documents(run: Run, corpus: Corpus) -> Run:
    """Rank documents by their best chunk (MaxP); where nothing was cut the run stays as it is."""
    by_document: Run = {}
    for query_id, scores in run.items():
        best = by_document.setdefault(query_id, {})
        for chunk_id, score in scores.items():
            doc_id = corpus[chunk_id].doc_id
            best[doc_id] = max(score, best.get(doc_id, -inf))
    return by_document
