"""What several filters and several miners make of the same candidates: one verdict, counts, and whether a threshold
looks wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from sharpen.evaluation.beir import Corpus
from sharpen.sdg.negatives.record import MinedRows, Negative, Reason, Rows

MOST, LEAST = 0.5, 0.005
"""A filter that takes a larger, or a smaller fraction of the candidates is likely set wrong."""


def resolve_verdicts(rows: MinedRows, corpus: Corpus) -> dict[str, dict[str, list[Negative]]]:
    """One verdict for a query and a text, whichever miner offers it: what one miner's rows lose is no candidate in
    another's, nor are copies of what has become a positive, which it becomes once."""
    result = {miner: {q: list(of_query) for q, of_query in of_miner.items()} for miner, of_miner in rows.items()}
    for query_id in dict.fromkeys(q for of_miner in rows.values() for q in of_miner):
        verdicts = _verdicts_by_text(rows, query_id, corpus)
        relabelled: set[str] = set()
        for of_miner in result.values():
            for place, row in enumerate(of_miner.get(query_id, [])):
                key = corpus[row.doc_id].copy_key
                if (verdict := verdicts.get(key)) is None or row.verdict == "dropped":
                    continue
                if row.verdict == verdict.verdict == "relabelled" and key not in relabelled:
                    relabelled.add(key)
                else:
                    of_miner[query_id][place] = _dropped(row, verdict)
    return result


def _verdicts_by_text(rows: MinedRows, query_id: str, corpus: Corpus) -> dict[str, Negative]:
    """Key of a text to the row that decides on it: one that was relabelled, or else the first that was dropped."""
    verdicts: dict[str, Negative] = {}
    for of_miner in rows.values():
        for row in of_miner.get(query_id, ()):
            key = corpus[row.doc_id].copy_key
            if row.verdict == "relabelled" or (row.verdict == "dropped" and key not in verdicts):
                verdicts[key] = row
    return verdicts


def _dropped(row: Negative, verdict: Negative) -> Negative:
    if verdict.verdict == "dropped":
        return replace(row, verdict="dropped", reason=verdict.reason, detail=verdict.detail)
    return replace(row, verdict="dropped", reason=Reason.COPY_OF_POSITIVE, detail="")


@dataclass(frozen=True)
class FilterCounts:
    """``candidates`` that a filter was given, and how many of them it dropped or relabelled.

    >>> FilterCounts(candidates=10, dropped=3, relabelled=1).fraction
    0.4
    """

    candidates: int
    dropped: int
    relabelled: int = 0

    @property
    def fraction(self) -> float:
        """Of the candidates, those that it took out; 0 where it was given none."""
        return 1 - (self.candidates - self.dropped - self.relabelled) / self.candidates if self.candidates else 0.0

    def to_dict(self) -> dict[str, int]:
        """For the manifest; without ``relabelled`` where there are none."""
        counts = {"candidates": self.candidates, "dropped": self.dropped}
        return counts | ({"relabelled": self.relabelled} if self.relabelled else {})


def filter_counts(before: Rows, after: Rows) -> FilterCounts:
    """What a filter did to the rows of a miner."""
    given, left = _number(before, "candidate"), _number(after, "candidate")
    relabelled = _number(after, "relabelled") - _number(before, "relabelled")
    return FilterCounts(given, given - left - relabelled, relabelled)


def _number(rows: Rows, verdict: str) -> int:
    return sum(n.verdict == verdict for of_query in rows.values() for n in of_query)


class ThresholdProblem(StrEnum):
    TAKES_MOST = "takes_most"
    TAKES_NEARLY_NOTHING = "takes_nearly_nothing"


@dataclass(frozen=True)
class ThresholdWarning:
    """A filter that takes most of the candidates, or nearly none: ``fraction`` of them.

    >>> print(threshold_warning(FilterCounts(candidates=10, dropped=6)))
    60% of the candidates: its threshold is likely not that of this model and corpus
    """

    kind: ThresholdProblem
    fraction: float

    @property
    def message(self) -> str:
        """For people."""
        if self.kind == ThresholdProblem.TAKES_MOST:
            return f"{self.fraction:.0%} of the candidates: its threshold is likely not that of this model and corpus"
        return f"{self.fraction:.1%} of the candidates, which is nearly nothing"

    def __str__(self) -> str:
        return self.message


def threshold_warning(counts: FilterCounts) -> ThresholdWarning | None:
    """None: between 0.5 % and half of the candidates were taken, or there were none."""
    if not counts.candidates:
        return None
    if counts.fraction > MOST:
        return ThresholdWarning(ThresholdProblem.TAKES_MOST, counts.fraction)
    if counts.fraction < LEAST:
        return ThresholdWarning(ThresholdProblem.TAKES_NEARLY_NOTHING, counts.fraction)
    return None
