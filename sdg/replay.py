"""Going on from an earlier run: its documents stay in their splits, and some of its queries are trained on again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.drawing import drawn


def unchanged(corpus: Corpus, earlier: Corpus) -> set[str]:
    """IDs of what stood in ``earlier`` under the same ID and with the same text.

    >>> from sharpen.evaluation.beir import Document
    >>> before = {"a": Document("a", "Salt."), "b": Document("b", "Tea.")}
    >>> unchanged({"a": Document("a", "Salt."), "b": Document("b", "Green tea."), "c": Document("c", "Rye.")}, before)
    {'a'}
    """
    return {i for i, document in corpus.items() if i in earlier and earlier[i].copy_key == document.copy_key}


def replayed(queries: Sequence[Query], known: Collection[str], fraction: float, seed: int = 13) -> list[Query]:
    """The queries that have a document which is not ``known``, and so many of the others that these are ``fraction`` of
    all, or all that there are; in their order. Which ones hangs on the seed and their IDs.

    >>> queries = [Query(f"q{n}", "text", {"positives": [f"d{n}"]}) for n in range(8)]
    >>> [query.id for query in replayed(queries, {"d0", "d1", "d2", "d3", "d4", "d5"}, fraction=0.5)]
    ['q1', 'q5', 'q6', 'q7']
    """
    old = [query.id for query in queries if all(i in known for i in query.metadata["positives"])]
    number = round((len(queries) - len(old)) * fraction / (1 - fraction))
    left_out = set(sorted(old, key=lambda query_id: drawn(seed, "replay", query_id))[number:])
    return [query for query in queries if query.id not in left_out]
