"""Arms over seeds and datasets: by hand, and as the table that a study prints."""

import numpy as np
import pytest

from sharpen.evaluation.arms import ArmRun, arm_results, arms_table
from sharpen.evaluation.significance import Seeded, holm, seed_variance, seeded_difference


def scores(rng, mean: float, number: int = 60) -> dict[str, float]:
    return {f"q{i}": float(v) for i, v in enumerate(np.clip(rng.normal(mean, 0.1, number), 0, 1))}


@pytest.fixture
def runs():
    rng = np.random.default_rng(0)
    before = {d: scores(rng, 0.4) for d in ("one", "two")}
    return {
        arm: {
            d: [
                ArmRun(before[d], {q: v + gain + 0.001 * seed for q, v in before[d].items()}, 100 + seed, 60.0)
                for seed in range(3)
            ]
            for d in before
        }
        for arm, gain in {"none": 0.0, "some | more": 0.05, "nothing else": 0.0001}.items()
    }


def test_every_arm_is_compared_with_the_baseline_with_the_seeds_of_all_and_holm(runs):
    results = {r.arm: r for r in arm_results(runs, baseline="none")}
    assert list(results) == list(runs) and results["none"].difference is None
    pooled = seed_variance([r.by_seed for r in results.values()])
    expected = [
        seeded_difference(
            [Seeded([r.after for r in runs["none"][d]], [r.after for r in runs[arm][d]]) for d in ("one", "two")],
            pooled,
        )
        for arm in ("some | more", "nothing else")
    ]
    for arm, d, p in zip(("some | more", "nothing else"), expected, holm([d.p for d in expected]), strict=True):
        assert results[arm].difference.value == d.value and results[arm].difference.p == p
    assert results["some | more"].difference.verdict == "better" and results["some | more"].rank == 1
    assert results["some | more"].mean == pytest.approx(np.mean(list(results["some | more"].by_dataset.values())))
    assert results["none"].triplets == 101 and results["none"].minutes == 1.0


def test_without_a_baseline_the_gains_are_adjusted(runs):
    results = arm_results(runs)
    raw = [
        seeded_difference([Seeded([r.before for r in runs[a][d]], [r.after for r in runs[a][d]]) for d in runs[a]])
        for a in runs
    ]
    assert [r.gain.p for r in results] == holm([d.p for d in raw])
    assert all(r.difference is None for r in results)
    with pytest.raises(KeyError):
        arm_results(runs, baseline="nobody")


def test_the_table(runs):
    lines = arms_table(arm_results(runs, baseline="none"), "none", {"none": 0.5})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert len({len(row) for row in cells}) == 1 and len(cells) == 5
    head = dict(zip(cells[0], cells[2], strict=True))
    assert head["arm"] == "none" and head["verdict"] == "the baseline" and head["published"] == "0.500"
    assert "some ¦ more" in lines[3] and "difference to none" in lines[0] and "money" not in lines[0]
    assert lines[-1].startswith("nDCG@10, the mean of 3 seeds.")
    one = {arm: {"one": of["one"][:1]} for arm, of in runs.items()}
    alone = arms_table(arm_results(one))
    assert "| mean |" not in alone[0] and "| gain |" in alone[0] and "is not known" in alone[-1]
