import numpy as np
import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.report.comparison import Comparison, power
from sharpen.evaluation.significance import (
    Seeded,
    SeedVariance,
    document_groups,
    estimate,
    holm,
    paired_difference,
    queries_needed,
    seed_variance,
    seeded_difference,
)


def _per_query(values) -> dict[str, float]:
    return {f"q{i}": float(v) for i, v in enumerate(values)}


def test_a_clear_gain_is_better_and_its_mirror_is_worse():
    rng = np.random.default_rng(0)
    low = rng.random(200) * 0.5
    high = low + rng.random(200) * 0.2
    gain = paired_difference(_per_query(low), _per_query(high))
    assert gain.verdict == "better" and gain.interval[0] > 0 and gain.p < 0.001
    assert (gain.wins, gain.losses) == (200, 0)
    loss = paired_difference(_per_query(high), _per_query(low))
    assert loss.verdict == "worse" and loss.value == pytest.approx(-gain.value)


def test_equal_systems():
    same = paired_difference(_per_query([0.5, 1, 0]), _per_query([0.5, 1, 0]))
    assert (same.verdict, same.p, same.interval, same.ties) == ("not distinguishable", 1.0, (0.0, 0.0), 3)


def test_same_seed_same_interval_and_the_interval_holds_the_mean():
    values = _per_query(np.random.default_rng(2).random(100))
    assert estimate(values, 5) == estimate(values, 5) != estimate(values, 6)
    e = estimate(values)
    assert e.interval[0] < e.value < e.interval[1]


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def _clustered(rng: np.random.Generator, count: int, mean: float) -> tuple[dict[str, float], dict[str, str]]:
    """Differences of queries of which one to six are about the same document, and alike; half of the documents change
    nothing."""
    group = np.repeat(np.arange(count), rng.integers(1, 7, count))
    common = rng.standard_normal(count) * (rng.random(count) < 0.5)
    values = mean + 0.2 * common[group] + 0.1 * rng.standard_normal(len(group))
    return _per_query(values), {f"q{i}": str(g) for i, g in enumerate(group)}


@pytest.mark.slow
def test_intervals_cover_the_truth_95_times_in_100_by_group_where_queries_hang_together():
    rng = np.random.default_rng(3)
    covered = {"by group": 0, "by query": 0, "independent": 0}
    for seed in range(1000):
        values, groups = _clustered(rng, 80, 0.03)
        for name, estimated in (
            ("by group", estimate(values, seed, groups, 500)),
            ("by query", estimate(values, seed, None, 500)),
        ):
            covered[name] += estimated.interval[0] <= 0.03 <= estimated.interval[1]
        gains = np.where(rng.random(120) < 0.3, rng.normal(0.1, 0.3, 120), 0.0)  # most queries neither win nor lose
        low, high = estimate(_per_query(gains), seed, None, 500).interval
        covered["independent"] += low <= 0.03 <= high
    assert 930 <= covered["by group"] <= 970 and 930 <= covered["independent"] <= 970
    assert covered["by query"] < 850


@pytest.mark.slow
def test_no_more_than_one_false_alarm_in_twenty():
    rng = np.random.default_rng(4)
    alarms = {"by group": 0, "by query": 0}
    for seed in range(600):
        values, groups = _clustered(rng, 60, 0.0)
        nothing = dict.fromkeys(values, 0.0)
        for name, given in (("by group", groups), ("by query", None)):
            alarms[name] += paired_difference(nothing, values, seed, given, 400).verdict != "not distinguishable"
    assert alarms["by group"] <= 600 * 0.05 + 2 * (600 * 0.05 * 0.95) ** 0.5  # two standard errors
    assert alarms["by query"] > 60


def test_as_many_queries_as_are_needed_find_a_gain_four_times_of_five():
    rng = np.random.default_rng(5)
    count = queries_needed(0.05, 0.25)
    assert count == 197  # (1.960 + 0.842)^2 * 25
    detected = 0
    for seed in range(500):
        d = paired_difference(
            _per_query(np.zeros(count)), _per_query(rng.normal(0.05, 0.25, count)), seed, resamples=400
        )
        detected += d.verdict == "better"
    assert 0.75 <= detected / 500 <= 0.85
    assert d.detectable == pytest.approx(0.05, rel=0.2) and d.effect == pytest.approx(d.value / 0.25, rel=0.2)


def test_groups_make_more_queries_needed():
    values, groups = _clustered(np.random.default_rng(6), 80, 0.03)
    nothing = dict.fromkeys(values, 0.0)
    alone, together = paired_difference(nothing, values), paired_difference(nothing, values, groups=groups)
    assert alone.value == together.value and (alone.groups, together.groups) == (len(values), 80)
    assert together.needed > 1.5 * alone.needed and together.detectable > 1.2 * alone.detectable
    assert together.interval_by_query == alone.interval


@pytest.mark.parametrize(
    ("gain", "part"),
    [(0.01, "it would take about "), (1e-7, "for one of 0.0000 it would take more than 1,000,000 like them.")],
)
def test_how_many_queries_a_difference_would_take_is_said_as_far_as_it_is_of_use(gain, part):
    values = np.random.default_rng(1).normal(0, 0.2, 100)
    d = paired_difference(_per_query(np.zeros(100)), _per_query(values - values.mean() + gain))
    assert d.verdict == "not distinguishable"
    assert part in power(Comparison.model_construct(primary="ndcg@10", delta={"ndcg@10": d}))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_queries_about_one_document_are_a_group():
    corpus = {
        "a/1": Document("a/1", "x", metadata={"chunk_of": "a"}),
        "a/2": Document("a/2", "y", metadata={"chunk_of": "a"}),
        "b": Document("b", "z"),
    }
    qrels = {"q1": {"a/2": 1}, "q2": {"a/1": 2, "b": 1}, "q3": {"b": 1, "a/1": 1}, "q4": {"b": 2, "a/1": 1}, "q5": {}}
    assert document_groups(qrels, corpus) == {"q1": "a", "q2": "a", "q3": "a", "q4": "b"}
    assert document_groups(qrels)["q1"] == "a/2"


def test_one_query_or_none():
    assert paired_difference({"a": 0.0}, {"a": 1.0}).verdict == "not distinguishable"
    with pytest.raises(ValueError, match="no query"):
        paired_difference({}, {})


def _runs(
    rng: np.random.Generator, base: np.ndarray, group: np.ndarray, gain: float, seeds: int, by_seed: float
) -> list[dict[str, float]]:
    """Of a way of training: each seed shifts all queries, and each query by itself."""
    runs = []
    for _ in range(seeds):
        moved = rng.standard_normal(len(base)) * (rng.random(len(base)) < 0.3) * 0.15
        runs.append(_per_query(np.clip(base + gain + by_seed * rng.standard_normal() + moved, 0, 1)))
    return runs


def _aa(
    rng: np.random.Generator, ways: int, seeds: int, by_seed: float, collections: int = 1
) -> tuple[list[Seeded], SeedVariance | None]:
    """The same strategy ``ways`` times with other seeds: the first two of them, and what all say of seeds."""
    parts, means = [], np.zeros((ways, seeds))
    for _ in range(collections):
        group = np.repeat(np.arange(120), rng.integers(1, 3, 120))
        base = rng.choice([0.0, 0.39, 0.5, 0.63, 1.0], len(group))
        sides = [_runs(rng, base, group, 0.0, seeds, by_seed) for _ in range(ways)]
        means += [[float(np.mean(list(run.values()))) / collections for run in side] for side in sides]
        parts.append(Seeded(sides[0], sides[1], {f"q{i}": str(g) for i, g in enumerate(group)}))
    return parts, seed_variance(means) if ways > 2 else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ways", "seeds", "by_seed", "collections"),
    [(2, 3, 0.0, 1), (2, 3, 0.005, 1), (2, 5, 0.02, 1), (6, 3, 0.005, 2), (6, 3, 0.03, 1)],
)
def test_a_way_of_training_compared_with_itself_is_called_better_or_worse_at_most_5_times_in_100(
    ways, seeds, by_seed, collections
):
    """A/A, many times. By the queries alone it would be more often where seeds matter."""
    rng, times = np.random.default_rng(11), 400
    false, naive = 0, 0
    for n in range(times):
        parts, pooled = _aa(rng, ways, seeds, by_seed, collections)
        false += seeded_difference(parts, pooled).verdict != "not distinguishable"
        if n < 100 and by_seed >= 0.02:
            means = [
                {q: float(np.mean([run[q] for run in side])) for q in side[0]}
                for side in (parts[0].first, parts[0].second)
            ]
            naive += paired_difference(*means, n, parts[0].groups, 300).verdict != "not distinguishable"
    assert false / times <= 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5
    assert naive > 15 or by_seed < 0.02


def test_a_real_gain_over_seeds_is_found_and_its_interval_covers_it():
    rng = np.random.default_rng(5)
    detected, covered = 0, 0
    for _ in range(400):
        base, group = rng.choice([0.1, 0.39, 0.5, 0.63], 300), np.arange(300)
        first, second = (_runs(rng, base, group, gain, 3, 0.004) for gain in (0.0, 0.03))
        result = seeded_difference([Seeded(first, second)])
        detected += result.verdict == "better"
        covered += result.interval[0] <= 0.03 <= result.interval[1]
    assert detected > 300 and covered > 0.93 * 400


def test_seeds_are_paired_and_one_seed_says_nothing_of_seeds():
    first, second = [{"a": 0.1, "b": 0.5}, {"a": 0.2, "b": 0.5}], [{"a": 0.3, "b": 0.5}, {"a": 0.4, "b": 0.6}]
    d = seeded_difference([Seeded(first, second)])
    assert (
        d.value == pytest.approx(0.125)
        and d.error_of_seeds == pytest.approx(np.std([0.1, 0.15], ddof=1) / 2**0.5)
        and d.interval[0] < d.value < d.interval[1]
    )
    assert seeded_difference([Seeded(first[:1], second[:1])]).error_of_seeds == 0
    assert seeded_difference([Seeded(first, first)]).verdict == "not distinguishable"
    two = seeded_difference([Seeded(first, second), Seeded(first, first)])
    assert two.value == pytest.approx(0.0625) and two.error_of_queries == pytest.approx(d.error_of_queries / 2)
    with pytest.raises(ValueError, match="same queries"):
        seeded_difference([Seeded(first, [{"a": 1.0}, {"a": 1.0}])])
    with pytest.raises(ValueError, match="number of seeds"):
        seeded_difference([Seeded(first, second[:1])])


@pytest.mark.slow
def test_what_a_seed_does_to_all_ways_alike_counts_against_the_untuned_model_and_not_between_them():
    rng, times = np.random.default_rng(3), 500
    false = {"gain": 0, "difference": 0}
    for _ in range(times):
        base = rng.choice([0.2, 0.39, 0.5, 0.63], 400)
        before = _per_query(base)
        shifts = 0.02 * rng.standard_normal(3)  # of the seed: the data that it draws, say
        ways = [
            [
                _per_query(base + shift + 0.002 * rng.standard_normal() + 0.05 * rng.standard_normal(400))
                for shift in shifts
            ]
            for _ in range(4)
        ]
        means = [[float(np.mean(list(run.values()))) for run in way] for way in ways]
        false["gain"] += seeded_difference([Seeded([before] * 3, ways[0])]).verdict != "not distinguishable"
        false["difference"] += (
            seeded_difference([Seeded(ways[0], ways[1])], seed_variance(means)).verdict != "not distinguishable"
        )
    assert max(false.values()) / times <= 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5, false


@pytest.mark.slow
def test_a_small_noisy_collection_is_not_taken_for_a_large_quiet_one():
    rng, times, false = np.random.default_rng(9), 600, 0
    for _ in range(times):
        sizes, noises = (6, 500), (0.3, 0.001)
        parts = [
            Seeded([_per_query(np.zeros(n))], [_per_query(noise * rng.standard_normal(n))])
            for n, noise in zip(sizes, noises, strict=True)
        ]
        false += seeded_difference(parts).verdict != "not distinguishable"
    assert false / times <= 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5


def test_a_single_document_says_nothing_of_others():
    before = {f"q{n}": 0.5 for n in range(10)}
    after = dict.fromkeys(before, 0.9)
    of_one = dict.fromkeys(before, "d")
    difference = paired_difference(before, after, groups=of_one)
    assert difference.interval == (-1.0, 1.0) and difference.verdict == "not distinguishable"
    assert estimate(after, groups=of_one).interval == (0.0, 1.0)
    seeded = seeded_difference([Seeded([before, before], [after, {**after, "q0": 0.8}], of_one)])
    assert seeded.interval == (-1.0, 1.0) and seeded.verdict == "not distinguishable"
