"""Is the difference real? Intervals, a paired test and one word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel
from scipy import stats

Verdict = Literal["better", "worse", "not distinguishable"]
LEVEL = 0.95
RESAMPLES = 10_000


class Estimate(BaseModel):
    """A mean over queries with its 95 % percentile bootstrap interval over queries."""

    value: float
    interval: tuple[float, float]


class Difference(Estimate):
    """After minus before over the same queries: the interval is of the paired differences."""

    p: float
    wins: int
    ties: int
    losses: int
    verdict: Verdict


def estimate(values: Mapping[str, float], seed: int = 0) -> Estimate:
    """Mean and interval of one metric's values per query. The same seed gives the same interval."""
    array = np.fromiter(values.values(), dtype=float)
    return Estimate(value=float(array.mean()), interval=_interval(array, seed))


def compare(before: Mapping[str, float], after: Mapping[str, float], seed: int = 0) -> Difference:
    """Compare two systems on the same queries.

    ``p``: two-sided paired permutation test (10,000 resamples; exact where there are fewer permutations). The verdict is
    better or worse only if the interval leaves zero out and p < 0.05. Raises ``ValueError`` if the queries are not the same.
    """
    if before.keys() != after.keys():
        raise ValueError("the two systems were not scored on the same queries")
    differences = np.array([after[q] - before[q] for q in before])
    interval = _interval(differences, seed)
    p = 1.0
    if differences.any():
        p = stats.permutation_test(
            (np.array([after[q] for q in before]), np.array([before[q] for q in before])),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, batch=1000, rng=np.random.default_rng(seed),
        ).pvalue  # fmt: skip
    verdict: Verdict = "not distinguishable"
    if p < 1 - LEVEL and (interval[0] > 0 or interval[1] < 0):
        verdict = "better" if interval[0] > 0 else "worse"
    return Difference(
        value=float(differences.mean()), interval=interval, p=float(p), verdict=verdict,
        wins=int((differences > 0).sum()), ties=int((differences == 0).sum()), losses=int((differences < 0).sum()),
    )  # fmt: skip


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    result = stats.bootstrap((values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile", batch=1000, rng=np.random.default_rng(seed))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
