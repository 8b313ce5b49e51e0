"""A negative and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from sharpen.evaluation.files import InputError, read_jsonl, write_jsonl

Verdict = Literal["candidate", "kept", "dropped", "relabelled"]


class Reason(StrEnum):
    """Why a candidate was dropped, relabelled, or kept in the place of another one."""

    POSITIVE = "positive"
    COPY_OF_POSITIVE = "copy_of_positive"
    CHUNK_OF_POSITIVE = "chunk_of_positive"
    ALSO_ANSWERS = "also_answers"
    NEAR_DUPLICATE = "near_duplicate"
    HELD_OUT = "held_out"
    SCORE = "score"
    JUDGED_RELEVANT = "judged_relevant"
    JUDGE_FAILED = "judge_failed"
    CUSTOM = "custom"
    FROM_OTHER_MINER = "from_other_miner"
    DRAWN_AT_RANDOM = "drawn_at_random"
    DECIDED = "decided"


FINAL_REASONS = frozenset({Reason.POSITIVE, Reason.COPY_OF_POSITIVE, Reason.CHUNK_OF_POSITIVE, Reason.HELD_OUT})
"""Nothing that has one of these becomes a negative, whoever says so."""
FILL_REASONS = frozenset({Reason.FROM_OTHER_MINER, Reason.DRAWN_AT_RANDOM})
"""Of what stands in for negatives that a miner lacks."""
_MESSAGES = {
    Reason.POSITIVE: "positive",
    Reason.COPY_OF_POSITIVE: "same text as a positive",
    Reason.CHUNK_OF_POSITIVE: "chunk of a positive's document",
    Reason.ALSO_ANSWERS: "the same was asked for it",
    Reason.NEAR_DUPLICATE: "near-duplicate of a positive's document",
    Reason.HELD_OUT: "held-out document",
    Reason.JUDGED_RELEVANT: "judge: relevant",
}


@dataclass(frozen=True, slots=True)
class Negative:
    """A document that a miner offers as a negative for a query, with the verdict on it.

    ``rank`` (from 1) and ``score`` are the miner's. ``verdict``: ``candidate`` until one is drawn, then ``kept``;
    ``dropped``; or ``relabelled``, which is a positive from then on. ``reason`` is None where there is nothing to
    explain; ``detail`` adds to it what only people read, such as the limit of a filter.

    >>> row = Negative("q1", "d7", "bm25", 3, 11.2, "dropped", 13, Reason.SCORE, "margin: less than 0.05 below")
    >>> row.message
    'margin: less than 0.05 below'
    """

    query_id: str
    doc_id: str
    miner: str
    rank: int
    score: float
    verdict: Verdict
    seed: int
    reason: Reason | None = None
    detail: str = ""

    @property
    def message(self) -> str:
        """The reason for people, empty where there is none; nothing reads it."""
        return self.detail or (_MESSAGES.get(self.reason, str(self.reason)) if self.reason else "")


Rows = Mapping[str, Sequence[Negative]]
"""Query ID to the rows of one miner, in the order of their ranks."""
MinedRows = Mapping[str, Rows]
"""Miner's name to its rows."""


class PassageProblem(StrEnum):
    """Why a passage that an LLM wrote is not used."""

    TOO_SHORT = "too_short"
    REPEATED = "repeated"
    COPY_OF_POSITIVE = "copy_of_positive"
    IN_CORPUS = "in_corpus"
    MISSING = "missing"
    LLM_ERROR = "llm_error"


_PASSAGE_MESSAGES = {
    PassageProblem.TOO_SHORT: "too short",
    PassageProblem.REPEATED: "repeated",
    PassageProblem.COPY_OF_POSITIVE: "copy of a positive",
    PassageProblem.IN_CORPUS: "document of the corpus",
    PassageProblem.MISSING: "missing from the answer",
    PassageProblem.LLM_ERROR: "LLM error",
}


@dataclass(frozen=True, slots=True)
class RejectedPassage:
    """A row of ``rejected.jsonl``: what an LLM wrote for a query (or the end of its answer, where a passage is
    missing), and why it is not used. ``detail``: which error."""

    query_id: str
    text: str
    reason: PassageProblem
    detail: str = ""

    @property
    def message(self) -> str:
        """The reason for people.

        >>> RejectedPassage("q1", "", PassageProblem.LLM_ERROR, "timeout").message
        'LLM error: timeout'
        """
        message = _PASSAGE_MESSAGES[self.reason]
        return f"{message}: {self.detail}" if self.detail else message


def write_negatives(path: Path, negatives: Iterable[Negative]) -> None:
    """Write ``negatives.jsonl``, a row for each."""
    write_jsonl(path, (asdict(n) for n in negatives))


def write_rejected_passages(path: Path, rejected: Iterable[RejectedPassage]) -> None:
    """Write ``rejected.jsonl``, a row for each."""
    write_jsonl(path, (asdict(row) for row in rejected))


def read_negatives(path: Path) -> list[Negative]:
    """Read what ``write_negatives`` wrote. Raises ``InputError`` (file and line) for a row of another shape."""
    negatives = []
    for number, row in read_jsonl(path):
        try:
            reason = Reason(row["reason"]) if row.get("reason") else None
            negatives.append(Negative(**(row | {"reason": reason})))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {number}: not a negative ({error})") from None
    return negatives


def kept_negatives(path: Path) -> dict[str, list[str]]:
    """Query ID to the IDs of its kept negatives of all miners, in their order. Raises ``InputError`` as
    ``read_negatives`` does."""
    kept: dict[str, list[str]] = {}
    for negative in read_negatives(path):
        if negative.verdict == "kept":
            kept.setdefault(negative.query_id, []).append(negative.doc_id)
    return kept


def fraction_filtered(counts: Mapping[str, Any]) -> float | None:
    """The fraction of the candidates that filters took for relevant; None without filters."""
    filters = [values for name, values in counts.items() if name.startswith("filter ")]
    if not filters:
        return None
    given = sum(n for name, n in filters[0].items() if name.endswith(": candidates"))
    taken = sum(n for values in filters for name, n in values.items() if not name.endswith(": candidates"))
    return taken / given if given else None
