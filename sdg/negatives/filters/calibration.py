"""Limits that hold for any scorer: set by what it gives known positives and random documents."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sharpen.evaluation.beir import Corpus, Queries, Query

PairScores = Mapping[tuple[str, str], float]
"""(Query ID, document ID) to a score."""

NEAR_POSITIVE = 0.95
"""How far from random documents (0) to the positive (1) a document may be and still be a negative, where that is
calibrated. NV-Retriever found 0.95 of the positive's score the best of those that it tried, for a model whose random
documents score near 0."""
QUANTILE = 0.25
"""Of known positives, this fraction scores lower than the absolute limit that is calibrated."""
CALIBRATION_QUERIES = 500
"""Queries whose positives and random documents a limit is calibrated with, at most."""
RANDOM_DOCUMENTS = 5
"""Of each of these queries."""


@dataclass(frozen=True)
class Calibration:
    """Where a scorer puts what is known: the positives of each query (the lowest of several), and documents drawn at
    random (``random``: their mean score).

    Thresholds do not transfer between models, as their scores begin and end elsewhere: random documents have a cosine
    of 0.05 by one model and of 0.75 by another. What is between random documents (0) and the positive (1) has a place
    on the same scale for all of them, and that is where limits are set.

    >>> calibration = Calibration({"q1": 0.9, "q2": 0.7}, random=0.1)
    >>> round(calibration.near_positive("q1"), 2), round(calibration.margin(), 3), round(calibration.absolute(), 2)
    (0.86, 0.035, 0.75)
    """

    positives: Mapping[str, float]
    random: float

    def absolute(self) -> float:
        """The score that a quarter of the positives stay below."""
        return float(np.quantile(list(self.positives.values()), QUANTILE))

    def margin(self) -> float:
        """For the query in the middle, the distance from the positive to ``NEAR_POSITIVE`` of the way to it."""
        return (1 - NEAR_POSITIVE) * float(np.median([p - self.random for p in self.positives.values()]))

    def near_positive(self, query_id: str) -> float:
        """For each query the score at ``NEAR_POSITIVE`` of the way from random documents to its positive."""
        return self.random + NEAR_POSITIVE * (self.positives[query_id] - self.random)


def calibrate(queries: Iterable[Query], scores: PairScores, random_scores: Iterable[float]) -> Calibration:
    """``scores``: of each query's positives; ``random_scores``: of the queries with documents drawn at random."""
    positives = {q.id: min(scores[q.id, i] for i in q.metadata["positives"]) for q in queries}
    return Calibration(positives, float(np.mean(list(random_scores))))


def random_pairs(queries: Queries, corpus: Corpus, seed: int) -> list[tuple[str, str]]:
    """Query IDs with document IDs that have nothing to do with each other, but for the odd one: up to 5 documents of up
    to 500 queries."""
    rng = random.Random(f"{seed}/calibration")
    ids = sorted(corpus)
    return [
        (q, i)
        for q in rng.sample(sorted(queries), min(CALIBRATION_QUERIES, len(queries)))
        for i in rng.sample(ids, min(RANDOM_DOCUMENTS, len(ids)))
        if i not in queries[q].metadata["positives"]
    ]


def positive_pairs(queries: Iterable[Query]) -> list[tuple[str, str]]:
    """Query IDs with the IDs of their positives."""
    return [(q.id, i) for q in queries for i in q.metadata["positives"]]
