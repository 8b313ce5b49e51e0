"""Tables and records: each row is a document."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sharpen.evaluation.beir import ID_KEYS, TEXT_KEYS, TITLE_KEYS
from sharpen.sdg.documents.encodings import decode, open_text
from sharpen.sdg.documents.files import READ_LIMIT, Entry, InputFile, limited_lines
from sharpen.sdg.documents.markup import encoding_metadata, known_metadata
from sharpen.sdg.documents.skipping import Skipped, Unreadable

BAD_ROWS = 1000
"""Broken rows of a file before all of it counts as broken."""
_KNOWN_COLUMNS = {*ID_KEYS, *TEXT_KEYS, *TITLE_KEYS}
_NUMBER = re.compile(r"[\s+-]*[\d.,]+\s*")


def record_entry(row: dict[str, Any], number: int) -> Entry:
    """A row as a document.

    ID, title and text are taken from the columns with the well-known names (``ID_KEYS``, ``TITLE_KEYS``,
    ``TEXT_KEYS``), and the other columns are metadata. A row without such a text is ``column: value``, a line each.

    >>> record_entry({"id": 7, "body": "Soak them.", "year": 1999}, 1)
    Entry(text='Soak them.', title='', name='7', metadata={'year': 1999})
    >>> record_entry({"bean": "black", "hours": 9}, 1)
    Entry(text='bean: black\\nhours: 9', title='', name='1', metadata={})
    """
    keys = {str(key).strip().lower(): key for key in row}
    id_key, title_key, text_key = (
        next((keys[k] for k in known if k in keys and _is_filled(row[keys[k]])), None)
        for known in (ID_KEYS, TITLE_KEYS, TEXT_KEYS)
    )
    name = str(number) if id_key is None or not isinstance(row[id_key], str | int) else str(row[id_key]).strip()
    title = str(row[title_key]) if title_key is not None else ""
    others = {str(k): v for k, v in row.items() if k not in (id_key, title_key, text_key) and _is_filled(v)}
    if text_key is None or not isinstance(row[text_key], str):
        others |= {} if text_key is None else {str(text_key): row[text_key]}
        return Entry("\n".join(_lines(others)), title, name, known_metadata(others))
    nested = others.pop("metadata", None)
    metadata = {k: v if isinstance(v, str | int | float | bool) else _plain(v) for k, v in others.items()}
    return Entry(row[text_key], title, name, metadata | (nested if isinstance(nested, dict) else {}))


def read_csv(file: InputFile) -> Iterator[Entry | Skipped]:
    """A delimiter is what the first line has most of. Fields may be of any length."""
    csv.field_size_limit(READ_LIMIT)
    stream, encoding = open_text(file)
    with stream:
        head = stream.read(2**16) + stream.readline(READ_LIMIT)
        lines = chain(io.StringIO(head, newline=""), (line for _, line in limited_lines(stream)))
        rows = csv.reader(lines, **_dialect(head, file.suffix))
        try:
            yield from table_entries(rows, encoding_metadata(encoding))
        except csv.Error as error:
            raise Unreadable("broken", f"line {rows.line_num}: {error}") from None


def table_entries(rows: Iterable[Sequence[Any]], metadata: dict[str, Any] | None = None) -> Iterator[Entry]:
    """Rows of which the first may be a header; without one the columns are numbered, and of two the first is the ID."""
    rows = (row for row in rows if any(map(_is_filled, row)))
    first = list(islice(rows, 1))
    if not first:
        return
    header = first[0]
    if not _is_header(header):
        header = ("_id", "text") if len(header) == 2 else [f"column {n}" for n in range(1, len(header) + 1)]
        rows = chain(first, rows)
    names = [str(name).strip() or f"column {n}" for n, name in enumerate(header, 1)]
    for number, row in enumerate(rows, 1):
        extra = [f"column {n}" for n in range(len(names) + 1, len(row) + 1)]
        entry = record_entry(dict(zip([*names, *extra], row, strict=False)), number)
        yield Entry(entry.text, entry.title, entry.name, {**(metadata or {}), **entry.metadata})


def read_jsonl(file: InputFile) -> Iterator[Entry | Skipped]:
    """A line that is no JSON object is skipped, and the others are read."""
    stream, encoding = open_text(file)
    bad = 0
    with stream:
        for number, line in limited_lines(stream):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                problem = None if isinstance(row, dict) else f"no JSON object but {type(row).__name__}"
            except json.JSONDecodeError as error:
                problem = f"not valid JSON ({error.msg} at column {error.colno})"
            except (RecursionError, ValueError) as error:  # nested too deeply; a number of too many digits
                problem = f"not valid JSON ({error})"
            if problem is None:
                entry = record_entry(row, number)
                metadata = {**encoding_metadata(encoding), **entry.metadata}
                yield Entry(entry.text, entry.title, entry.name, metadata)
                continue
            bad += 1
            if bad > BAD_ROWS:
                raise Unreadable("broken", f"more than {BAD_ROWS:,} lines are not valid JSON")
            yield Skipped(f"{file.id or file.name}, line {number}", "broken", problem)


def read_json(file: InputFile) -> Iterator[Entry]:
    """A list of objects (or an object that holds one, as ``{"data": [...]}``) has a document each; anything else is
    one."""
    text, encoding = decode(file.read())
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("broken", f"not valid JSON ({error})") from None
    if isinstance(value, dict) and not _KNOWN_COLUMNS & {k.lower() for k in value}:
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(i, dict) for i in v)]
        value = lists[0] if len(lists) == 1 else value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for number, row in enumerate(value, 1):
            entry = record_entry(row, number)
            yield Entry(entry.text, entry.title, entry.name, {**encoding_metadata(encoding), **entry.metadata})
        return
    entry = record_entry(value if isinstance(value, dict) else {"value": value}, 1)
    yield Entry(entry.text, entry.title or None, metadata={**encoding_metadata(encoding), **entry.metadata})


def read_parquet(file: InputFile) -> Iterator[Entry]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file.path or io.BytesIO(file.read())) as table:
        batches = table.iter_batches(batch_size=256)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        for number, row in enumerate(rows, 1):
            yield record_entry(row, number)


def read_dataset(file: InputFile) -> Iterator[Entry]:
    """A folder that ``datasets`` saved: its rows, and of several splits the rows of each."""
    from datasets import DatasetDict, load_from_disk

    dataset = load_from_disk(str(file.path), keep_in_memory=False)
    splits = dataset if isinstance(dataset, DatasetDict) else {"": dataset}
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            entry = record_entry(row, number)
            yield Entry(entry.text, entry.title, f"{split}/{entry.name}".lstrip("/"), entry.metadata)


def _dialect(head: str, suffix: str) -> dict[str, Any]:
    first = head.partition("\n")[0]
    delimiter = "\t" if suffix == ".tsv" else max(",;\t|", key=first.count)
    # quotes that open no field are signs of the text, as in collections of passages
    is_quoted = delimiter != "\t" or re.search(r'(?:^|\t)"[^\t]*"(?:\t|\r?$)', head, re.MULTILINE)
    return {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE}


def _is_header(row: Sequence[Any]) -> bool:
    names = [str(name).strip().lower() for name in row]
    if _KNOWN_COLUMNS & set(names):
        return True
    filled = [name for name in names if name]
    return len(set(filled)) == len(filled) and not any(_NUMBER.fullmatch(n) or len(n) > 80 for n in filled)


def _is_filled(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, str) and not value.strip())


def _lines(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """``column: value``; what is nested as ``outer.inner: value``."""
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _lines(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
            yield from _lines({str(n): v for n, v in enumerate(value, 1)}, f"{name}.")
        elif _is_filled(value):
            yield f"{name}: {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # what a spreadsheet holds as 9.0 is 9
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value)
