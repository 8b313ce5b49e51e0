"""Train, dev and test by document: nothing of a held-out document, of a copy of it or of another chunk of it, is in train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evaluation.data import Corpus, Query
from evaluation.files import read_jsonl, write_jsonl
from sdg.filters.text import words

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

PERMUTATIONS = 128
SHINGLE = 3


def split_documents(corpus: Corpus, dev_share: float, seed: int, test_share: float = 0.0, together: Iterable[Sequence[str]] = ()) -> dict[str, Split | None]:
    """Assign every chunk's ID to ``train``, ``dev`` or ``test``; chunks of one document, and copies of it, stay together.

    ``together``: IDs of documents that must not be torn apart either (near-duplicates, bundles). A chunk whose text
    stands in documents of several splits (a licence, a footer) is in none: None. The draw is a hash of the group's first ID
    and ``seed``, so a document keeps its split when others come or go.
    """
    whole: dict[str, list[str]] = {}
    for document in corpus.values():
        whole.setdefault(document.doc_id, []).append(document.copy_key)
    copies: dict[tuple[str, ...], list[str]] = {}
    for doc_id, keys in whole.items():
        copies.setdefault(tuple(keys), []).append(doc_id)
    groups = _groups(list(whole), [*copies.values(), *together])
    drawn = {doc_id: _draw(min(group), dev_share, test_share, seed) for group in groups for doc_id in group}
    sides: dict[str, set[Split]] = {}
    for document in corpus.values():
        sides.setdefault(document.copy_key, set()).add(drawn[document.doc_id])
    return {i: drawn[d.doc_id] if len(sides[d.copy_key]) == 1 else None for i, d in corpus.items()}


def split_queries(queries: Sequence[Query], sides: Mapping[str, Split | None]) -> dict[Split, list[Query]]:
    """A query goes where all its positives are; one whose positives lie in several splits, or in none, is left out."""
    result: dict[Split, list[Query]] = {split: [] for split in SPLITS}
    for query in queries:
        found = {sides[doc_id] for doc_id in query.metadata["positives"]}
        if len(found) == 1 and None not in found:
            result[found.pop()].append(query)
    return result


def near_duplicate_documents(corpus: Corpus, threshold: float) -> list[tuple[str, str]]:
    """Pairs of document IDs whose three-word shingles have a Jaccard similarity of ``threshold`` or more, as MinHash of 128
    permutations estimates it (standard error up to 0.045). What LSH finds in the same bucket is compared, so that the
    time grows with the number of documents and not with its square."""
    texts: dict[str, list[str]] = {}
    for document in corpus.values():
        texts.setdefault(document.doc_id, []).append(document.text or document.title)
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    values: dict[str, np.ndarray] = {}
    empty = MinHash(num_perm=PERMUTATIONS)
    pairs: list[tuple[str, str]] = []
    for doc_id, parts in texts.items():
        own = words(" ".join(parts))
        shingles = {" ".join(own[i : i + SHINGLE]).encode() for i in range(max(1, len(own) - SHINGLE + 1))} if own else set()
        if not shingles:
            continue
        sketch = empty.copy()  # with its permutations, which take long to draw
        sketch.update_batch(shingles)
        hashed = sketch.hashvalues
        pairs += [(other, doc_id) for other in sorted(index.query(sketch)) if np.mean(values[other] == hashed) >= threshold]
        index.insert(doc_id, sketch, check_duplication=False)
        values[doc_id] = hashed
    return pairs


def write_split(path: Path, sides: Mapping[str, Split | None]) -> None:
    write_jsonl(path, ({"_id": doc_id, "split": side} for doc_id, side in sides.items()))


def read_split(path: Path) -> dict[str, Split | None]:
    return {row["_id"]: row["split"] for _, row in read_jsonl(path)}


def _groups(ids: Sequence[str], together: Iterable[Sequence[str]]) -> list[list[str]]:
    """The ``ids`` in groups, such that what stands together anywhere is in one."""
    place = {doc_id: n for n, doc_id in enumerate(ids)}
    links = [(place[group[0]], place[other]) for group in together for other in group[1:]]
    rows, columns = zip(*links, strict=True) if links else ((), ())
    count, label = connected_components(coo_array((np.ones(len(links)), (rows, columns)), shape=(len(ids), len(ids))), directed=False)
    groups: list[list[str]] = [[] for _ in range(count)]
    for doc_id, n in zip(ids, label, strict=True):
        groups[n].append(doc_id)
    return groups


def _draw(group: str, dev_share: float, test_share: float, seed: int) -> Split:
    number = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
    if number < dev_share:
        return "dev"
    return "test" if number >= 1 - test_share else "train"
