"""Runs: query ID to document ID to score; TREC run files, ranks, fusion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.files import InputError, atomic_file

_SPACE = re.compile(r"\s+")


def write_run(path: Path, run: Run, tag: str = "sharpen") -> None:
    """Write a TREC run file: query, Q0, document, rank from 1, score, tag. White space in IDs becomes ``_``, as the
    format separates by it."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, scores in run.items():
            for rank, doc_id in enumerate(ranking(scores), start=1):
                file.write(
                    f"{_SPACE.sub('_', query_id)} Q0 {_SPACE.sub('_', doc_id)} {rank} {scores[doc_id]!r}"
                    f" {_SPACE.sub('_', tag)}\n"
                )


def read_run(path: Path, queries: Iterable[str] = (), documents: Iterable[str] = ()) -> Run:
    """Read a TREC run file, whoever wrote it: what counts is the score, not the rank.

    ``queries``, ``documents``: IDs that are known, so that those whose white space became ``_`` are found again. Raises
    ``InputError`` (file and line) for a bad row and for a document that a query has twice.
    """
    names = [{_SPACE.sub("_", i): i for i in ids if _SPACE.search(i)} for ids in (queries, documents)]
    run: Run = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                parts = line.split()
                try:
                    query_id, _, doc_id, _, score, _ = parts
                    value = float(score)
                except ValueError:
                    value = inf
                if not isfinite(value):
                    raise InputError(
                        f"{path}, line {number}: expected query, Q0, document, rank, score and tag, separated by"
                        f" blanks; found {line.strip()[:100]!r}"
                    )
                scores, doc_id = run.setdefault(names[0].get(query_id, query_id), {}), names[1].get(doc_id, doc_id)
                if doc_id in scores:
                    raise InputError(
                        f"{path}, line {number}: query {query_id!r} has document {doc_id!r} on an earlier line, too"
                    )
                scores[doc_id] = value
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    return run


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


def to_documents(run: Run, corpus: Corpus) -> Run:
    """Rank documents by their best chunk (MaxP); where nothing was cut the run stays as it is."""
    by_document: Run = {}
    for query_id, scores in run.items():
        best = by_document.setdefault(query_id, {})
        for chunk_id, score in scores.items():
            doc_id = corpus[chunk_id].doc_id
            best[doc_id] = max(score, best.get(doc_id, -inf))
    return by_document
