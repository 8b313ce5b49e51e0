"""Triplets: what a model is trained on, as IDs. Texts are looked up when a batch is put together (``collators``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sharpen.evaluation.beir import Query, list_queries
from sharpen.evaluation.files import InputError

Mix = Literal["instance", "concatenation"]
"""Of several miners. ``instance``: a row has negatives of all. ``concatenation``: a query has a row for each miner."""


class NegativeRow(Protocol):
    """A mined document with the verdict on it: ``kept`` as a negative, ``relabelled`` as a positive, or neither."""

    query_id: str
    doc_id: str
    miner: str
    verdict: str


@dataclass(frozen=True)
class Triplet:
    """One training row: a query, one of its positives and ``negatives`` (the same number in every row)."""

    query_id: str
    positive_id: str
    negative_ids: tuple[str, ...]


def make_triplets(
    queries: Mapping[str, Query] | Iterable[Query],
    negatives: Iterable[NegativeRow],
    per_query: int,
    mix: Mix = "instance",
    max_rows: int | None = None,
    seed: int = 13,
    miners: Sequence[str] | None = None,
) -> tuple[list[Triplet], int]:
    """A triplet for each query and positive, with the first ``per_query`` negatives of the query.

    A query's positives are in ``query.metadata["positives"]``; relabelled rows are added to them. ``max_rows``: at most
    so many, drawn by ``seed`` and query, so that two calls with the same queries draw the same ones. ``miners``: with
    ``mix: concatenation``, the order of their rows (default: as they first appear in ``negatives``).

    Returns the triplets and the number of queries left out because they have fewer negatives than ``per_query``: rows
    of one batch need one shape, and padding with random texts would be a claim about hardness that is not true. Raises
    ``InputError`` for a row of a query that is not among ``queries``.

    >>> from types import SimpleNamespace
    >>> query = Query("q1", "how long does dough rise", {"positives": ["bread"]})
    >>> row = SimpleNamespace(query_id="q1", doc_id="pizza", miner="bm25", verdict="kept")
    >>> make_triplets([query], [row], per_query=1)
    ([Triplet(query_id='q1', positive_id='bread', negative_ids=('pizza',))], 0)
    >>> make_triplets([query], [row], per_query=2)
    ([], 1)
    """
    positives = {query.id: list(query.metadata["positives"]) for query in list_queries(queries)}
    kept: dict[str, dict[str, list[str]]] = {}
    for row in negatives:
        if row.query_id not in positives:
            raise InputError(f"negatives: a row is of the query {row.query_id!r}, which is not among the queries")
        if row.verdict == "relabelled":
            positives[row.query_id].append(row.doc_id)
        elif row.verdict == "kept":
            source = row.miner if mix == "concatenation" and per_query else ""
            kept.setdefault(source, {}).setdefault(row.query_id, []).append(row.doc_id)
    sources = (miners or list(kept)) if mix == "concatenation" and per_query else [""]
    rows = [(source, row) for source in sources for row in _rows(positives, kept.get(source, {}), per_query)]
    left_out = len(positives) - len({row.query_id for _, row in rows})
    return [row for _, row in _drawn(rows, max_rows, seed)], left_out


def _rows(
    positives: Mapping[str, Sequence[str]], negatives: Mapping[str, Sequence[str]], per_query: int
) -> list[Triplet]:
    return [
        Triplet(query_id, positive_id, tuple(negatives.get(query_id, ())[:per_query]))
        for query_id, positive_ids in positives.items()
        for positive_id in positive_ids
        if len(negatives.get(query_id, ())) >= per_query
    ]


def _drawn(rows: list[tuple[str, Triplet]], max_rows: int | None, seed: int) -> list[tuple[str, Triplet]]:
    """At most ``max_rows`` of them, in their order."""
    if max_rows is None or max_rows >= len(rows):
        return rows

    def key(n: int) -> bytes:
        source, row = rows[n]
        return hashlib.sha256(f"{seed}/{row.query_id}/{row.positive_id}/{source}".encode()).digest()

    return [rows[n] for n in sorted(sorted(range(len(rows)), key=key)[:max_rows])]
