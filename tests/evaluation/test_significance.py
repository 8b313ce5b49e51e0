import numpy as np
import pytest

from evaluation.significance import compare, estimate


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


def test_noise_is_called_different_about_one_time_in_twenty():
    rng = np.random.default_rng(1)
    verdicts = [compare(_per_query(rng.random(60)), _per_query(rng.random(60)), seed=i).verdict for i in range(200)]
    assert sum(v != "not distinguishable" for v in verdicts) <= 20  # 10 are expected; 20 or fewer in 99.8 % of such tests


def test_same_seed_same_interval_and_the_interval_holds_the_mean():
    values = _per_query(np.random.default_rng(2).random(100))
    assert estimate(values, 5) == estimate(values, 5) != estimate(values, 6)
    e = estimate(values)
    assert e.interval[0] < e.value < e.interval[1]


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        compare({"a": 1.0}, {"b": 1.0})
