"""What people decided on a run's queries and negatives, which counts more than any filter.

A decision holds as long as the query has the text, and the negative the content, that the person saw: of what was made
anew since then nobody has said anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sharpen.evaluation.beir import Corpus, Queries, Query
from sharpen.evaluation.files import InputError, read_jsonl
from sharpen.evaluation.settings import UNHASHED, Settings
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.negatives.record import FINAL_REASONS, MinedRows, Negative, Reason
from sharpen.sdg.rejections import Problem, Rejection, RejectionReason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

STEP = "decisions"
"""``Rejection.step`` of what a person rejected, and the row of the funnel."""
ORIGINAL = "original_text"
"""In a corrected query's metadata: the text that was generated."""


class Decision(Settings):
    """``query``: the text of ``query_id``; of a pair the one that was generated, of a negative the one that it was
    mined for, corrected or not. ``who``, ``when``: for people (a name, ISO 8601)."""

    query_id: str
    query: str
    who: Annotated[str, UNHASHED] = ""
    when: Annotated[str, UNHASHED] = ""


class PairDecision(Decision):
    """``accept``: a query is kept, whatever the filters say. ``reject``: it is not. ``correct``: it is kept with
    ``text``. None: the decision is taken back."""

    kind: Literal["pair"] = "pair"
    decision: Literal["accept", "reject", "correct"] | None
    text: str | None = None

    @property
    def key(self) -> Hashable:
        return self.kind, self.query_id, self.query


class NegativeDecision(Decision):
    """``accept``: a document is a negative of the query, and drawn before others. ``reject``: it is never one.
    ``relevant``: it answers the query, and is trained on as a positive. None: the decision is taken back.
    ``copy_key``: of the document's text; the decision holds for copies, too."""

    kind: Literal["negative"] = "negative"
    document: Annotated[str, UNHASHED]
    copy_key: str
    decision: Literal["accept", "reject", "relevant"] | None

    @property
    def key(self) -> Hashable:
        return self.kind, self.query_id, self.query, self.copy_key


AnyDecision = Annotated[PairDecision | NegativeDecision, Field(discriminator="kind")]
_ROW: TypeAdapter[PairDecision | NegativeDecision] = TypeAdapter(AnyDecision)


@dataclass(frozen=True)
class Decisions:
    """Those that count, the last of each query and document, in an order of their own."""

    pairs: tuple[PairDecision, ...] = ()
    negatives: tuple[NegativeDecision, ...] = ()


def read_decisions(*paths: Path) -> Decisions:
    """What counts of files of decisions, one a line, the last ones last; nothing where there is no such file. Raises
    ``InputError`` (file and line) for a line that is no decision."""
    last: dict[Hashable, PairDecision | NegativeDecision] = {}
    for path in filter(Path.exists, paths):
        for number, row in read_jsonl(path):
            try:
                decision = _ROW.validate_python(row)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise InputError(f"{path}, line {number}: not a decision ({where}: {first['msg']})") from None
            last[decision.key] = decision
    kept = [last[key] for key in sorted(last, key=str) if last[key].decision]
    return Decisions(
        tuple(d for d in kept if isinstance(d, PairDecision)), tuple(d for d in kept if isinstance(d, NegativeDecision))
    )


def original_text(query: Query) -> str:
    """The text that a decision on the query names: the one before it was corrected.

    >>> original_text(Query("q", "How does ice flow?", {"original_text": "how do ice flow"}))
    'how do ice flow'
    """
    return query.metadata.get(ORIGINAL, query.text)


def decide_queries(
    result: FilterResult, queries: Sequence[Query], decisions: Sequence[PairDecision]
) -> tuple[FilterResult, int]:
    """What filters made of ``queries``, and a person of that, in the order of ``queries``; and how many decisions were
    on one of them.

    >>> asked = [Query(f"q{n}", text, {"positives": ["d"], "strategy": "document"}) for n, text in enumerate("abc")]
    >>> made = FilterResult(asked[:2], [Rejection.of(asked[2], "copying", Problem(RejectionReason.COPYING, 1, 0.5))])
    >>> row = {"query_id": "q0", "query": "a", "decision": "reject"}
    >>> more = [PairDecision(query_id="q1", query="b", decision="correct", text="B?")]
    >>> more.append(PairDecision(query_id="q2", query="c", decision="accept"))
    >>> decided, number = decide_queries(made, asked, [PairDecision(**row), *more])
    >>> [q.text for q in decided.kept], [r.message for r in decided.rejected], number
    (['B?', 'c'], ['a person rejected it'], 3)
    """
    by_query = {(d.query_id, d.query): d for d in decisions}
    kept = {q.id: q for q in result.kept}
    rejected = {r.query: r for r in result.rejected}
    made, number = FilterResult(passed=dict(result.passed), spending=result.spending), 0
    for query in queries:
        decision = by_query.get((query.id, query.text))
        number += decision is not None
        if decision is None and query.id in kept:
            made.kept.append(kept[query.id])
        elif decision is None:
            made.rejected += [rejected[query.id]] if query.id in rejected else []
        elif decision.decision == "reject":
            made.rejected.append(Rejection.of(query, STEP, Problem(RejectionReason.DECIDED)))
        else:
            made.kept.append(_corrected(kept.get(query.id, query), decision.text))
    made.rejected += [r for r in result.rejected if r.query is None]
    made.passed[STEP] = dict(Counter(q.metadata["strategy"] for q in made.kept))
    return made, number


def _corrected(query: Query, text: str | None) -> Query:
    return query if text is None else replace(query, text=text, metadata=query.metadata | {ORIGINAL: query.text})


@dataclass(frozen=True)
class DecidedNegatives:
    """A filter of negatives: what people decided on them. Positives and held-out documents stay what they are."""

    decisions: tuple[NegativeDecision, ...]
    kind: ClassVar[str] = STEP
    has_threshold: ClassVar[bool] = False

    def apply(
        self, rows: MinedRows, queries: Queries, corpus: Corpus, resources: Resources, seed: int
    ) -> dict[str, dict[str, list[Negative]]]:
        """The rows, with the verdicts of people."""
        decide = self._decide(queries, corpus)
        return {
            miner: {q: [decide(row) for row in of_query] for q, of_query in of_miner.items()}
            for miner, of_miner in rows.items()
        }

    def _decide(self, queries: Queries, corpus: Corpus) -> Callable[[Negative], Negative]:
        known = {
            (d.query_id, d.copy_key): d
            for d in self.decisions
            if d.query_id in queries and queries[d.query_id].text == d.query
        }
        asked = {query_id for query_id, _ in known}

        def decide(row: Negative) -> Negative:
            if row.query_id not in asked or row.reason in FINAL_REASONS:
                return row
            decision = known.get((row.query_id, corpus[row.doc_id].copy_key))
            return replace(row, **_VERDICTS[decision.decision]) if decision else row

        return decide


_VERDICTS: dict[str, dict[str, Any]] = {
    "accept": {"verdict": "candidate", "reason": Reason.DECIDED, "detail": "a person: a negative"},
    "reject": {"verdict": "dropped", "reason": Reason.DECIDED, "detail": "a person: no negative"},
    "relevant": {"verdict": "relabelled", "reason": Reason.DECIDED, "detail": "a person: relevant"},
}


def count_decided(rows: Iterable[Negative]) -> int:
    """Of the negatives, those with a person's verdict."""
    return sum(row.reason == Reason.DECIDED for row in rows)
