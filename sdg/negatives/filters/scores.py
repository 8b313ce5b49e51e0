"""Filters by a score: a candidate that scores above its query's limit is likely relevant."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Queries
from sharpen.evaluation.scorers import BASE, ENCODER, ScorerName, needs_base
from sharpen.evaluation.settings import CrossEncoderName, EncoderName, Settings
from sharpen.sdg.negatives.base import FilteredRows
from sharpen.sdg.negatives.filters.calibration import (
    Calibration,
    PairScores,
    calibrate,
    positive_pairs,
    random_pairs,
)
from sharpen.sdg.negatives.record import MinedRows, Negative, Reason, Rows

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

Auto = Literal["auto"]
Limit = Callable[[str], float]
"""Query ID to the highest score that a negative of it may have."""


class ScoreFilter(Settings):
    """What the filters by a score have in common: all but the limit."""

    @abstractmethod
    def scored_by(self) -> ScorerName:
        """Whose scores these are."""

    @abstractmethod
    def limit(self, calibration: Calibration) -> tuple[Limit, str]:
        """The highest score of a negative, and how a candidate above it is described."""

    def needs_base(self) -> bool:
        """Whether the base's scores are a part of the scorer's."""
        return needs_base(self.scored_by())

    def apply(self, rows: MinedRows, queries: Queries, corpus: Corpus, resources: Resources, seed: int) -> FilteredRows:
        """Drop the candidates above the limit. Raises ``InputError`` if the scorer's model cannot be loaded."""
        pairs = [
            (n.query_id, n.doc_id)
            for of_miner in rows.values()
            for of_query in of_miner.values()
            for n in of_query
            if n.verdict == "candidate"
        ]
        if not pairs:
            return FilteredRows(rows)
        by_chance = random_pairs(queries, corpus, seed)
        pairs = list(dict.fromkeys([*pairs, *positive_pairs(queries.values()), *by_chance]))
        scores = resources.models.score(self.scored_by(), pairs, queries, corpus)
        calibration = calibrate(queries.values(), scores, [scores[pair] for pair in by_chance])
        limit, detail = self.limit(calibration)
        return FilteredRows({miner: drop_above(of_miner, scores, limit, detail) for miner, of_miner in rows.items()})


def drop_above(rows: Rows, scores: PairScores, limit: Limit, detail: str) -> dict[str, list[Negative]]:
    """Drop the candidates that score above their query's limit, with the reason ``Reason.SCORE`` and ``detail``."""
    return {
        query_id: [
            (
                replace(n, verdict="dropped", reason=Reason.SCORE, detail=detail)
                if n.verdict == "candidate" and scores[query_id, n.doc_id] > limit(query_id)
                else n
            )
            for n in of_query
        ]
        for query_id, of_query in rows.items()
    }


def _same_for_all(kind: str, highest: float | Auto, calibration: Calibration) -> tuple[Limit, str]:
    limit = calibration.absolute() if highest == "auto" else highest
    return lambda _query: limit, f"{kind}: above {limit:.3g}"


class ScoredByAny(ScoreFilter):
    scorer: ScorerName = Field(
        BASE,
        description=(
            "Who scores: base (the base of the training, by cosine), bm25, encoder:<name> for another bi-encoder, or a"
            " cross-encoder's folder or name."
        ),
    )

    def scored_by(self) -> ScorerName:
        return self.scorer


class Absolute(ScoredByAny):
    """A highest score for all queries.

    >>> limit, detail = Absolute().limit(Calibration({"q1": 0.9, "q2": 0.7}, random=0.1))
    >>> round(limit("q1"), 2), detail
    (0.75, 'absolute: above 0.75')
    """

    kind: Literal["absolute"] = "absolute"
    max: float | Auto = Field(
        "auto", description="Highest score of a negative. auto: what a quarter of the known positives stay below."
    )

    def limit(self, calibration: Calibration) -> tuple[Limit, str]:
        return _same_for_all(self.kind, self.max, calibration)


class Margin(ScoredByAny):
    """A distance to the positive's score.

    >>> limit, detail = Margin(min=0.2).limit(Calibration({"q1": 0.9}, random=0.1))
    >>> round(limit("q1"), 2), detail
    (0.7, 'margin: less than 0.2 below the positive')
    """

    kind: Literal["margin"] = "margin"
    min: float | Auto = Field(
        "auto",
        description=(
            "What a negative's score is below the positive's at least. auto: a twentieth of the way from random"
            " documents to the positive, for the query in the middle."
        ),
    )

    def limit(self, calibration: Calibration) -> tuple[Limit, str]:
        least = calibration.margin() if self.min == "auto" else self.min
        return lambda query: calibration.positives[query] - least, f"margin: less than {least:.3g} below the positive"


class Percentage(ScoredByAny):
    """A fraction of the positive's score; as far below it where that is negative, as a cross-encoder's logit may be.

    >>> limit, detail = Percentage(max=0.95).limit(Calibration({"q1": 0.8, "q2": -4.0}, random=-9.0))
    >>> round(limit("q1"), 2), round(limit("q2"), 2), detail
    (0.76, -4.2, "percentage: above 0.95 of the positive's score")
    """

    kind: Literal["percentage"] = "percentage"
    max: Annotated[float, Field(gt=0)] | Auto = Field(
        "auto",
        description=(
            "Highest fraction of the positive's score (TopK-PercPos in NV-Retriever: 0.95), and as far below it where"
            " it is negative. auto: 0.95 of the way from random documents to the positive, which holds for any model."
        ),
    )

    def limit(self, calibration: Calibration) -> tuple[Limit, str]:
        if self.max == "auto":
            return calibration.near_positive, "percentage: nearer to the positive than calibrated"
        highest = self.max

        def limit(query: str) -> float:
            positive = calibration.positives[query]
            # 0.95 of a negative score lies above it: 1.05 of it is as far below
            return positive * (highest if positive >= 0 else 2 - highest)

        return limit, f"percentage: above {highest:g} of the positive's score"


class CrossEncoderLimit(ScoreFilter):
    """A highest score by a cross-encoder."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    model: CrossEncoderName = Field(description="A reranker: a folder or a hub name; safetensors only.")
    max: float | Auto = Field("auto", description="Highest score of a negative, a logit. auto: as of absolute.")

    def scored_by(self) -> ScorerName:
        return self.model

    def limit(self, calibration: Calibration) -> tuple[Limit, str]:
        return _same_for_all(self.kind, self.max, calibration)


class Guide(ScoreFilter):
    """No negative is nearer to the query than its positive, by an encoder (GISTEmbed)."""

    kind: Literal["guide"] = "guide"
    model: EncoderName | None = Field(
        None, description="An encoder; null: the base. A negative stays below the positive by its cosine."
    )

    def scored_by(self) -> ScorerName:
        return f"{ENCODER}{self.model}" if self.model else BASE

    def limit(self, calibration: Calibration) -> tuple[Limit, str]:
        return lambda query: calibration.positives[query], "guide: above the positive"
