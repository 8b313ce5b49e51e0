"""Is the difference real? Intervals, a paired test, one word, and how many queries it would take.

Queries about the same document rise and fall together, so it is groups of them that are drawn again and whose signs are
flipped; a group is one query where nothing ties it to another.
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

Groups = Mapping[str, str]
"""Query ID to what it has in common with others."""


class Estimate(BaseModel):
    """A mean over queries with its 95 % percentile bootstrap interval."""

    value: float
    interval: tuple[float, float]


class Difference(Estimate):
    """After minus before over the same queries: the interval is of the paired differences, drawn by group."""

    interval_by_query: tuple[float, float]
    """As if all queries were independent: narrower than is true where they are not."""
    groups: int
    p: float
    """Two-sided, of the paired permutation test."""
    wins: int
    ties: int
    losses: int
    effect: float | None = None
    """Cohen's d of the paired differences: their mean in standard deviations. None where they are all the same."""
    detectable: float | None = None
    """The least gain that would be found four times of five with queries like these, and so many."""
    needed: int | None = None
    """Queries like these by which a gain of this size would be found four times of five; None for no difference."""
    verdict: Verdict


def document_groups(qrels: Qrels, corpus: Corpus | None = None) -> dict[str, str]:
    """Queries whose most relevant document (of equal grades the first by ID) is the same are of one group.

    With ``corpus``, chunks stand for their document. Only one document of a query counts: by all of them, a collection
    with a few hundred judgments to a query would be a single group.
    """
    doc_id = lambda i: corpus[i].doc_id if corpus and i in corpus else i  # noqa: E731
    return {query: doc_id(min(grades, key=lambda i: (-grades[i], i))) for query, grades in qrels.items() if grades}


def estimate(
    values: Mapping[str, float], seed: int = 0, groups: Groups | None = None, resamples: int = RESAMPLES
) -> Estimate:
    """Mean and interval of one metric's values per query. The same seed gives the same interval."""
    sums, sizes = _by_group(values, groups)
    return Estimate(value=float(sums.sum() / sizes.sum()), interval=_interval(sums, sizes, seed, resamples))


def compare(
    before: Mapping[str, float],
    after: Mapping[str, float],
    seed: int = 0,
    groups: Groups | None = None,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compare two systems on the same queries.

    ``groups``: see ``document_groups``; None: each query is one. ``p``: two-sided paired permutation test by group
    (10,000 resamples; exact where there are fewer permutations). The verdict is better or worse only if the interval
    leaves zero out and p < 0.05. Raises ``ValueError`` if the queries are not the same, or there is none.
    """
    if before.keys() != after.keys():
        raise ValueError("the two systems were not scored on the same queries")
    differences = {query: after[query] - before[query] for query in before}
    sums, sizes = _by_group(differences, groups)
    each = np.fromiter(differences.values(), dtype=float)
    value, interval = float(each.mean()), _interval(sums, sizes, seed, resamples)
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
        interval_by_query=interval if len(sums) == len(each) else _interval(each, np.ones(len(each)), seed, resamples),
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
    """Two-sided: the least level at which the interval leaves zero out."""
    error_of_queries: float
    """Standard error by which queries were drawn (by group)."""
    error_of_seeds: float
    """Standard error by which the training was drawn; 0 with a single seed, where it is not known."""
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
    """What another seed does to a difference."""

    variance: float
    """Of the difference with one seed."""
    freedom: int


def seed_variance(means: Sequence[Sequence[float]]) -> SeedVariance | None:
    """Of the difference of two of several ways of training, from the mean scores of all: a row for each with a number
    for each seed. What a seed does to all of them alike cancels in a difference, so it is twice the residual of the
    two-way layout; it is not for differences to something that no seed changes. None where there are fewer than two of
    either."""
    table = np.asarray(means, dtype=float)
    if min(table.shape) < 2:
        return None
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return SeedVariance(2 * float((rest**2).sum() / freedom), freedom)


def compare_seeds(parts: Sequence[Seeded], pooled: SeedVariance | None = None) -> SeededDifference:
    """Compare two ways of training over their seeds, on the mean of the collections' means.

    What is tested is whether the one is better on other queries *and* with other seeds. Another seed shifts all queries
    together, so drawing queries alone would find differences between a way and itself. The variance of the mean has a
    part of the queries (by group, of each query's mean over the seeds) and one of the seeds (of the mean difference
    with each). Each part has the t quantile of its own degrees of freedom, and the squares of both reaches are added:
    with three seeds, Welch and Satterthwaite's degrees for the sum would call 8 of 100 comparisons of a way with itself
    different where seeds matter more than queries. ``pooled``: the seeds' part from more than these two ways, as three
    seeds of two say little of it. The n-th run of the one is compared with the n-th of the other. Raises ``ValueError``
    if the queries or the numbers of seeds are not the same.
    """
    seeds = len(parts[0].first)
    if any(len(side) != seeds for part in parts for side in (part.first, part.second)):
        raise ValueError("the two were not run with the same number of seeds")
    values, of_queries, by_freedom = [], [], 0.0
    by_seed = np.zeros(seeds)
    for part in parts:
        queries = part.first[0].keys()
        if any(run.keys() != queries for run in (*part.first, *part.second)):
            raise ValueError("the two systems were not scored on the same queries")
        each = {
            q: float(np.mean([after[q] - before[q] for before, after in zip(part.first, part.second, strict=True)]))
            for q in queries
        }
        sums, sizes = _by_group(each, part.groups)
        values.append(float(sums.sum() / sizes.sum()))
        of_queries.append(_standard_error(sums, sizes) ** 2)
        by_freedom += of_queries[-1] ** 2 / max(1, len(sums) - 1)
        by_seed += [
            np.mean([after[q] - before[q] for q in queries])
            for before, after in zip(part.first, part.second, strict=True)
        ]
    value, query_variance = float(np.mean(values)), sum(of_queries) / len(parts) ** 2
    of_seeds, freedom_of_seeds = (
        (pooled.variance / seeds, pooled.freedom)
        if pooled
        else (float(np.var(by_seed / len(parts), ddof=1)) / seeds if seeds > 1 else 0.0, seeds - 1)
    )
    error = (query_variance + of_seeds) ** 0.5
    if not error:
        return SeededDifference(
            value=value,
            interval=(value, value),
            p=1.0,
            error_of_queries=0.0,
            error_of_seeds=0.0,
            seeds=seeds,
            verdict="not distinguishable",
        )
    queries_freedom = query_variance**2 / (by_freedom / len(parts) ** 4) if query_variance else 1.0

    def reach(alpha: float) -> float:
        t_queries, t_seeds = (
            float(stats.t.isf(alpha / 2, freedom)) for freedom in (queries_freedom, max(1, freedom_of_seeds))
        )
        return (t_queries**2 * query_variance + t_seeds**2 * of_seeds) ** 0.5

    half = reach(1 - LEVEL)
    low = 1e-12
    p = low if abs(value) >= reach(low) else float(optimize.brentq(lambda alpha: reach(alpha) - abs(value), low, 1.0))
    verdict: Verdict = ("better" if value > 0 else "worse") if p < 1 - LEVEL else "not distinguishable"
    return SeededDifference(
        value=value,
        interval=(value - half, value + half),
        p=p,
        error_of_queries=query_variance**0.5,
        error_of_seeds=of_seeds**0.5,
        seeds=seeds,
        verdict=verdict,
    )


def queries_needed(gain: float, deviation: float) -> int:
    """Queries by which a true ``gain`` is found significant (two-sided, 5 %) with a probability of 0.8, where the
    paired differences have this standard deviation (normal approximation)."""
    return ceil((_quantiles() * deviation / gain) ** 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for so many comparisons (Holm 1979), in the order given: below 0.05, and all found are real
    with a probability of 95 %."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, row in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[row] * (len(p_values) - place)))
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


def _interval(sums: np.ndarray, sizes: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    means = sums / sizes
    if len(sums) < 2 or np.ptp(means) == 0:
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
