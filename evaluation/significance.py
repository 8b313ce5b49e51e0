"""Is a difference real? Intervals, a paired permutation test, a verdict, and how many queries it would take.

Queries about the same document are correlated, so groups of them are resampled and have their signs flipped together. A
query that nothing ties to another is a group of its own. A single group says nothing of others: the interval is then as
wide as values can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from pydantic import BaseModel
from scipy import optimize, stats

from sharpen.evaluation.beir import Corpus, Qrels

Verdict = Literal["better", "worse", "not distinguishable"]
LEVEL = 0.95
POWER = 0.8
RESAMPLES = 10_000

OF_VALUES, OF_DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""What a metric, and the difference of two values of it, can be."""

Groups = Mapping[str, str]
"""Query ID to the name of its group, as its document's ID."""


class Estimate(BaseModel):
    """A mean over queries with its 95 % percentile bootstrap interval."""

    value: float
    interval: tuple[float, float]


class Difference(Estimate):
    """After minus before over the same queries: the interval is of the paired differences, drawn by group."""

    interval_by_query: tuple[float, float]
    """As if all queries were independent: too narrow where they are not."""
    groups: int
    p: float
    """Two-sided, of the paired permutation test."""
    wins: int
    ties: int
    losses: int
    effect: float | None = None
    """Cohen's d of the paired differences: their mean in standard deviations. None where they are all the same."""
    detectable: float | None = None
    """The least gain that would be found with a probability of 0.8 by so many queries like these."""
    needed: int | None = None
    """Queries like these by which a gain of this size would be found with a probability of 0.8; None for no
    difference."""
    verdict: Verdict


def document_groups(qrels: Qrels, corpus: Corpus | None = None) -> dict[str, str]:
    """Queries with the same most relevant document (of equal grades, the first by ID) form a group.

    With ``corpus``, chunks stand for their document. Only one document of a query counts: by all of them, a collection
    with a few hundred judgments to a query would be a single group.

    >>> document_groups({"q1": {"a": 2, "b": 1}, "q2": {"a": 1}})
    {'q1': 'a', 'q2': 'a'}
    """
    best = {query: min(grades, key=lambda i: (-grades[i], i)) for query, grades in qrels.items() if grades}
    return {query: corpus[i].doc_id if corpus and i in corpus else i for query, i in best.items()}


def estimate(
    values: Mapping[str, float],
    seed: int = 0,
    groups: Groups | None = None,
    resamples: int = RESAMPLES,
    widest: tuple[float, float] = OF_VALUES,
) -> Estimate:
    """Mean of one metric's values by query, with its interval. The same seed gives the same interval. ``widest``: what
    a value can be, which is the interval of a single group.

    >>> estimate({"q1": 0.5, "q2": 1.0, "q3": 0.0}).value
    0.5
    """
    sums, sizes = _by_group(values, groups)
    return Estimate(value=float(sums.sum() / sizes.sum()), interval=_interval(sums, sizes, seed, resamples, widest))


def paired_difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    seed: int = 0,
    groups: Groups | None = None,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compare two systems' scores by query on the same queries.

    ``groups``: as ``document_groups`` gives them; None: each query is one. ``p``: of the two-sided paired permutation
    test by group (10,000 resamples; exact where there are fewer permutations). The verdict is better or worse only if
    the interval excludes zero and p < 0.05. Raises ``ValueError`` if the queries are not the same, or there is none.

    >>> before = {f"q{i}": 0.5 for i in range(20)}
    >>> d = paired_difference(before, {q: score + 0.1 for q, score in before.items()})
    >>> round(d.value, 3), d.verdict, (d.wins, d.ties, d.losses)
    (0.1, 'better', (20, 0, 0))
    """
    if before.keys() != after.keys():
        raise ValueError("the two systems were not scored on the same queries")
    differences = {query: after[query] - before[query] for query in before}
    sums, sizes = _by_group(differences, groups)
    each = np.fromiter(differences.values(), dtype=float)
    value, interval = float(each.mean()), _interval(sums, sizes, seed, resamples, OF_DIFFERENCES)
    p = 1.0
    if len(sums) > 1 and sums.any():
        p = stats.permutation_test(
            (sums, np.zeros_like(sums)),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=1000,
            rng=np.random.default_rng(seed),
        ).pvalue
    verdict: Verdict = "not distinguishable"
    if p < 1 - LEVEL and (interval[0] > 0 or interval[1] < 0):
        verdict = "better" if interval[0] > 0 else "worse"
    deviation = float(each.std(ddof=1)) if len(each) > 1 else 0.0
    error = _standard_error(sums, sizes)
    return Difference(
        value=value,
        interval=interval,
        interval_by_query=(
            interval if len(sums) == len(each) else _interval(each, np.ones(len(each)), seed, resamples, OF_DIFFERENCES)
        ),
        groups=len(sums),
        p=float(p),
        verdict=verdict,
        wins=int((each > 0).sum()),
        ties=int((each == 0).sum()),
        losses=int((each < 0).sum()),
        effect=value / deviation if deviation else None,
        detectable=_quantiles() * error if error else None,
        needed=queries_needed(value, error * len(each) ** 0.5) if error and value else None,
    )


class SeededDifference(Estimate):
    """The second minus the first, over queries and seeds, on the mean of one or more collections."""

    p: float
    """Two-sided: the least level at which the interval excludes zero."""
    error_of_queries: float
    """Standard error due to the sample of queries (by group)."""
    error_of_seeds: float
    """Standard error due to the seeds of training; 0 with a single seed, where it is not known."""
    seeds: int
    verdict: Verdict


@dataclass(frozen=True)
class Seeded:
    """Two systems on one collection: of each seed the scores by query."""

    first: Sequence[Mapping[str, float]]
    second: Sequence[Mapping[str, float]]
    groups: Groups | None = None


@dataclass(frozen=True)
class SeedVariance:
    """How much a difference varies from seed to seed."""

    variance: float
    """Of the difference with one seed."""
    freedom: int
    """Degrees of freedom."""


def seed_variance(means: Sequence[Sequence[float]]) -> SeedVariance | None:
    """Variance of the difference between two of several arms, pooled over all of them.

    ``means``: for each arm, its mean score with each seed. An effect that a seed has on all arms cancels in a
    difference, so the variance is twice the residual of the two-way layout; it is not for differences to something that
    no seed changes, as the untuned model. None where there are fewer than two arms or seeds.
    """
    table = np.asarray(means, dtype=float)
    if min(table.shape) < 2:
        return None
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return SeedVariance(2 * float((rest**2).sum() / freedom), freedom)


def seeded_difference(parts: Sequence[Seeded], pooled: SeedVariance | None = None) -> SeededDifference:
    """Compare two arms of training over their seeds, on the mean of the collections' means.

    Tested is whether the second is better on other queries *and* with other seeds. Another seed shifts all queries
    together, so resampling queries alone would find differences between an arm and itself. The variance of the mean has
    a part due to queries (by group, of each query's mean over the seeds) and one due to seeds (of the mean difference
    with each). Each part has the t quantile of its degrees of freedom, and the squares of both half-widths are added:
    with three seeds, Welch and Satterthwaite's degrees for the sum would call 8 of 100 comparisons of an arm with
    itself different where seeds matter more than queries. ``pooled``: the seeds' part estimated from more than these
    two arms, as three seeds of two say little of it. The n-th run of one arm is compared with the n-th of the other.
    Raises ``ValueError`` if the queries or the numbers of seeds are not the same.

    >>> before, after = {"q1": 0.2, "q2": 0.5, "q3": 0.1}, {"q1": 0.4, "q2": 0.6, "q3": 0.1}
    >>> d = seeded_difference([Seeded([before, before], [after, after])])
    >>> round(d.value, 3), d.seeds, d.verdict
    (0.1, 2, 'not distinguishable')
    """
    seeds = len(parts[0].first)
    if any(len(side) != seeds for part in parts for side in (part.first, part.second)):
        raise ValueError("the two were not run with the same number of seeds")
    values, variances, squares_by_freedom, is_alone = [], [], 0.0, False
    by_seed = np.zeros(seeds)
    for part in parts:
        by_query = _differences_by_query(part)
        sums, sizes = _by_group({query: float(np.mean(row)) for query, row in by_query.items()}, part.groups)
        is_alone |= len(sums) < 2
        values.append(float(sums.sum() / sizes.sum()))
        variances.append(_standard_error(sums, sizes) ** 2)
        squares_by_freedom += variances[-1] ** 2 / max(1, len(sums) - 1)
        by_seed += np.mean(list(by_query.values()), axis=0) / len(parts)
    value, of_queries = float(np.mean(values)), sum(variances) / len(parts) ** 2
    if pooled:
        of_seeds, seeds_freedom = pooled.variance / seeds, pooled.freedom
    else:
        of_seeds, seeds_freedom = (float(np.var(by_seed, ddof=1)) / seeds if seeds > 1 else 0.0), max(1, seeds - 1)
    if is_alone or not of_queries + of_seeds:
        half, p = 0.0, 1.0
    else:
        queries_freedom = of_queries**2 / (squares_by_freedom / len(parts) ** 4) if of_queries else 1.0
        half, p = _half_width_and_p(value, (of_queries, of_seeds), (queries_freedom, seeds_freedom))
    verdict: Verdict = ("better" if value > 0 else "worse") if p < 1 - LEVEL else "not distinguishable"
    return SeededDifference(
        value=value,
        interval=OF_DIFFERENCES if is_alone else (value - half, value + half),
        p=p,
        error_of_queries=of_queries**0.5,
        error_of_seeds=of_seeds**0.5,
        seeds=seeds,
        verdict=verdict,
    )


def _differences_by_query(part: Seeded) -> dict[str, list[float]]:
    """Query ID to the difference with each seed."""
    queries = part.first[0].keys()
    if any(run.keys() != queries for run in (*part.first, *part.second)):
        raise ValueError("the two systems were not scored on the same queries")
    pairs = list(zip(part.first, part.second, strict=True))
    return {q: [after[q] - before[q] for before, after in pairs] for q in queries}


def _half_width_and_p(
    value: float, variances: tuple[float, float], freedoms: tuple[float, float]
) -> tuple[float, float]:
    """Half of the 95 % interval's width, and p of ``value``, where two variances are added."""

    def half_width(alpha: float) -> float:
        quantiles = [float(stats.t.isf(alpha / 2, freedom)) for freedom in freedoms]
        return sum(t**2 * variance for t, variance in zip(quantiles, variances, strict=True)) ** 0.5

    low = 1e-12
    if abs(value) >= half_width(low):
        return half_width(1 - LEVEL), low
    return half_width(1 - LEVEL), float(optimize.brentq(lambda alpha: half_width(alpha) - abs(value), low, 1.0))


def queries_needed(gain: float, deviation: float) -> int:
    """Queries by which a true ``gain`` is found significant (two-sided, 5 %) with a probability of 0.8, where the
    paired differences have this standard deviation (normal approximation).

    >>> queries_needed(0.05, 0.25)
    197
    """
    return ceil((_quantiles() * deviation / gain) ** 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for the number of comparisons (Holm 1979), in the order given.

    Below 0.05, all differences found are real with a probability of 95 %.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, row in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[row] * (len(p_values) - rank)))
        adjusted[row] = highest
    return adjusted


def _quantiles() -> float:
    return float(stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(POWER))


def _by_group(values: Mapping[str, float], groups: Groups | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of queries of each group, in the order in which the groups first come."""
    if not values:
        raise ValueError("no query to compare on")
    sums: dict[tuple[str, str], float] = {}
    sizes: dict[tuple[str, str], int] = {}
    for query, value in values.items():
        key = ("query", query) if groups is None or query not in groups else ("group", groups[query])
        sums[key] = sums.get(key, 0.0) + value
        sizes[key] = sizes.get(key, 0) + 1
    return np.fromiter(sums.values(), dtype=float), np.fromiter(sizes.values(), dtype=float)


def _standard_error(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Of the mean over queries, by linearisation of the ratio of the two sums."""
    count = len(sums)
    if count < 2:
        return 0.0
    rest = sums - sizes * (sums.sum() / sizes.sum())
    return float(np.sqrt(count / (count - 1) * (rest**2).sum()) / sizes.sum())


def _interval(
    sums: np.ndarray, sizes: np.ndarray, seed: int, resamples: int, widest: tuple[float, float]
) -> tuple[float, float]:
    means = sums / sizes
    if len(sums) < 2:
        return widest
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0])
    result = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        confidence_level=LEVEL,
        n_resamples=resamples,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
