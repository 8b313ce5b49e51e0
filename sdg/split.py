"""Train and dev by document: nothing of a dev document, of a copy of it or of another chunk of it, is in train."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from evaluation.data import Corpus, Query, text_key

Split = Literal["train", "dev"]


def split_documents(corpus: Corpus, dev_share: float, seed: int) -> dict[str, Split]:
    """Assign every chunk's ID to ``train`` or ``dev``; chunks of one document, and equal texts, stay together.

    The draw is a hash of the group's first ID and ``seed``, so a document keeps its side when others come or go.
    """
    groups = _Groups()
    for chunk_id, document in corpus.items():
        groups.join(f"chunk/{chunk_id}", f"document/{document.doc_id}")
        groups.join(f"chunk/{chunk_id}", f"text/{text_key(document.content)}")
    first: dict[str, str] = {}
    for chunk_id in sorted(corpus):
        first.setdefault(groups.find(f"chunk/{chunk_id}"), chunk_id)
    return {chunk_id: _draw(first[groups.find(f"chunk/{chunk_id}")], dev_share, seed) for chunk_id in corpus}


def split_queries(queries: Sequence[Query], sides: dict[str, Split]) -> dict[Split, list[Query]]:
    """A query goes where all its positives are; one whose positives lie on both sides is in neither."""
    result: dict[Split, list[Query]] = {"train": [], "dev": []}
    for query in queries:
        found = {sides[doc_id] for doc_id in query.metadata["positives"]}
        if len(found) == 1:
            result[found.pop()].append(query)
    return result


def _draw(group: str, dev_share: float, seed: int) -> Split:
    number = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
    return "dev" if number < dev_share else "train"


class _Groups:
    """Union-find over strings."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        root = item
        while (parent := self._parent.setdefault(root, root)) != root:
            root = parent
        while item != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, a: str, b: str) -> None:
        self._parent[self.find(a)] = self.find(b)
