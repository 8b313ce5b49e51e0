"""Questions that people judged, in a CSV or JSONL file: a row for each question and document."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from sharpen.evaluation.beir import Qrels, Queries, Query
from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.evaluation.ids import KnownIds

QUESTION, DOCUMENT, GRADE = "question", "document", "grade"
"""Columns of a CSV or keys of a JSONL file of questions; the grade may be missing, and is 1 then."""


def read_questions(path: Path, documents: Iterable[str] | None = None) -> tuple[Queries, Qrels]:
    """The questions of a file, with the documents that answer them; ``documents``: all that it may name.

    Raises ``InputError`` (file and line).
    """
    known = None if documents is None else KnownIds(documents)
    queries: dict[str, Query] = {}
    qrels: Qrels = {}
    for number, question, named, grade in _questions(path):
        document = named if known is None else known.find(named)
        if document is None:
            raise InputError(
                f"{path}, line {number}: document {named[:100]!r} is not in the corpus, which has {known.first()}"
            )
        query = queries.setdefault(question, Query(f"q{len(queries) + 1}", question))
        qrels.setdefault(query.id, {})[document] = grade
    if known:
        known.warn(path, "documents")
    return {q.id: q for q in queries.values()}, qrels


def _questions(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line, question, document and grade of each row. Raises ``InputError`` (file and line)."""
    if path.suffix == ".jsonl":
        rows: Iterable[tuple[int, dict]] = read_jsonl(path)
    else:
        rows = _csv_rows(path)
    is_empty = True
    for number, row in rows:
        question, document, grade = row.get(QUESTION), row.get(DOCUMENT), row.get(GRADE, 1)
        if (
            not isinstance(question, str)
            or not question.strip()
            or not isinstance(document, str)
            or not document.strip()
        ):
            raise InputError(
                f"{path}, line {number}: expected a {QUESTION} and a {DOCUMENT}, both texts (and maybe a {GRADE});"
                f" found {row!r:.200}"
            )
        try:
            value = int(grade) if grade not in (None, "") else 1
        except (TypeError, ValueError):
            raise InputError(f"{path}, line {number}: {GRADE} must be a whole number, found {grade!r}") from None
        is_empty = False
        yield number, question.strip(), document.strip(), value
    if is_empty:
        raise InputError(f"{path}: no question in it; rows with {QUESTION} and {DOCUMENT} are expected")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            if missing := {QUESTION, DOCUMENT} - set(reader.fieldnames or ()):
                raise InputError(
                    f"{path}, line 1: the header lacks {', '.join(sorted(missing))}; found"
                    f" {', '.join(reader.fieldnames or ()) or 'nothing'}"
                )
            for row in reader:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
