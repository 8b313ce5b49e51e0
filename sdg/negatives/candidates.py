"""From a miner's ranking to what may be a negative."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from sharpen.evaluation.beir import ALSO_ANSWERS, NEAR_DUPLICATES, Corpus, Query, Run
from sharpen.evaluation.runs import ranking
from sharpen.sdg.negatives.record import Negative, Reason

EXTRA_DEPTH = 50
"""Documents that a miner ranks beyond twice the last rank: positives, copies and held-out ones are passed over."""


def depth_for(last: int, documents: int) -> int:
    """How deep a miner has to rank, for ``last`` allowed documents to be among what it gives.

    >>> depth_for(20, documents=1000), depth_for(20, documents=40)
    (90, 40)
    """
    return min(documents, 2 * last + EXTRA_DEPTH)


def candidates(
    queries: Sequence[Query],
    run: Run,
    corpus: Corpus,
    held_out: Collection[str],
    miner: str,
    ranks: tuple[int, int],
    seed: int,
) -> dict[str, list[Negative]]:
    """What of ``run`` may be a negative: query ID to the documents on ``ranks`` (first and last, from 1), and before
    them those that may not, as dropped with the reason.

    Ranks are counted over what may be one at all. Never one: a positive of the query, a document with the same text as
    one, another chunk of a positive's document, and what the query's metadata name: a document for which the same was
    asked (``also_answers``), its copies and chunks, and a near-duplicate of a positive's document
    (``near_duplicates``); a document of ``held_out`` or with the text of one. ``corpus``: all documents that ``run``
    speaks of, and the positives.
    """
    keys = {doc_id: document.copy_key for doc_id, document in corpus.items()}
    held_out_texts = {keys[doc_id] for doc_id in held_out if doc_id in keys}
    first, last = ranks
    rows: dict[str, list[Negative]] = {}
    for query in queries:
        forbidden = _forbidden(query, corpus, keys, held_out, held_out_texts)
        dropped: list[Negative] = []
        allowed: list[Negative] = []
        scores: Mapping[str, float] = run.get(query.id, {})
        for rank, doc_id in enumerate(ranking(scores), start=1):
            if len(allowed) >= last:
                break
            reason = forbidden(doc_id)
            verdict = "dropped" if reason else "candidate"
            row = Negative(query.id, doc_id, miner, rank, scores[doc_id], verdict, seed, reason)
            (dropped if reason else allowed).append(row)
        rows[query.id] = dropped + allowed[first - 1 :]
    return rows


def _forbidden(
    query: Query,
    corpus: Corpus,
    keys: Mapping[str, str],
    held_out: Collection[str],
    held_out_texts: Collection[str],
) -> Callable[[str], Reason | None]:
    positive_ids = query.metadata["positives"]
    texts = {keys[doc_id] for doc_id in positive_ids}
    documents = {corpus[doc_id].doc_id for doc_id in positive_ids}
    also = [doc_id for doc_id in query.metadata.get(ALSO_ANSWERS, ()) if doc_id in corpus]
    also_texts = {keys[doc_id] for doc_id in also}
    also_documents = {corpus[doc_id].doc_id for doc_id in also}
    near_duplicates = frozenset(query.metadata.get(NEAR_DUPLICATES, ()))

    def reason(doc_id: str) -> Reason | None:
        if doc_id in positive_ids:
            return Reason.POSITIVE
        if keys[doc_id] in texts:
            return Reason.COPY_OF_POSITIVE
        if corpus[doc_id].doc_id in documents:
            return Reason.CHUNK_OF_POSITIVE
        if keys[doc_id] in also_texts or corpus[doc_id].doc_id in also_documents:
            return Reason.ALSO_ANSWERS
        if corpus[doc_id].doc_id in near_duplicates:
            return Reason.NEAR_DUPLICATE
        if doc_id in held_out or keys[doc_id] in held_out_texts:
            return Reason.HELD_OUT
        return None

    return reason
