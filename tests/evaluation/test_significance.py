import numpy as np
import pytest

from evaluation.data import Document
from evaluation.significance import compare, document_groups, estimate, holm, queries_needed


def _per_query(values) -> dict[str, float]:
    return {f"q{i}": float(v) for i, v in enumerate(values)}


def test_a_clear_gain_is_better_and_its_mirror_is_worse():
    rng = np.random.default_rng(0)
    low = rng.random(200) * 0.5
    high = low + rng.random(200) * 0.2
    gain = compare(_per_query(low), _per_query(high))
    assert gain.verdict == "better" and gain.interval[0] > 0 and gain.p < 0.001
    assert (gain.wins, gain.losses) == (200, 0)
    loss = compare(_per_query(high), _per_query(low))
    assert loss.verdict == "worse" and loss.value == pytest.approx(-gain.value)


def test_equal_systems():
    same = compare(_per_query([0.5, 1, 0]), _per_query([0.5, 1, 0]))
    assert (same.verdict, same.p, same.interval, same.ties) == ("not distinguishable", 1.0, (0.0, 0.0), 3)


def test_same_seed_same_interval_and_the_interval_holds_the_mean():
    values = _per_query(np.random.default_rng(2).random(100))
    assert estimate(values, 5) == estimate(values, 5) != estimate(values, 6)
    e = estimate(values)
    assert e.interval[0] < e.value < e.interval[1]


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        compare({"a": 1.0}, {"b": 1.0})


def _clustered(rng: np.random.Generator, count: int, mean: float) -> tuple[dict[str, float], dict[str, str]]:
    """Differences of queries of which one to six are about the same document, and alike; half of the documents change nothing."""
    group = np.repeat(np.arange(count), rng.integers(1, 7, count))
    common = rng.standard_normal(count) * (rng.random(count) < 0.5)
    values = mean + 0.2 * common[group] + 0.1 * rng.standard_normal(len(group))
    return _per_query(values), {f"q{i}": str(g) for i, g in enumerate(group)}


def test_intervals_cover_the_truth_95_times_in_100_by_group_where_queries_hang_together():
    rng = np.random.default_rng(3)
    covered = {"by group": 0, "by query": 0, "independent": 0}
    for seed in range(1000):
        values, groups = _clustered(rng, 80, 0.03)
        for name, estimated in (("by group", estimate(values, seed, groups, 500)), ("by query", estimate(values, seed, None, 500))):
            covered[name] += estimated.interval[0] <= 0.03 <= estimated.interval[1]
        gains = np.where(rng.random(120) < 0.3, rng.normal(0.1, 0.3, 120), 0.0)  # most queries neither win nor lose
        low, high = estimate(_per_query(gains), seed, None, 500).interval
        covered["independent"] += low <= 0.03 <= high
    assert 930 <= covered["by group"] <= 970 and 930 <= covered["independent"] <= 970
    assert covered["by query"] < 850


def test_no_more_than_one_false_alarm_in_twenty():
    rng = np.random.default_rng(4)
    alarms = {"by group": 0, "by query": 0}
    for seed in range(600):
        values, groups = _clustered(rng, 60, 0.0)
        nothing = dict.fromkeys(values, 0.0)
        for name, given in (("by group", groups), ("by query", None)):
            alarms[name] += compare(nothing, values, seed, given, 400).verdict != "not distinguishable"
    assert alarms["by group"] <= 600 * 0.05 + 2 * (600 * 0.05 * 0.95) ** 0.5  # two standard errors
    assert alarms["by query"] > 60


def test_as_many_queries_as_are_needed_find_a_gain_four_times_of_five():
    rng = np.random.default_rng(5)
    count = queries_needed(0.05, 0.25)
    assert count == 197  # (1.960 + 0.842)^2 * 25
    found = 0
    for seed in range(500):
        d = compare(_per_query(np.zeros(count)), _per_query(rng.normal(0.05, 0.25, count)), seed, resamples=400)
        found += d.verdict == "better"
    assert 0.75 <= found / 500 <= 0.85
    assert d.detectable == pytest.approx(0.05, rel=0.2) and d.effect == pytest.approx(d.value / 0.25, rel=0.2)


def test_groups_make_more_queries_needed():
    values, groups = _clustered(np.random.default_rng(6), 80, 0.03)
    nothing = dict.fromkeys(values, 0.0)
    alone, together = compare(nothing, values), compare(nothing, values, groups=groups)
    assert alone.value == together.value and (alone.groups, together.groups) == (len(values), 80)
    assert together.needed > 1.5 * alone.needed and together.detectable > 1.2 * alone.detectable
    assert together.interval_by_query == alone.interval


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_queries_about_one_document_are_a_group():
    corpus = {"a/1": Document("a/1", "x", metadata={"chunk_of": "a"}), "a/2": Document("a/2", "y", metadata={"chunk_of": "a"}), "b": Document("b", "z")}
    qrels = {"q1": {"a/2": 1}, "q2": {"a/1": 2, "b": 1}, "q3": {"b": 1, "a/1": 1}, "q4": {"b": 2, "a/1": 1}, "q5": {}}
    assert document_groups(qrels, corpus) == {"q1": "a", "q2": "a", "q3": "a", "q4": "b"}
    assert document_groups(qrels)["q1"] == "a/2"


def test_one_query_or_none():
    assert compare({"a": 0.0}, {"a": 1.0}).verdict == "not distinguishable"
    with pytest.raises(ValueError, match="no query"):
        compare({}, {})
