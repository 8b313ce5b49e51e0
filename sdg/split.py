"""Train, dev and test by document: nothing of a held-out document, of a copy of it or of another chunk of it, is in
train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from datasketch import MinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sharpen.evaluation.beir import Corpus, Query, chunks_by_document
from sharpen.evaluation.files import read_jsonl, write_jsonl
from sharpen.sdg.filters.text import words

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

PERMUTATIONS = 128
SHINGLE = 3
BATCH = 10_000
"""Shingles hashed at once, each with all permutations: some 30 MB."""
ALL_PAIRS = 32
"""Candidates of one band that are all compared with each other."""


def split_documents(
    corpus: Corpus, dev_share: float, seed: int, test_share: float = 0.0, together: Iterable[Sequence[str]] = ()
) -> dict[str, Split | None]:
    """Assign every chunk's ID to ``train``, ``dev`` or ``test``; chunks of one document, and copies of it, stay
    together.

    ``together``: IDs of documents that must not be torn apart either (near-duplicates, bundles). A chunk whose text
    stands in documents of several splits (a licence, a footer) is in none: None. The draw is a hash of the group's
    first ID and ``seed``, so a document keeps its split when others come or go, as long as they are not tied to it.
    """
    chunks = chunks_by_document(corpus)
    copies: dict[tuple[str, ...], list[str]] = {}
    for doc_id, own in chunks.items():
        copies.setdefault(tuple(c.copy_key for c in own), []).append(doc_id)
    groups = _groups(list(chunks), [*copies.values(), *together])
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
    """Pairs of document IDs whose three-word shingles have a Jaccard similarity of ``threshold`` or more, as MinHash of
    128 permutations estimates it (standard error up to 0.045); of many that are alike, not every pair, but enough to
    link them.

    Only documents that agree on a whole band of their sketches are compared, so the time grows with the number of
    documents and not with its square; those that are just at the threshold share a band with a probability of 0.99.
    """
    chunks = chunks_by_document(corpus)
    empty = MinHash(num_perm=PERMUTATIONS)
    ids: list[str] = []
    sketches = np.empty((len(chunks), PERMUTATIONS), dtype=empty.hashvalues.dtype)
    for doc_id, parts in chunks.items():
        own = words(" ".join(c.text or c.title for c in parts))
        if own:
            sketch = empty.copy()  # with its permutations, which take long to draw
            shingles = list({" ".join(own[i : i + SHINGLE]).encode() for i in range(max(1, len(own) - SHINGLE + 1))})
            for start in range(0, len(shingles), BATCH):
                sketch.update_batch(shingles[start : start + BATCH])
            sketches[len(ids)] = sketch.hashvalues
            ids.append(doc_id)
    sketches = sketches[: len(ids)]
    rows = max(r for r in range(1, PERMUTATIONS + 1) if r == 1 or 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= 0.99)
    found: set[tuple[int, int]] = set()
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        found.update(_alike(sketches, start, rows, threshold))
    return [(ids[a], ids[b]) for a, b in sorted(found)]


def _alike(sketches: np.ndarray, start: int, rows: int, threshold: float) -> Iterator[tuple[int, int]]:
    """Of the documents that agree on a band, those that are similar enough."""
    band = np.ascontiguousarray(sketches[:, start : start + rows])
    keys = band.view(np.dtype((np.void, band.dtype.itemsize * rows))).ravel()
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    for group in np.split(order, borders):
        if len(group) > 1:
            # of very many, as forms and templates are, each is compared with the first ones and with the one before
            first, second = np.triu_indices(min(len(group), ALL_PAIRS), k=1)
            more = np.arange(ALL_PAIRS, len(group))
            pairs = np.concatenate(
                [
                    np.stack([group[first], group[second]]),
                    np.stack([group[more - 1], group[more]]),
                    np.stack([np.full(len(more), group[0]), group[more]]),
                ],
                axis=1,
            )
            similar = (sketches[pairs[0]] == sketches[pairs[1]]).mean(axis=1) >= threshold
            yield from zip(*pairs[:, similar].tolist(), strict=True)


def write_split(path: Path, sides: Mapping[str, Split | None]) -> None:
    write_jsonl(path, ({"_id": doc_id, "split": side} for doc_id, side in sides.items()))


def read_split(path: Path) -> dict[str, Split | None]:
    return {row["_id"]: row["split"] for _, row in read_jsonl(path)}


def _groups(ids: Sequence[str], together: Iterable[Sequence[str]]) -> list[list[str]]:
    """The ``ids`` in groups, such that what stands together anywhere is in one."""
    place = {doc_id: n for n, doc_id in enumerate(ids)}
    links = [(place[group[0]], place[other]) for group in together for other in group[1:]]
    rows, columns = zip(*links, strict=True) if links else ((), ())
    count, label = connected_components(
        coo_array((np.ones(len(links)), (rows, columns)), shape=(len(ids), len(ids))), directed=False
    )
    groups: list[list[str]] = [[] for _ in range(count)]
    for doc_id, n in zip(ids, label, strict=True):
        groups[n].append(doc_id)
    return groups


def _draw(group: str, dev_share: float, test_share: float, seed: int) -> Split:
    number = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
    if number < dev_share:
        return "dev"
    return "test" if number >= 1 - test_share else "train"
