"""Rows of qrels files: BEIR's three columns with or without a header, or TREC's four. What a file is, is decided once
for all of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sharpen.evaluation.files import InputError

QUERY_NAMES = ("query-id", "query_id", "queryid", "qid", "query", "topic", "topic-id", "topic_id")
DOCUMENT_NAMES = (
    *("corpus-id", "corpus_id", "corpusid", "doc-id", "doc_id", "docid", "docno", "document", "document-id"),
    *("document_id", "pid", "passage-id", "passage_id"),
)
GRADE_NAMES = ("score", "relevance", "grade", "label", "rel", "judgment", "judgement")
"""Names that columns have in headers, in lower case."""
UNUSED = {"0", "Q0"}
"""What TREC's second column has."""
WRITE_BEIR = "write three columns with tabs between them and the header query-id, corpus-id, score"


class QrelsRow(NamedTuple):
    """``number``: its line, from 1."""

    number: int
    query_id: str
    doc_id: str
    grade: int


Line = tuple[int, list[str]]


def qrels_rows(path: Path) -> list[QrelsRow]:
    """The rows of a qrels file. Columns are separated by tabs, or by blanks where the file has no tab.

    Four columns are TREC's (query, 0, document, grade). Raises ``InputError`` (file and line) for a bad row, for four
    columns that may mean something else, and for a TREC run file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "test.qrels"
    ...     _ = path.write_text("1 0 184 2\\n1 0 29 0\\n")
    ...     qrels_rows(path)
    [QrelsRow(number=1, query_id='1', doc_id='184', grade=2), QrelsRow(number=2, query_id='1', doc_id='29', grade=0)]
    """
    lines = _lines(path)
    if not lines:
        return []
    number, first = lines[0]
    if any(cell.strip().lower() in GRADE_NAMES for cell in first):
        lines, columns = lines[1:], _named_columns(path, number, first)
    else:
        columns = _columns(path, lines)
    rows = []
    for line, cells in lines:
        if len(cells) != len(first):
            raise InputError(
                f"{path}, line {line}: {len(cells)} columns, and line {number} has {len(first)}; {_expected(cells)}"
            )
        query_id, doc_id, grade = (cells[column] for column in columns)
        value = _whole(grade)
        if value is None or not query_id or not doc_id:
            raise InputError(f"{path}, line {line}: {_expected(cells)}")
        rows.append(QrelsRow(line, query_id, doc_id, value))
    return rows


def is_qrels_row(cells: Sequence[str]) -> bool:
    """Whether these columns look like a row of qrels, in three or four columns."""
    return len(cells) in (3, 4) and (_whole(cells[-1]) is not None or cells[-1].lower() in GRADE_NAMES)


def _lines(path: Path) -> list[Line]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            texts = [(number, line.rstrip("\t\r\n")) for number, line in enumerate(file, start=1) if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except FileNotFoundError:
        splits = sorted(p.stem for p in path.parent.glob("*.tsv"))
        raise InputError(
            f"{path}: no such file" + (f"; the splits there are {', '.join(splits)}" if splits else "")
        ) from None
    separator = "\t" if any("\t" in text for _, text in texts) else None
    return [(number, text.split(separator)) for number, text in texts]


def _named_columns(path: Path, number: int, header: list[str]) -> list[int]:
    """Where query, document and grade are, by the header's names; by their order, where three have other names."""
    names = [cell.strip().lower() for cell in header]
    found = [
        next((column for column, name in enumerate(names) if name in known), None)
        for known in (QUERY_NAMES, DOCUMENT_NAMES, GRADE_NAMES)
    ]
    if None not in found:
        return found
    if len(names) == 3 and names[2] in GRADE_NAMES:
        return [0, 1, 2]
    raise InputError(
        f"{path}, line {number}: the header names {', '.join(header)}, and of these it is not clear which is the query,"
        f" which the document; {WRITE_BEIR}"
    )


def _columns(path: Path, lines: list[Line]) -> list[int]:
    """Where query, document and grade are in a file without a header."""
    number, first = lines[0]
    if len(first) == 3:
        _check_three(path, lines)
        return [0, 1, 2]
    if len(first) == 4:
        _check_four(path, [(line, cells) for line, cells in lines if len(cells) == 4])
        return [0, 2, 3]
    if len(first) == 6 and _whole(first[3]) is not None and _is_number(first[4]):
        raise InputError(
            f"{path}, line {number}: a run (query, Q0, document, rank, score, tag), which is what a system found, in"
            " the place of qrels, which say what is right; give it as a system"
        )
    raise InputError(f"{path}, line {number}: {_expected(first)}")


def _check_three(path: Path, lines: list[Line]) -> None:
    """TREC's without the grade: the same "document" 0 again and again for a query."""
    rows = [(line, cells) for line, cells in lines if len(cells) == 3]
    if {cells[1] for _, cells in rows} <= UNUSED and len({cells[0] for _, cells in rows}) < len(rows):
        raise InputError(
            f"{path}, line {rows[0][0]}: the second of three columns is 0 in every row, so this looks like query, 0 and"
            f" document without a grade; {WRITE_BEIR}"
        )


def _check_four(path: Path, rows: list[Line]) -> None:
    """By the 0 in the second column, or by a last column that is a grade beside a third that is none."""
    if {cells[1] for _, cells in rows} <= UNUSED:
        return
    if all(_whole(cells[3]) is not None for _, cells in rows) and any(_whole(cells[2]) is None for _, cells in rows):
        return
    line, cells = next((line, cells) for line, cells in rows if cells[1] not in UNUSED)
    raise InputError(
        f"{path}, line {line}: four columns, and it cannot be told whether they are TREC's (query, 0, document, grade):"
        f" found {cells!r}; {WRITE_BEIR}"
    )


def _expected(cells: list[str]) -> str:
    return (
        "expected query-id, corpus-id and a whole-number score, separated by tabs (or TREC's query, 0, document and"
        f" grade); found {cells!r}"
    )


def _whole(text: str) -> int | None:
    """``1`` and, as tables write it, ``1.0``."""
    try:
        return int(text)
    except ValueError:
        return int(float(text)) if _is_number(text) and float(text).is_integer() else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
