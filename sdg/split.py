"""Train and dev by document: nothing of a dev document, of a copy of it or of another chunk of it, is in train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from evaluation.data import Corpus, Query

Split = Literal["train", "dev"]


def split_documents(corpus: Corpus, dev_share: float, seed: int) -> dict[str, Split | None]:
    """Assign every chunk's ID to ``train`` or ``dev``; chunks of one document, and copies of it, stay together.

    A chunk whose text stands in documents of both sides (a licence, a footer) is on neither: None. The draw is a hash of
    the group's first ID and ``seed``, so a document keeps its side when others come or go.
    """
    whole: dict[str, list[str]] = {}
    for document in corpus.values():
        whole.setdefault(document.doc_id, []).append(document.copy_key)
    copies: dict[tuple[str, ...], list[str]] = {}
    for doc_id, keys in whole.items():
        copies.setdefault(tuple(keys), []).append(doc_id)
    drawn = {doc_id: _draw(min(group), dev_share, seed) for group in copies.values() for doc_id in group}
    sides: dict[str, set[Split]] = {}
    for document in corpus.values():
        sides.setdefault(document.copy_key, set()).add(drawn[document.doc_id])
    return {i: drawn[d.doc_id] if len(sides[d.copy_key]) == 1 else None for i, d in corpus.items()}


def split_queries(queries: Sequence[Query], sides: Mapping[str, Split | None]) -> dict[Split, list[Query]]:
    """A query goes where all its positives are; one whose positives lie on both sides, or on neither, is left out."""
    result: dict[Split, list[Query]] = {"train": [], "dev": []}
    for query in queries:
        found = {sides[doc_id] for doc_id in query.metadata["positives"]}
        if len(found) == 1 and None not in found:
            result[found.pop()].append(query)
    return result


def _draw(group: str, dev_share: float, seed: int) -> Split:
    number = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
    return "dev" if number < dev_share else "train"
