"""Pairs in the files of Hugging Face's ``datasets``: Parquet, and Arrow as ``save_to_disk`` writes it. Nothing of such
a folder is run: a loading script in it is not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import ID_KEYS, QUERY_ID_KEYS, QUERY_KEYS, TEXT_KEYS, TITLE_KEYS, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.converted import Converted, add_negatives, add_pair, read_parquet, text_id

ANCHOR = ("anchor", "query", "question", "sentence1")
POSITIVE = ("positive", "pos", "answer", "passage", "document", "context", "sentence2")
"""Columns of pairs, the usual name first; others that begin with negative or neg hold negatives."""
PARTS = ("corpus", "queries", "qrels")
SAVED = ("dataset_info.json", "dataset_dict.json")
_NEGATIVE = re.compile(r"neg(ative)?(_\d+)?")
_DEV = ("dev", "val", "valid", "validation", "eval")


def is_dataset(source: Path) -> bool:
    """Whether a path holds pairs in one of these forms."""
    if source.is_file():
        return source.suffix == ".parquet" and _has_pairs(source)
    if any((source / name).is_file() for name in SAVED) or all(_files(source, part) for part in PARTS):
        return True
    return any(_has_pairs(path) for path in sorted(source.glob("**/*.parquet")))


def read_dataset(source: Path) -> Converted:
    """Pairs, or a collection in three parts. Raises ``InputError`` that names the columns that are there."""
    if source.is_dir() and all(_files(source, part) for part in PARTS):
        return _read_parts(source)
    data = Converted({}, {}, {})
    for split, rows in _tables(source):
        _add_rows(data, split, rows, source)
    return data


def _read_parts(source: Path) -> Converted:
    documents = {
        doc_id: Document(doc_id, _value(row, TEXT_KEYS) or "", _value(row, TITLE_KEYS) or "")
        for row in _rows(source, "corpus")
        if (doc_id := _value(row, ID_KEYS))
    }
    queries = {
        query_id: Query(query_id, _value(row, QUERY_KEYS) or "", _metadata(row))
        for row in _rows(source, "queries")
        if (query_id := _value(row, QUERY_ID_KEYS))
    }
    data = Converted(documents, {}, {})
    for path in _files(source, "qrels"):
        for row in read_parquet(path):
            query_id, doc_id = _value(row, ("query-id", "query_id", "qid")), _value(row, ("corpus-id", *ID_KEYS))
            if query_id not in queries or doc_id not in documents:
                data.leave_out("judgements of other queries or documents")
                continue
            data.queries[query_id] = queries[query_id]
            data.splits.setdefault(_split(path), {}).setdefault(query_id, {})[doc_id] = int(row.get("score", 1))
    for path in _files(source, "negatives"):
        for row in read_parquet(path):
            if (query_id := _value(row, ("query-id", "query_id"))) in data.queries:
                add_negatives(data, query_id, "given", [_value(row, ("corpus-id", *ID_KEYS)) or ""])
    return data


def _add_rows(data: Converted, split: str, rows: Sequence[Mapping[str, Any]], source: Path) -> None:
    for number, row in enumerate(rows, start=1):
        text, positives = _value(row, ANCHOR), _texts(row, POSITIVE)
        if text is None or not positives:
            if number == 1:
                raise InputError(
                    f"{source}: {split}: expected a column {ANCHOR[0]} (or {', '.join(ANCHOR[1:])}) and a column"
                    f" {POSITIVE[0]} (or {', '.join(POSITIVE[1:])}); the columns there are {', '.join(row)}"
                )
            data.leave_out("rows without a query or a positive")
            continue
        for positive in positives:
            query_id = add_pair(data, " ".join(text.split()), _add_document(data, positive), split)
        negatives = [text for key in row if _NEGATIVE.fullmatch(key) for text in _texts(row, (key,))]
        if negatives:
            add_negatives(data, query_id, "given", [_add_document(data, text) for text in negatives])


def _add_document(data: Converted, text: str) -> str:
    doc_id = text_id(text)
    data.corpus.setdefault(doc_id, Document(doc_id, text))
    return doc_id


def _tables(source: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Split and rows of each file, or of each dataset that was saved."""
    if source.is_dir() and any((source / name).is_file() for name in SAVED):
        from datasets import DatasetDict, load_from_disk

        try:
            loaded = load_from_disk(str(source))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{source}: not what save_to_disk writes ({error})") from None
        for split, dataset in loaded.items() if isinstance(loaded, DatasetDict) else [("train", loaded)]:
            yield _split(Path(split)), dataset.to_list()
        return
    for path in [source] if source.is_file() else sorted(source.glob("**/*.parquet")):
        if _has_pairs(path):
            yield _split(path), read_parquet(path)


def _has_pairs(path: Path) -> bool:
    import pyarrow.parquet

    try:
        names = set(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowInvalid, OSError):
        return False
    return bool(names & set(ANCHOR)) and bool(names & set(POSITIVE))


def _split(path: Path) -> str:
    """By the file's name, as ``train-00000-of-00002.parquet``, which may lie in a folder called after the split."""
    for name in (path.stem, path.parent.name):
        first = re.split(r"[-_.]", name)[0].lower()
        if first in ("train", "test", *_DEV):
            return "dev" if first in _DEV else first
    return "train"


def _files(source: Path, part: str) -> list[Path]:
    return sorted(source.glob(f"{part}/**/*.parquet")) or sorted(source.glob(f"{part}.parquet"))


def _rows(source: Path, part: str) -> Iterator[dict[str, Any]]:
    return (row for path in _files(source, part) for row in read_parquet(path))


def _value(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((str(row[key]) for key in keys if row.get(key) not in (None, "")), None)


def _texts(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    value = next((row[key] for key in keys if row.get(key)), None)
    return [str(text) for text in (value if isinstance(value, list) else [value]) if text]


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"strategy": row["strategy"]} if row.get("strategy") else {}
