"""From what a miner found to what may be a negative."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.runs import ranking
from sharpen.sdg.negatives.record import Negative

PASSED_OVER = 50
"""Documents that a miner looks for beyond the last rank and twice that: positives, copies and held-out ones are passed
over."""


@dataclass(frozen=True)
class Found:
    """What a miner found: documents with scores for each query, and of those the ones that it wrote itself."""

    run: Run
    written: Corpus = field(default_factory=dict)


class Miner(Protocol):
    """``depth``: documents of each query to rank at least. The same input and ``seed`` give the same result."""

    def __call__(self, queries: Sequence[Query], corpus: Corpus, depth: int, seed: int) -> Found: ...


def depth_for(last: int, documents: int) -> int:
    """How deep a miner has to look, for so many allowed ones to be among what it finds."""
    return min(documents, 2 * last + PASSED_OVER)


def candidates(
    queries: Sequence[Query],
    found: Run,
    corpus: Corpus,
    held_out: Collection[str],
    miner: str,
    ranks: tuple[int, int],
    seed: int,
) -> dict[str, list[Negative]]:
    """What of ``found`` may be a negative: query ID to the documents on ``ranks`` (first and last, from 1), and before
    them those that may not, as dropped with the reason.

    Ranks are counted over what may be one at all. Never one: a positive of the query, a document with the same text as
    one, another chunk of a positive's document, a document of ``held_out`` or with the text of one. ``corpus``: all
    documents that ``found`` speaks of, and the positives.
    """
    keys = {doc_id: document.copy_key for doc_id, document in corpus.items()}
    held_out_texts = {keys[doc_id] for doc_id in held_out if doc_id in keys}
    first, last = ranks
    rows: dict[str, list[Negative]] = {}
    for query in queries:
        reasons = _forbidden(query.metadata["positives"], corpus, keys, held_out, held_out_texts)
        dropped: list[Negative] = []
        allowed: list[Negative] = []
        scores: Mapping[str, float] = found.get(query.id, {})
        for rank, doc_id in enumerate(ranking(scores), start=1):
            if len(allowed) >= last:
                break
            reason = reasons(doc_id)
            row = Negative(
                query.id, doc_id, miner, rank, scores[doc_id], "dropped" if reason else "candidate", reason, seed
            )
            (dropped if reason else allowed).append(row)
        rows[query.id] = dropped + allowed[first - 1 :]
    return rows


def _forbidden(
    positive_ids: Sequence[str],
    corpus: Corpus,
    keys: Mapping[str, str],
    held_out: Collection[str],
    held_out_texts: Collection[str],
) -> Callable[[str], str]:
    texts = {keys[doc_id] for doc_id in positive_ids}
    documents = {corpus[doc_id].doc_id for doc_id in positive_ids}

    def reason(doc_id: str) -> str:
        if doc_id in positive_ids:
            return "positive"
        if keys[doc_id] in texts:
            return "same text as a positive"
        if corpus[doc_id].doc_id in documents:
            return "chunk of a positive's document"
        if doc_id in held_out or keys[doc_id] in held_out_texts:
            return "held-out document"
        return ""

    return reason
