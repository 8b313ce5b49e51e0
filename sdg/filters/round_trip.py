"""Which generated pairs are kept: the round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.runs import ranking
from sharpen.sdg.filters import rejection


def round_trip(
    queries: Sequence[Query], run: Run, corpus: Corpus, top_k: int
) -> tuple[list[Query], list[dict[str, Any]]]:
    """Keep the queries whose document comes back among the first ``top_k`` of ``run`` (Promptagator's consistency
    filter).

    ``run`` is what a retriever found for these queries, to a depth of ``top_k`` at least. A document of the same text
    under another ID counts as the document, and of several that answer together, one is enough. Returns the kept
    queries and the rejected ones with rank and reason.
    """
    keys = {doc_id: document.copy_key for doc_id, document in corpus.items()}
    kept, rejected = [], []
    for query in queries:
        wanted = {keys[doc_id] for doc_id in query.metadata["positives"]}
        found = [keys[doc_id] in wanted for doc_id in ranking(run.get(query.id, {}))]
        rank = found.index(True) + 1 if True in found else None
        if rank is not None and rank <= top_k:
            kept.append(query)
        else:
            rejected.append(rejection(query, f"round trip: its document is not among the first {top_k}", rank=rank))
    return kept, rejected


def positives(queries: Sequence[Query]) -> Mapping[str, list[str]]:
    """Query ID to the IDs of the documents that it was written for."""
    return {query.id: query.metadata["positives"] for query in queries}
