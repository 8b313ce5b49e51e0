"""Hard negatives that BM25 ranks high."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from evaluation.data import Corpus, Query, Run
from evaluation.runs import ranking
from sdg.negatives.record import Negative


def mine(
    queries: Sequence[Query],
    run: Run,
    corpus: Corpus,
    held_out: Collection[str],
    per_query: int,
    rank_from: int,
    rank_to: int,
    seed: int,
    miner: str = "bm25",
    more: int = 0,
) -> list[Negative]:
    """Draw ``per_query`` negatives for each query among the ranks ``rank_from`` to ``rank_to`` of ``run``, and ``more`` after
    them, which do not change which the first are.

    Ranks count from 1 over what may be a negative at all. Never taken, and recorded as dropped with the reason: a
    positive of the query, a document with the same text as one, another chunk of a positive's document, a document of
    ``held_out``. The result holds the candidates considered, kept or dropped; a query with too few candidates gets those
    that there are, and none is made up. Each query draws with its own seed, so it does not matter which others there are.
    """
    keys = {doc_id: document.copy_key for doc_id, document in corpus.items()}
    negatives: list[Negative] = []
    for query in queries:
        reasons = _forbidden(query.metadata["positives"], corpus, keys, held_out)
        allowed: list[tuple[int, str, float]] = []
        scores: Mapping[str, float] = run.get(query.id, {})
        for rank, doc_id in enumerate(ranking(scores), start=1):
            if len(allowed) >= rank_to:
                break
            if reason := reasons(doc_id):
                negatives.append(Negative(query.id, doc_id, miner, rank, scores[doc_id], "dropped", reason, seed))
            else:
                allowed.append((rank, doc_id, scores[doc_id]))
        window = allowed[rank_from - 1 :]
        rng = random.Random(f"{seed}/{query.id}")
        drawn = sorted(rng.sample(window, min(per_query, len(window))))
        rest = [candidate for candidate in window if candidate not in drawn]
        drawn += sorted(rng.sample(rest, min(more, len(rest))))
        negatives += [Negative(query.id, doc_id, miner, rank, score, "kept", "", seed) for rank, doc_id, score in drawn]
    return negatives


def _forbidden(positive_ids: Sequence[str], corpus: Corpus, keys: Mapping[str, str], held_out: Collection[str]):
    texts = {keys[doc_id] for doc_id in positive_ids}
    documents = {corpus[doc_id].doc_id for doc_id in positive_ids}

    def reason(doc_id: str) -> str:
        if doc_id in positive_ids:
            return "positive"
        if keys[doc_id] in texts:
            return "same text as a positive"
        if corpus[doc_id].doc_id in documents:
            return "chunk of a positive's document"
        if doc_id in held_out:
            return "held-out document"
        return ""

    return reason
