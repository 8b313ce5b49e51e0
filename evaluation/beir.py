"""The BEIR layout, which everything here reads and writes.

A folder with ``corpus.jsonl`` (``_id``, ``title``, ``text``, ``metadata``), ``queries.jsonl`` (``_id``, ``text``,
``metadata``) and ``qrels/<split>.tsv`` (a header, then ``query-id``, ``corpus-id``, ``score``). In memory these are
plain dicts keyed by ID, so that IDs and not texts are what passes between the stages.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpen.evaluation.files import InputError, atomic_file, read_jsonl, write_jsonl
from sharpen.evaluation.ids import KnownIds
from sharpen.evaluation.qrels import qrels_rows


@dataclass(frozen=True, slots=True)
class Document:
    """A unit of retrieval: a document, or a chunk of one (``metadata["chunk_of"]`` then names the document)."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Title and text joined by a blank, as BEIR joins them: what encoders and BM25 are given."""
        return f"{self.title} {self.text}".strip()

    @property
    def doc_id(self) -> str:
        """The document that this chunk was cut from (itself, where nothing was cut)."""
        return str(self.metadata.get("chunk_of", self.id))

    @property
    def copy_key(self) -> str:
        """Equal for copies: a hash of the text (of the title, where there is no text). Titles may differ, as a copied
        file has another name."""
        return text_key(self.text or self.title)


ALSO_ANSWERS = "also_answers"
"""In a query's metadata: IDs of the documents for which the same was asked, in a query that was dropped as a duplicate.
Nobody calls them positives, but they are no negatives of it."""
NEAR_DUPLICATES = "near_duplicates"
"""In a query's metadata: IDs of documents that are nearly the same as one that answers it, and no negatives of it."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for; ``metadata["positives"]``, where it is there, lists the IDs of its relevant documents."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


Corpus = dict[str, Document]
Queries = dict[str, Query]
Qrels = dict[str, dict[str, int]]
"""Query ID to document ID to grade; grades above 0 are relevant."""
Run = dict[str, dict[str, float]]
"""Query ID to document ID to score; a higher score is a better rank."""


def chunks_by_document(corpus: Corpus) -> dict[str, list[Document]]:
    """Document ID to the chunks that it was cut into (itself, where nothing was cut), in the order of the corpus.

    >>> corpus = {i: Document(i, "text", metadata={"chunk_of": "a"}) for i in ("a/1", "a/2")}
    >>> {name: len(chunks) for name, chunks in chunks_by_document(corpus).items()}
    {'a': 2}
    """
    result: dict[str, list[Document]] = {}
    for chunk in corpus.values():
        result.setdefault(chunk.doc_id, []).append(chunk)
    return result


def list_queries(queries: Mapping[str, Query] | Iterable[Query]) -> list[Query]:
    """The queries of a dict by ID, or of any iterable."""
    return list(queries.values() if isinstance(queries, Mapping) else queries)


_SPACE = re.compile(r"\s+")

QUERY_ID_KEYS = ("_id", "id", "query-id", "query_id", "qid")
QUERY_KEYS = ("text", "query", "question", "contents")
"""Keys of ``queries.jsonl``, the usual one first."""


ID_KEYS = ("_id", "id", "docid", "doc_id", "document_id", "pid", "passage_id", "corpus_id", "corpus-id")
TEXT_KEYS = ("text", "contents", "content", "body", "passage")
TITLE_KEYS = ("title", "headline", "subject")
"""What the ID, the text and the title of a document are called in collections; the first that is there counts."""


def corpus_file(folder: Path) -> Path | None:
    """The corpus of a folder in BEIR layout, which may be compressed; None where there is none."""
    return next((p for name in ("corpus.jsonl", "corpus.jsonl.gz") if (p := folder / name).is_file()), None)


def read_corpus(path: Path) -> Corpus:
    """Read ``corpus.jsonl`` (or ``.jsonl.gz``), with other well-known names in the place of ``_id``, ``text`` and
    ``title`` where these are not there: ``ID_KEYS``, ``TEXT_KEYS``, ``TITLE_KEYS``. Other keys with a plain value are
    metadata, beside those under ``metadata``.

    Raises ``InputError`` (file and line) for bad rows, duplicate IDs and an empty corpus.
    """
    corpus: Corpus = {}
    for number, row in read_jsonl(path):
        id_key, text_key = (_known_key(row, keys, path, number) for keys in (ID_KEYS, TEXT_KEYS))
        title_key = next((key for key in TITLE_KEYS if key in row), "title")
        doc_id = _new_id(row, path, number, corpus, id_key)
        corpus[doc_id] = Document(
            doc_id,
            _text(row, text_key, path, number),
            _text(row, title_key, path, number, default=""),
            _others(row, (id_key, text_key, title_key)) | _metadata(row, path, number),
        )
    if not any(document.content for document in corpus.values()):
        raise InputError(
            f"{path}: no document with any text in it; one JSON object a line is expected, with _id and text"
        )
    return corpus


def read_queries(path: Path) -> Queries:
    """Read ``queries.jsonl``: ``_id`` and ``text``, or other well-known names of these (``id``, ``query-id``, ``qid``;
    ``query``, ``question``, ``contents``). Raises ``InputError`` (file and line) for bad rows and duplicate IDs."""
    queries: Queries = {}
    for number, row in read_jsonl(path):
        id_key, text_key = (_known_key(row, keys, path, number) for keys in (QUERY_ID_KEYS, QUERY_KEYS))
        query_id = _new_id(row, path, number, queries, id_key)
        queries[query_id] = Query(query_id, _text(row, text_key, path, number), _metadata(row, path, number))
    return queries


def read_qrels(path: Path, queries: Mapping[str, Any] | None = None, documents: Iterable[str] | None = None) -> Qrels:
    """Read a qrels file in BEIR's form (query ID, document ID and grade, with or without a header) or TREC's (query, 0,
    document, grade), as ``qrels_rows`` has it.

    ``documents``: all that there are; another one is an error. ``queries``: all that there are; rows of other queries
    are left out, and of rows that name a document twice for a query the last one counts. Both are counted in a warning,
    and so are IDs that are found in another Unicode spelling only. Raises ``InputError`` (file and line) for a bad row,
    for a document that is not known, and if no query is.
    """
    known = None if documents is None else KnownIds(documents)
    known_queries = None if queries is None else KnownIds(queries)
    qrels: Qrels = {}
    unknown_queries: list[str] = []
    repeated = 0
    for number, given_query, given_document, grade in qrels_rows(path):
        query_id = given_query if known_queries is None else known_queries.find(given_query)
        if query_id is None:
            unknown_queries.append(given_query)
            continue
        doc_id = given_document if known is None else known.find(given_document)
        if doc_id is None:
            raise InputError(
                f"{path}, line {number}: document {given_document!r} is not in the corpus, which has {known.first()}"
            )
        grades = qrels.setdefault(query_id, {})
        repeated += doc_id in grades
        grades[doc_id] = grade
    if unknown_queries:
        warnings.warn(
            f"{path}: {len(unknown_queries):,} rows are of queries that are not in queries.jsonl, as"
            f" {unknown_queries[0]!r}; they are left out",
            stacklevel=2,
        )
    if repeated:
        warnings.warn(
            f"{path}: {repeated:,} rows repeat a query and a document of an earlier row; the last one counts",
            stacklevel=2,
        )
    for ids, what in ((known_queries, "queries"), (known, "documents")):
        if ids:
            ids.warn(path, what)
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        why = ""
        if unknown_queries and not qrels:
            why = f" (none of its queries is in queries.jsonl, which has {known_queries.first()})"
        raise InputError(f"{path}: no relevant document for any query{why}; nothing can be measured with it")
    return qrels


def write_corpus(path: Path, corpus: Corpus) -> None:
    write_jsonl(
        path, ({"_id": d.id, "title": d.title, "text": d.text, "metadata": d.metadata} for d in corpus.values())
    )


def write_queries(path: Path, queries: Iterable[Query]) -> None:
    write_jsonl(path, ({"_id": q.id, "text": q.text, "metadata": q.metadata} for q in queries))


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Raises ``InputError`` for an ID with a tab or a line break, which the file could not hold."""
    for name in (name for query_id, grades in qrels.items() for name in (query_id, *grades)):
        if any(c in name for c in "\t\n\r"):
            raise InputError(f"{path}: the ID {name!r} has a tab or line break, which qrels cannot hold; rename it")
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for query_id, grades in qrels.items():
            for doc_id, grade in grades.items():
                file.write(f"{query_id}\t{doc_id}\t{grade}\n")


def text_key(text: str) -> str:
    """Hash by which two texts are the same: after NFKC, lower case, and with white space folded.

    >>> text_key("The  Bread") == text_key("the bread")
    True
    """
    normal = _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()
    return hashlib.sha256(normal.encode()).hexdigest()[:32]


def _known_key(row: dict[str, Any], keys: tuple[str, ...], path: Path, number: int) -> str:
    """The first of the keys that a row has. Raises ``InputError`` that names those that are there."""
    for key in keys:
        if key in row:
            return key
    there = ", ".join(map(repr, row)) or "none"
    raise InputError(
        f"{path}, line {number}: no key {keys[0]!r}, nor {', '.join(map(repr, keys[1:]))}; the keys there are {there}"
    )


def _new_id(row: dict[str, Any], path: Path, number: int, earlier: Container[str], key: str = "_id") -> str:
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f'{path}, line {number}: "{key}" must be a non-empty string, found {value!r}')
    if any(c in value for c in "\t\n\r"):
        raise InputError(f"{path}, line {number}: the ID {value!r} has a tab or line break, which qrels cannot hold")
    if value in earlier:
        raise InputError(f"{path}, line {number}: the ID {value!r} stands on an earlier line too; IDs must be unique")
    return value


def _text(row: dict[str, Any], key: str, path: Path, number: int, default: str | None = None) -> str:
    value = row.get(key, default)
    value = default if value is None else value
    if not isinstance(value, str):
        raise InputError(f'{path}, line {number}: "{key}" must be a string, found {value!r}')
    return value


def _others(row: dict[str, Any], read: Container[str]) -> dict[str, Any]:
    """Columns that nothing else is made of; an empty one says nothing."""
    plain = str | int | float | bool
    return {k: v for k, v in row.items() if k not in read and isinstance(v, plain) and v != ""}


def _metadata(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    value = row.get("metadata") or {}
    if not isinstance(value, dict):
        raise InputError(f'{path}, line {number}: "metadata" must be an object, found {value!r}')
    return value
