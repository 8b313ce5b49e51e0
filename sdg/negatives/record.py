"""A negative and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sharpen.evaluation.files import InputError, read_jsonl, write_jsonl

Verdict = Literal["candidate", "kept", "dropped", "relabelled"]


@dataclass(frozen=True, slots=True)
class Negative:
    """A document that a miner offers as a negative for a query, with the verdict on it.

    ``rank`` (from 1) and ``score`` are the miner's. ``verdict``: ``candidate`` until one is drawn, then ``kept``;
    ``dropped`` for ``reason``; or ``relabelled``, which is a positive from then on.
    """

    query_id: str
    doc_id: str
    miner: str
    rank: int
    score: float
    verdict: Verdict
    reason: str
    seed: int


def write_negatives(path: Path, negatives: Iterable[Negative]) -> None:
    write_jsonl(path, (asdict(n) for n in negatives))


def kept_negatives(path: Path) -> dict[str, list[str]]:
    """Query ID to the IDs of its kept negatives of all miners, in their order. Raises ``InputError`` as
    ``read_negatives`` does."""
    kept: dict[str, list[str]] = {}
    for negative in read_negatives(path):
        if negative.verdict == "kept":
            kept.setdefault(negative.query_id, []).append(negative.doc_id)
    return kept


def read_negatives(path: Path) -> list[Negative]:
    """Read what ``write_negatives`` wrote. Raises ``InputError`` (file and line) for a row of another shape."""
    negatives = []
    for number, row in read_jsonl(path):
        try:
            negatives.append(Negative(**row))
        except TypeError as error:
            raise InputError(f"{path}, line {number}: not a negative ({error})") from None
    return negatives
