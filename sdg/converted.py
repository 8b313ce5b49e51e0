"""What a reader of another program's pairs fills, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, Qrels, Queries, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.negatives.record import Negative


@dataclass
class Converted:
    """``splits``: name to qrels. ``negatives``: query ID to miner to document IDs, the best first. ``left_out``: what
    could not be taken, by reason."""

    corpus: Corpus
    queries: Queries
    splits: dict[str, Qrels]
    negatives: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def rows(self) -> Iterator[Negative]:
        for query_id, miners in self.negatives.items():
            for miner, ids in miners.items():
                for rank, doc_id in enumerate(ids, start=1):
                    yield Negative(query_id, doc_id, miner, rank, 1.0 / rank, "candidate", 0)


def add_negatives(data: Converted, query_id: str, miner: str, ids: Iterable[str]) -> None:
    """Each once, in their order, as far as they are documents and no positives."""
    positives = {i for qrels in data.splits.values() for i, grade in qrels.get(query_id, {}).items() if grade > 0}
    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in miner)
    kept = data.negatives.setdefault(query_id, {}).setdefault(name, [])
    for doc_id in ids:
        if doc_id not in data.corpus:
            data.leave_out("negatives that are no document")
        elif doc_id not in positives and doc_id not in kept:
            kept.append(doc_id)


def add_pair(data: Converted, text: str, doc_id: str, split: str = "train") -> str:
    """A query and its document, which is in the corpus. Returns the query's ID, a sum of its text."""
    query_id = "q" + hashlib.sha256(text.encode()).hexdigest()[:16]
    data.queries[query_id] = Query(query_id, text)
    data.splits.setdefault(split, {}).setdefault(query_id, {})[doc_id] = 1
    return query_id


def text_id(text: str) -> str:
    """As NVIDIA's converter names a passage."""
    return "d_" + hashlib.sha256(text.encode()).hexdigest()[:16]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Rows of a file. Raises ``InputError`` for one of another kind."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a parquet file ({error})") from None
