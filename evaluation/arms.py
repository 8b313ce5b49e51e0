"""Arms of a study compared over their seeds and datasets: means, differences with both kinds of error, and a table.

An arm is one way of making a model. It was run on every dataset with every seed; the n-th run of each arm has the same
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import BaseModel

from sharpen.evaluation.report.comparison import markdown_row
from sharpen.evaluation.significance import (
    LEVEL,
    Groups,
    Seeded,
    SeededDifference,
    SeedVariance,
    holm,
    seed_variance,
    seeded_difference,
)


@dataclass(frozen=True)
class ArmRun:
    """One run of an arm: with one seed, on one dataset."""

    before: Mapping[str, float]
    """nDCG@10 by query, of the untuned model."""
    after: Mapping[str, float]
    triplets: int = 0
    """Rows that it trained on."""
    seconds: float = 0.0
    """Of what this arm does not have in common with the others."""
    money: str | None = None
    filtered: float | None = None
    """Fraction of the candidates that filters took for relevant."""


class ArmResult(BaseModel):
    """A line of the table; means are of nDCG@10 over seeds, and over datasets where none is named."""

    arm: str
    by_dataset: dict[str, float]
    mean: float
    by_seed: list[float]
    rank: int
    """1 for the highest mean."""
    gain: SeededDifference
    """Against the untuned model."""
    difference: SeededDifference | None = None
    """Against the baseline; None for the baseline itself, and where there is none."""
    triplets: float
    minutes: float
    money: str | None = None
    filtered: float | None = None


Runs = Mapping[str, Mapping[str, Sequence[ArmRun]]]
"""Arm to dataset to its runs, one for each seed."""


def arm_results(
    runs: Runs, groups: Mapping[str, Groups | None] | None = None, baseline: str | None = None
) -> list[ArmResult]:
    """The results of all arms, in their order.

    ``groups``: for each dataset, queries that are resampled together. ``baseline``: the arm that the others are
    compared with; None: each is compared with the untuned model. p values and verdicts of these comparisons are
    adjusted by ``holm``. Raises ``ValueError`` if two arms have not the same queries or number of seeds, and
    ``KeyError`` for a baseline that is no arm.

    >>> low, high = {"q1": 0.2, "q2": 0.4, "q3": 0.3}, {"q1": 0.4, "q2": 0.6, "q3": 0.5}
    >>> runs = {"a": {"d": [ArmRun(low, low)] * 2}, "b": {"d": [ArmRun(low, high)] * 2}}
    >>> results = arm_results(runs, baseline="a")
    >>> [(r.arm, round(r.mean, 2), r.rank) for r in results], round(results[1].difference.value, 2)
    ([('a', 0.3, 2), ('b', 0.5, 1)], 0.2)
    """
    datasets = list(next(iter(runs.values())))
    groups = groups or {}
    means = {arm: _means_by_seed([runs[arm][d] for d in datasets]) for arm in runs}
    # three seeds of two arms say little of the variance between seeds, those of all arms more
    pooled = seed_variance(list(means.values())) if len(runs) > 2 else None

    def difference(first: Callable[[str], list], second: Callable[[str], list], variance: SeedVariance | None):
        return seeded_difference([Seeded(first(d), second(d), groups.get(d)) for d in datasets], variance)

    def scores(arm: str, side: str) -> Callable[[str], list]:
        return lambda dataset: [getattr(run, side) for run in runs[arm][dataset]]

    gains = {arm: difference(scores(arm, "before"), scores(arm, "after"), None) for arm in runs}
    differences: dict[str, SeededDifference] = {}
    if baseline is None:
        gains = _adjusted(gains)
    else:
        others = [arm for arm in runs if arm != baseline]
        base = scores(baseline, "after")
        differences = _adjusted({arm: difference(base, scores(arm, "after"), pooled) for arm in others})
    order = sorted(runs, key=lambda arm: -fmean(means[arm]))
    return [
        ArmResult(
            arm=arm,
            by_dataset={d: fmean(fmean(run.after.values()) for run in runs[arm][d]) for d in datasets},
            mean=fmean(means[arm]),
            by_seed=means[arm],
            rank=order.index(arm) + 1,
            gain=gains[arm],
            difference=differences.get(arm),
            **_costs([run for of_dataset in runs[arm].values() for run in of_dataset]),
        )
        for arm in runs
    ]


def arms_table(
    results: Sequence[ArmResult], baseline: str | None = None, published: Mapping[str, float] | None = None
) -> list[str]:
    """Lines of Markdown. ``published``: arm to the nDCG@10 that somebody else measured, for a column of its own."""
    columns = _columns(results, baseline, published or {})
    seeds = len(results[0].by_seed)
    return [
        markdown_row([name for name, _ in columns]),
        markdown_row(["---"] * len(columns)),
        *(markdown_row([cell(r) for _, cell in columns]) for r in results),
        "",
        f"nDCG@10, the mean of {seeds} seed{'s' * (seeds > 1)}. Intervals and p include the variance due to the sample"
        " of queries (by document) and due to seeds"
        + ("." if seeds > 1 else "; with one seed, the latter is not known, and left out."),
    ]


def _means_by_seed(of_datasets: Sequence[Sequence[ArmRun]]) -> list[float]:
    return [fmean(fmean(run.after.values()) for run in of_seed) for of_seed in zip(*of_datasets, strict=True)]


def _adjusted(differences: Mapping[str, SeededDifference]) -> dict[str, SeededDifference]:
    result = {}
    for (arm, d), p in zip(differences.items(), holm([d.p for d in differences.values()]), strict=True):
        verdict = d.verdict if p < 1 - LEVEL else "not distinguishable"
        result[arm] = d.model_copy(update={"p": p, "verdict": verdict})
    return result


def _costs(runs: Sequence[ArmRun]) -> dict[str, float | str | None]:
    filtered = [run.filtered for run in runs if run.filtered is not None]
    return {
        "triplets": fmean(run.triplets for run in runs),
        "minutes": fmean(run.seconds for run in runs) / 60,
        "money": next((run.money for run in runs if run.money), None),
        "filtered": fmean(filtered) if filtered else None,
    }


Column = tuple[str, Callable[[ArmResult], str]]


def _columns(results: Sequence[ArmResult], baseline: str | None, published: Mapping[str, float]) -> list[Column]:
    datasets = list(results[0].by_dataset)

    def compared(text: Callable[[SeededDifference], str], of_baseline: str = "") -> Callable[[ArmResult], str]:
        def cell(result: ArmResult) -> str:
            difference = result.gain if baseline is None else result.difference
            return of_baseline if difference is None else text(difference)

        return cell

    optional: list[Column] = [
        ("dropped by filters", lambda r: "" if r.filtered is None else f"{r.filtered:.0%}"),
        ("money", lambda r: r.money or ""),
        ("published", lambda r: f"{published[r.arm]:.3f}" if r.arm in published else ""),
    ]
    return [
        ("arm", lambda r: r.arm.replace("|", "¦")),
        *((d, lambda r, d=d: f"{r.by_dataset[d]:.4f}") for d in datasets),
        *([("mean", lambda r: f"{r.mean:.4f}")] if len(datasets) > 1 else []),
        ("gain" if baseline is None else f"difference to {baseline}", compared(lambda d: f"{d.value:+.4f}")),
        ("95 % interval", compared(lambda d: f"{d.interval[0]:+.4f} to {d.interval[1]:+.4f}")),
        ("p (Holm)", compared(lambda d: "< 0.001" if d.p < 0.001 else f"{d.p:.3f}")),
        ("verdict", compared(lambda d: d.verdict, "the baseline")),
        ("rank", lambda r: str(r.rank)),
        ("by seed", lambda r: ", ".join(f"{value:.4f}" for value in r.by_seed)),
        ("triplets", lambda r: f"{r.triplets:,.0f}"),
        ("minutes", lambda r: f"{r.minutes:.1f}"),
        *((name, cell) for name, cell in optional if any(cell(r) for r in results)),
    ]
