"""Why a query was not kept: a reason from a fixed list, with the numbers that it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Query
from sharpen.evaluation.files import read_jsonl, write_jsonl
from sharpen.sdg.llm.messages import OVER_BUDGET, Answer
from sharpen.sdg.llm.servers import Kind


class RejectionReason(StrEnum):
    """What was wrong with a query, or with the answer that should have held it."""

    # the answer
    LLM_ERROR = "llm_error"
    REFUSED = "refused"
    PROMPT_TOO_LONG = "prompt_too_long"
    THOUGHTS_TOO_LONG = "thoughts_too_long"
    OVER_BUDGET = "over_budget"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    TRUNCATED = "truncated"
    # its text
    EMPTY = "empty"
    NO_WORDS = "no_words"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    SELF_REFERENCE = "self_reference"
    COPIED_FROM_DOCUMENT = "copied_from_document"
    WRONG_LANGUAGE = "wrong_language"
    NO_METADATA = "no_metadata"
    COPIED_FROM_EXAMPLE = "copied_from_example"
    DUPLICATE = "duplicate"
    # multi-hop questions
    INVALID_SCHEMA = "invalid_schema"
    UNKNOWN_SEGMENT = "unknown_segment"
    WRONG_QUERY_TYPE = "wrong_query_type"
    SAME_SEGMENTS = "same_segments"
    WRONG_HOP_COUNT = "wrong_hop_count"
    TOO_SIMPLE = "too_simple"
    # filters
    COPYING = "copying"
    NEAR_DUPLICATE = "near_duplicate"
    NOT_RETRIEVED = "not_retrieved"
    LOW_CROSS_ENCODER_SCORE = "low_cross_encoder_score"
    NOT_AMONG_TOP = "not_among_top"
    LOW_JUDGE_SCORE = "low_judge_score"
    JUDGE_MISMATCH = "judge_mismatch"
    # the split
    SEVERAL_SPLITS = "several_splits"
    # a person
    DECIDED = "decided"
    # whatever a user's own strategy or filter says
    OTHER = "other"


_MESSAGES: dict[RejectionReason, str] = {
    RejectionReason.LLM_ERROR: "LLM error: {detail}",
    RejectionReason.REFUSED: "the LLM's server refuses it: {detail}",
    RejectionReason.PROMPT_TOO_LONG: "longer than the LLM's context, however little of the document is shown",
    RejectionReason.THOUGHTS_TOO_LONG: (
        "the LLM's thoughts took all of max_tokens: raise it (llm.extra_body: {{max_tokens: 4000}} for all uses of the"
        " LLM), or turn thinking off"
    ),
    RejectionReason.OVER_BUDGET: "over budget",
    RejectionReason.UNREADABLE: "not readable: {detail}",
    RejectionReason.MISSING: "missing from the answer",
    RejectionReason.TRUNCATED: "cut off at max_tokens",
    RejectionReason.EMPTY: "empty",
    RejectionReason.NO_WORDS: "no words",
    RejectionReason.TOO_SHORT: "too short: {value:g} of {limit:g} words",
    RejectionReason.TOO_LONG: "too long: {value:g} words, {limit:g} at most",
    RejectionReason.SELF_REFERENCE: "refers to the document itself",
    RejectionReason.COPIED_FROM_DOCUMENT: "copied from the document",
    RejectionReason.WRONG_LANGUAGE: "not in the language {detail}",
    RejectionReason.NO_METADATA: "names none of the metadata",
    RejectionReason.COPIED_FROM_EXAMPLE: "copied from an example of the prompt",
    RejectionReason.DUPLICATE: "duplicate of another query",
    RejectionReason.INVALID_SCHEMA: "not the schema: {detail}",
    RejectionReason.UNKNOWN_SEGMENT: "names a segment that it was not shown",
    RejectionReason.WRONG_QUERY_TYPE: "of type {detail}, which was not asked for",
    RejectionReason.SAME_SEGMENTS: "not multi-hop: its hops rest on the same segments",
    RejectionReason.WRONG_HOP_COUNT: "{value:g} hops, not {detail}",
    RejectionReason.TOO_SIMPLE: "complexity {value:g} is below {limit:g}",
    RejectionReason.COPYING: "{value:.0%} of its n-grams are the document's, {limit:.0%} at most",
    RejectionReason.NEAR_DUPLICATE: "near-duplicate of {detail}: cosine {value:.3f}, from {limit:g} on",
    RejectionReason.NOT_RETRIEVED: "its document is not among the first {limit:g} retrieved ({rank})",
    RejectionReason.LOW_CROSS_ENCODER_SCORE: "cross-encoder: logit {value:.2f} is below {limit:g}",
    RejectionReason.NOT_AMONG_TOP: "not among the first {limit:g} of its document's queries ({rank}, {detail})",
    RejectionReason.LOW_JUDGE_SCORE: "judge: overall {value:g} is below {limit:g}",
    RejectionReason.JUDGE_MISMATCH: "judge: its answer does not match its pairs",
    RejectionReason.SEVERAL_SPLITS: "its documents are in several splits, or in none",
    RejectionReason.DECIDED: "a person rejected it",
    RejectionReason.OTHER: "{detail}",
}


@dataclass(frozen=True)
class Problem:
    """A reason and what it rests on.

    ``value``: what was measured (a rank, a fraction, a cosine, a logit, a score from 0 to 10, a number of words); None
    where nothing was (a document that was not retrieved at all). ``limit``: what it was compared with. ``detail``: the
    ID, the language or the error that the reason names.

    >>> Problem(RejectionReason.LOW_JUDGE_SCORE, value=6.5, limit=7).message
    'judge: overall 6.5 is below 7'
    """

    reason: RejectionReason
    value: float | None = None
    limit: float | None = None
    detail: str = ""

    @property
    def message(self) -> str:
        """For people; nothing reads it."""
        rank = "not at all" if self.value is None else f"rank {self.value:g}"
        return _MESSAGES[self.reason].format(value=self.value, limit=self.limit, detail=self.detail, rank=rank)

    @property
    def borderline(self) -> bool:
        """Whether a little would have been enough: a rank up to twice the limit, an overall score less than a point
        below, a copied fraction less than halfway from the limit to 1, a cosine likewise."""
        if self.value is None or self.limit is None:
            return False
        match self.reason:
            case RejectionReason.NOT_RETRIEVED | RejectionReason.NOT_AMONG_TOP:
                return self.value <= 2 * self.limit
            case RejectionReason.LOW_JUDGE_SCORE | RejectionReason.LOW_CROSS_ENCODER_SCORE:
                return self.value > self.limit - 1
            case RejectionReason.COPYING | RejectionReason.NEAR_DUPLICATE:
                return self.value < (1 + self.limit) / 2
        return False


@dataclass(frozen=True)
class Rejection:
    """A query that was not kept, as a row of ``rejected.jsonl``.

    ``document``: the first that it was written for. ``strategy``: its name. ``step``: ``generation``, the name of the
    filter, or ``split``. ``query``: its ID; None for what was no query yet, which has its ``unit`` (and place in the
    answer, ``sample``) instead. ``text``: the query, or the answer that could not be read. ``more``: all scores of a
    judge, or its answer.
    """

    problem: Problem
    text: str
    document: str
    strategy: str
    step: str
    query: str | None = None
    unit: str | None = None
    sample: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Query, step: str, problem: Problem, **more: Any) -> Rejection:
        """Of a query that was generated, by a filter."""
        document, strategy = query.metadata["positives"][0], str(query.metadata.get("strategy", "unknown"))
        return cls(problem, query.text, document, strategy, step, query=query.id, more=more)

    @property
    def reason(self) -> RejectionReason:
        return self.problem.reason

    @property
    def message(self) -> str:
        return self.problem.message

    @property
    def borderline(self) -> bool:
        return self.problem.borderline

    def to_row(self) -> dict[str, Any]:
        """A flat row for JSON: the fields, with ``message`` and ``borderline`` for whoever reads it."""
        row = {
            key: value for key, value in asdict(self).items() if key not in ("problem", "more") and value is not None
        }
        problem = {key: value for key, value in asdict(self.problem).items() if value not in (None, "")}
        derived = {"message": self.message, "borderline": self.borderline}
        return row | problem | derived | ({"more": self.more} if self.more else {})

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Rejection:
        """The rejection that ``to_row`` wrote."""
        problem = Problem(RejectionReason(row["reason"]), row.get("value"), row.get("limit"), row.get("detail", ""))
        fields = ("text", "document", "strategy", "step", "query", "unit", "sample", "more")
        return cls(problem, **{key: row[key] for key in fields if key in row})


def answer_problem(answer: Answer) -> Problem | None:
    """Why an answer brings nothing, whatever was asked for; None: it has to be read.

    >>> answer_problem(Answer("", "length")).reason.value
    'thoughts_too_long'
    """
    if answer.error_kind == OVER_BUDGET:
        return Problem(RejectionReason.OVER_BUDGET)
    if answer.error_kind == Kind.TOO_LONG:
        return Problem(RejectionReason.PROMPT_TOO_LONG)
    if answer.held_back or answer.error_kind in (Kind.FILTERED, Kind.REFUSED):
        return Problem(RejectionReason.REFUSED, detail=answer.error_kind or Kind.FILTERED.value)
    if answer.error:
        return Problem(RejectionReason.LLM_ERROR, detail=answer.error_kind)
    return Problem(RejectionReason.THOUGHTS_TOO_LONG) if answer.ate_budget else None


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Reason to number of queries, the most frequent first."""
    return dict(Counter(str(row.reason) for row in rejected).most_common())


def write_rejections(path: Path, rejected: Iterable[Rejection]) -> None:
    write_jsonl(path, (row.to_row() for row in rejected))


def read_rejections(path: Path) -> list[Rejection]:
    return [Rejection.from_row(row) for _, row in read_jsonl(path)]
