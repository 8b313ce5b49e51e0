"""Train, dev and test by document: nothing of a held-out document, of a copy of it or of another chunk of it, is in
train. Or by query, for a model that finds only what it was trained on: nothing that was made of a held-out query, or in
its session, is in train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from sharpen.evaluation.beir import NEAR_DUPLICATES, Corpus, Query, chunks_by_document
from sharpen.evaluation.files import read_jsonl, write_jsonl
from sharpen.evaluation.languages import words
from sharpen.evaluation.settings import Fraction, Settings
from sharpen.sdg.drawing import drawn
from sharpen.sdg.filters.text import HARVESTED, query_key
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason

SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")
STEP = "split"
"""``Rejection.step`` of queries that are in no split."""

PERMUTATIONS = 128
SHINGLE = 3
BATCH = 10_000
"""Shingles hashed at once, each with all permutations: some 30 MB."""
RECALL = 0.99
"""Probability with which two documents that are just at the threshold become candidates."""
REPRESENTATIVES = 32
"""Of very many documents that are alike, as forms and templates are, so many are compared with each new one."""


class SplitSettings(Settings):
    """What is held out of training."""

    LATER: ClassVar[tuple[str, ...]] = ("by",)

    by: Literal["document", "query"] = Field(
        "document",
        description=(
            "document: no query of a held-out document is trained on. query: queries are held out whatever their"
            " documents, each with what was made of it, for a generative retriever, which finds only documents that it"
            " was trained on."
        ),
    )
    dev: Fraction = Field(
        0.1,
        description="Fraction of the documents (of the queries) whose queries are kept out of training, to choose by.",
    )
    test: Fraction = Field(
        0.0, description="Fraction of the documents (of the queries) whose queries are kept for the last comparison."
    )
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8,
        description=(
            "Jaccard of their three-word shingles from which documents stay in one split and are no negatives of one"
            " another's queries (but for templates, of which 32 are alike). null: only copies. By query, the latter."
        ),
    )

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.dev + self.test >= 1:
            raise ValueError("dev and test together leave no documents to train on")
        return self


@dataclass
class Splits:
    """``train``, ``dev``, ``test``: queries. ``sides``: document ID to its split (None: in none). ``rejected``: queries
    whose documents are in several splits, or in none. ``alike``: pairs of near-duplicates, as far as they were looked
    for."""

    train: list[Query] = field(default_factory=list)
    dev: list[Query] = field(default_factory=list)
    test: list[Query] = field(default_factory=list)
    sides: dict[str, SplitName | None] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    alike: list[tuple[str, str]] = field(default_factory=list)

    def items(self) -> list[tuple[SplitName, list[Query]]]:
        """Name and queries of each split."""
        return [(name, getattr(self, name)) for name in SPLITS]


def split(
    queries: Sequence[Query],
    corpus: Corpus,
    dev: float = 0.1,
    test: float = 0.1,
    seed: int = 13,
    near_duplicates: float | None = 0.8,
    together: Iterable[Sequence[str]] | None = None,
) -> Splits:
    """Divide ``queries`` by their documents, so that nothing of a held-out document is in train.

    ``dev``, ``test``: fractions of the documents. Chunks of one document, copies, and documents whose three-word
    shingles have a Jaccard similarity of ``near_duplicates`` or more (None: not looked at) stay in one split.
    ``together``: groups of document IDs that must not be torn apart either (default: the bundles that ``queries`` were
    written for). Raises pydantic's ``ValidationError`` if ``dev`` and ``test`` leave nothing.

    >>> from sharpen.evaluation.beir import Document
    >>> corpus = {f"d{n}": Document(f"d{n}", f"text of number {n}") for n in range(100)}
    >>> splits = split([Query(f"q-{i}", "a query", {"positives": [i]}) for i in corpus], corpus)
    >>> {name: len(members) for name, members in splits.items()}
    {'train': 80, 'dev': 13, 'test': 7}
    """
    settings = SplitSettings(dev=dev, test=test, near_duplicates=near_duplicates)
    return split_with_settings(queries, corpus, settings, seed, together)


def split_with_settings(
    queries: Sequence[Query],
    corpus: Corpus,
    settings: SplitSettings,
    seed: int,
    together: Iterable[Sequence[str]] | None = None,
    known: Mapping[str, SplitName | None] | None = None,
) -> Splits:
    """``split``, for what a recipe says. ``known``: as of ``split_documents``. By query, see ``split_by_query``."""
    if settings.by == "query":
        return split_by_query(queries, corpus, settings, seed)
    groups = list(bundles_of(queries) if together is None else together)
    alike = near_duplicate_documents(corpus, settings.near_duplicates) if settings.near_duplicates else []
    splits = split_queries(queries, split_documents(corpus, settings, seed, [*groups, *alike], known))
    return replace(splits, alike=alike)


def split_by_query(
    queries: Sequence[Query],
    corpus: Corpus,
    settings: SplitSettings,
    seed: int,
    known: Mapping[str, SplitName] | None = None,
    others: Iterable[Query] = (),
) -> Splits:
    """Divide queries whatever their documents, for a model that finds only documents that it was trained on.

    Each is drawn by a hash of its text and ``seed``, and every document is in train; so is what was harvested, as it
    stands in the documents that are trained on. Queries that want the same are drawn as one: a query and what is made
    of it (in other words, translated and back), those of one session, and what was meant by a typing error.
    ``others``: what ``queries`` may be made of and is not among them: those that filters rejected, and labelled ones.
    ``known``: the splits of an earlier run by ``query_key``, which stay as they are; of what is tied together now, what
    was in train draws the others after it.

    >>> from sharpen.evaluation.beir import Document
    >>> queries = [Query(f"q{n}", f"query {n}", {"positives": ["d"]}) for n in range(100)]
    >>> splits = split_by_query(queries, {"d": Document("d", "text")}, SplitSettings(), seed=13)
    >>> len(splits.train), len(splits.dev), splits.sides
    (89, 11, {'d': 'train'})
    """
    alike = near_duplicate_documents(corpus, settings.near_duplicates) if settings.near_duplicates else []
    splits = Splits(sides=dict.fromkeys(corpus, "train"), alike=alike)
    every = {query.id: query for query in (*others, *queries)}
    earlier: dict[str, set[SplitName | None]] = {}
    for query in every.values():
        side = "train" if HARVESTED in query.metadata else (known or {}).get(query_key(query.text))
        earlier.setdefault(_root(query, every), set()).add(side)
    for query in queries:
        root = _root(query, every)
        side = next((name for name in SPLITS if name in earlier[root]), None) or _draw(root, settings, seed)
        getattr(splits, side).append(query)
    return splits


def _root(query: Query, every: Mapping[str, Query]) -> str:
    """What a query is drawn by: the session of the first query that it was made of, or else the text that was meant.
    ``every``: by ID."""
    while (of := query.metadata.get("of")) is not None:
        if of not in every:
            return of
        query = every[of]
    return query.metadata.get("session") or query_key(query.metadata.get("typed_for", query.text))


def bundles_of(queries: Iterable[Query]) -> list[Sequence[str]]:
    """Document IDs of the bundles that queries were written for."""
    return [query.metadata["bundle"] for query in queries if "bundle" in query.metadata]


def split_documents(
    corpus: Corpus,
    settings: SplitSettings,
    seed: int,
    together: Iterable[Sequence[str]] = (),
    known: Mapping[str, SplitName | None] | None = None,
) -> dict[str, SplitName | None]:
    """Assign every chunk's ID to ``train``, ``dev`` or ``test``; chunks of one document, and copies of it, stay
    together.

    ``together``: IDs of documents that must not be torn apart either (near-duplicates, bundles). A chunk whose text
    stands in documents of several splits (a licence, a footer) is in none: None. The draw is a hash of the group's
    first ID and ``seed``, so a document keeps its split when others come or go, as long as they are not tied to it.
    ``known``: the splits of an earlier run, by chunk's ID, which stay as they are for a model that goes on from that
    run's; of what is tied together now, what was in train draws the others after it.
    """
    chunks = chunks_by_document(corpus)
    copies: dict[tuple[str, ...], list[str]] = {}
    for doc_id, parts in chunks.items():
        copies.setdefault(tuple(chunk.copy_key for chunk in parts), []).append(doc_id)
    groups = _groups(list(chunks), [*copies.values(), *together])
    side_of: dict[str, SplitName] = {}
    for group in groups:
        earlier = {known.get(chunk.id) for doc_id in group for chunk in chunks[doc_id]} if known else ()
        side = next((name for name in SPLITS if name in earlier), None) or _draw(min(group), settings, seed)
        side_of |= dict.fromkeys(group, side)
    sides: dict[str, set[SplitName]] = {}
    for document in corpus.values():
        sides.setdefault(document.copy_key, set()).add(side_of[document.doc_id])
    return {i: side_of[d.doc_id] if len(sides[d.copy_key]) == 1 else None for i, d in corpus.items()}


def split_queries(queries: Sequence[Query], sides: Mapping[str, SplitName | None]) -> Splits:
    """A query goes where all its positives are; one whose positives lie in several splits, or in none, is rejected."""
    splits = Splits(sides=dict(sides))
    for query in queries:
        places = {sides[doc_id] for doc_id in query.metadata["positives"]}
        if len(places) == 1 and None not in places:
            getattr(splits, places.pop()).append(query)
        else:
            splits.rejected.append(Rejection.of(query, STEP, Problem(RejectionReason.SEVERAL_SPLITS)))
    return splits


def near_duplicate_documents(corpus: Corpus, threshold: float) -> list[tuple[str, str]]:
    """Pairs of document IDs whose three-word shingles have a Jaccard similarity of ``threshold`` or more, as MinHash of
    128 permutations estimates it (standard error up to 0.045).

    Only documents that agree on a whole band of their sketches are compared; those that are just at the threshold do so
    with a probability of 0.99. Of many that are alike, not every pair is found, but enough to link them: a document
    that is like 32 others already is compared with these and with no later one. So the time grows with the number of
    documents and not with its square.

    >>> from sharpen.evaluation.beir import Document
    >>> text = "a form that is the same for everybody but for one name in it "
    >>> corpus = {name: Document(name, 5 * text + name) for name in ("Ann", "Bob")} | {"x": Document("x", "else")}
    >>> near_duplicate_documents(corpus, 0.8)
    [('Ann', 'Bob')]
    """
    from datasketch import MinHash

    rows = max(r for r in range(1, PERMUTATIONS + 1) if r == 1 or _recall(threshold, r) >= RECALL)
    index = _Bands(rows)
    empty = MinHash(num_perm=PERMUTATIONS)
    ids: list[str] = []
    sketches: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    for doc_id, parts in chunks_by_document(corpus).items():
        text_words = words(" ".join(chunk.text or chunk.title for chunk in parts))
        if not text_words:
            continue
        sketch = empty.copy()  # with its permutations, which take long to draw
        starts = range(max(1, len(text_words) - SHINGLE + 1))
        shingles = list({" ".join(text_words[i : i + SHINGLE]).encode() for i in starts})
        for start in range(0, len(shingles), BATCH):
            sketch.update_batch(shingles[start : start + BATCH])
        values = sketch.hashvalues.astype(np.uint32)  # they have 32 bits, in 64
        keys = index.keys(values)
        candidates = index.find(keys)
        similarity = [np.mean(sketches[n] == values) for n in candidates]
        alike = [n for n, value in zip(candidates, similarity, strict=True) if value >= threshold]
        number = len(ids)
        pairs += [(n, number) for n in alike]
        ids.append(doc_id)
        sketches.append(values)
        if len(alike) < REPRESENTATIVES:
            index.add(keys, number)
    return [(ids[a], ids[b]) for a, b in sorted(pairs)]


def name_near_duplicates(queries: Iterable[Query], corpus: Corpus, alike: Iterable[tuple[str, str]]) -> list[Query]:
    """The queries with the near-duplicates of their documents in their metadata, ``alike`` being pairs of these.

    What is like 32 others or more is of a template. Its documents differ in what is asked for, and a model has to learn
    which is which: they are named nowhere.

    >>> from sharpen.evaluation.beir import Document
    >>> corpus = {i: Document(i, f"text {i}") for i in ("v1", "v2", "else")}
    >>> name_near_duplicates([Query("q", "how", {"positives": ["v1"]})], corpus, [("v1", "v2")])[0].metadata
    {'positives': ['v1'], 'near_duplicates': ['v2']}
    """
    others: dict[str, list[str]] = {}
    for a, b in alike:
        others.setdefault(a, []).append(b)
        others.setdefault(b, []).append(a)
    few = {doc_id: ids for doc_id, ids in others.items() if len(ids) < REPRESENTATIVES}
    named = []
    for query in queries:
        documents = {corpus[i].doc_id: None for i in query.metadata["positives"]}
        found = list(dict.fromkeys(other for doc_id in documents for other in few.get(doc_id, ())))
        named.append(replace(query, metadata=query.metadata | {NEAR_DUPLICATES: found}) if found else query)
    return named


class _Bands:
    """Numbers of documents by the bands of ``rows`` values of their sketches.

    By a hash of 64 bits, where datasketch's MinHashLSH keeps the bands themselves and a set of documents for each: of a
    million documents, these take 5 GB more. What two bands with one hash bring is compared and dropped.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._numbers: dict[int, int | list[int]] = {}

    def keys(self, sketch: np.ndarray) -> list[int]:
        """One for each band."""
        whole = len(sketch) // self._rows
        bands = sketch[: whole * self._rows].reshape(whole, self._rows)
        return [hash((n, band.tobytes())) for n, band in enumerate(bands)]

    def find(self, keys: Iterable[int]) -> list[int]:
        """All that agree on a band, in order."""
        found: set[int] = set()
        for key in keys:
            if (known := self._numbers.get(key)) is not None:
                found.update(known if isinstance(known, list) else (known,))
        return sorted(found)

    def add(self, keys: Iterable[int], number: int) -> None:
        for key in keys:
            known = self._numbers.setdefault(key, number)
            if isinstance(known, list):
                known.append(number)
            elif known != number:
                self._numbers[key] = [known, number]


def _recall(threshold: float, rows: int) -> float:
    """Probability that two documents of this similarity agree on one of the bands of ``rows`` rows."""
    return 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows)


def write_split(path: Path, sides: Mapping[str, SplitName | None]) -> None:
    write_jsonl(path, ({"_id": doc_id, "split": side} for doc_id, side in sides.items()))


def read_split(path: Path) -> dict[str, SplitName | None]:
    return {row["_id"]: row["split"] for _, row in read_jsonl(path)}


def _groups(ids: Sequence[str], together: Iterable[Sequence[str]]) -> list[list[str]]:
    """The ``ids`` in groups, such that what stands together anywhere is in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

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


def _draw(name: str, settings: SplitSettings, seed: int) -> SplitName:
    number = drawn(seed, name) / 2**64
    if number < settings.dev:
        return "dev"
    return "test" if number >= 1 - settings.test else "train"
