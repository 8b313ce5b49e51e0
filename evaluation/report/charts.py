"""Charts as SVG for a page, in the colours of its CSS, so that they are right in the dark, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.comparison import Comparison
from sharpen.evaluation.report.rendering import render, source

CHARACTER = 7
"""Width of one in labels, in the units of the drawing."""
PADDING = 18
METRIC_NAMES = {PRIMARY: "nDCG@10"}
STANDALONE = "svg { color: #222; background: #fff; --line: #bbb; --before: #7a5c9e; --after: #1f6fb2; }\n"
"""Colours of a chart that is not in a page."""


@dataclass(frozen=True)
class Scale:
    """An axis: values from ``low`` to ``high`` lie from ``start`` to ``end`` in the drawing.

    >>> scale = Scale(0, 1, 100, 300)
    >>> scale(0.5), scale.ticks(5)
    (200.0, [(100.0, '0'), (140.0, '0.2'), (180.0, '0.4'), (220.0, '0.6'), (260.0, '0.8'), (300.0, '1')])
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self, number: int = 5) -> list[tuple[float, str]]:
        """Places and labels of about so many round values."""
        step = _round_step((self.high - self.low) / number)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [(self(n * step), f"{n * step:.6g}") for n in range(first, last + 1)]


def scale_around(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale from a round value below all values to a round value above them."""
    low, high = min(values), max(values)
    step = _round_step((high - low or abs(high) or 1) / 5)
    low, high = floor(low / step) * step, ceil(high / step) * step
    return Scale(low, high if high > low else low + step, start, end)


def intervals(comparison: Comparison) -> str:
    """Each metric before and after, with its 95 % interval."""
    metrics = list(comparison.before)
    left, row, top = CHARACTER * max(map(len, metrics)) + PADDING, 36, 34
    width, bottom = 460, top + 36 * len(metrics)
    x = Scale(0, 1, left, width - PADDING)
    bars = [
        (side, x(estimate.value), *map(x, estimate.interval), top + row * (number + 0.5) + offset)
        for side, estimates, offset in (("before", comparison.before, -6), ("after", comparison.after, 6))
        for number, estimate in enumerate(estimates[metric] for metric in metrics)
    ]
    return render(
        "intervals.svg.j2",
        title="Metrics of both systems with their intervals",
        width=width,
        height=bottom + 24,
        frame=(left, top, width - PADDING, bottom),
        ticks=x.ticks(),
        labels=[(metric, top + row * (number + 0.5)) for number, metric in enumerate(metrics)],
        bars=bars,
        legend=_legend([("before", comparison.names[0]), ("after", comparison.names[1])], left),
        zero=None,
        caption="",
        style="",
    )


def scatter(points: Mapping[str, tuple[float, float]], names: tuple[str, str], metric: str = PRIMARY) -> str:
    """A point for each query, before to the right and after upwards; ``points`` by the anchor that each leads to."""
    frame = (46, PADDING, 446, 400 + PADDING)
    x, y = Scale(-0.03, 1.03, frame[0], frame[2]), Scale(-0.03, 1.03, frame[3], frame[1])
    return render(
        "scatter.svg.j2",
        title=f"{METRIC_NAMES.get(metric, metric)} of each query: above the line it was won, below it lost",
        width=460,
        height=460,
        frame=frame,
        x_ticks=x.ticks(6),
        y_ticks=y.ticks(6),
        line=(x(0), y(0), x(1), y(1)),
        points=[(anchor, x(before), y(after)) for anchor, (before, after) in points.items()],
        names=names,
    )


def curves(
    losses: Sequence[tuple[float, float]], validated: Sequence[tuple[float, float]], kept: float | None, metric: str
) -> str:
    """The training's loss by step, and the validation's ``metric``; ``kept``: the step whose weights the model has."""
    frame = (60, 34, 640, 240)
    steps = [step for step, _ in (*losses, *validated)]
    x = scale_around(steps, frame[0], frame[2])
    left = scale_around([loss for _, loss in losses], frame[3], frame[1])
    right = scale_around([value for _, value in validated], frame[3], frame[1]) if validated else None
    named = [("before", "loss"), *([("after", metric)] if validated else [])]
    return render(
        "curves.svg.j2",
        title="Learning curve",
        width=700,
        height=284,
        frame=frame,
        x_ticks=[tick for tick in x.ticks(8) if "." not in tick[1]],
        left_ticks=left.ticks(),
        right_ticks=right.ticks() if right else [],
        losses=[(x(step), left(loss)) for step, loss in losses],
        validated=[(x(step), right(value)) for step, value in validated],
        kept=x(kept) if kept is not None and validated else None,
        legend=_legend([*named, *([("kept", "kept")] if kept is not None and validated else [])], frame[0]),
    )


def arms_chart(rows: Sequence[tuple[str, float, tuple[float, float]]], baseline: str) -> str:
    """Differences to a baseline with their intervals: name, value, interval; the first on top.

    It is a picture of its own, so it has its colours in it.
    """
    left, row, top = CHARACTER * max(len(name) for name, *_ in rows) + PADDING, 30, PADDING
    width, bottom = left + 460, top + 30 * len(rows)
    x = scale_around([0.0, *(end for _, _, interval in rows for end in interval)], left, width - PADDING)
    return render(
        "intervals.svg.j2",
        title="Differences to the baseline with their intervals",
        width=width,
        height=bottom + 44,
        frame=(left, top, width - PADDING, bottom),
        ticks=x.ticks(),
        labels=[(name, top + row * (number + 0.5)) for number, (name, *_) in enumerate(rows)],
        bars=[
            ("after", x(value), *map(x, interval), top + row * (number + 0.5))
            for number, (_, value, interval) in enumerate(rows)
        ],
        legend=[],
        zero=x(0),
        caption=f"nDCG@10, difference to: {baseline} (95 % intervals)",
        style=STANDALONE + source("charts.css"),
    )


def _legend(entries: Sequence[tuple[str, str]], start: float) -> list[tuple[str, str, float]]:
    """Class, text and place of each entry."""
    places = []
    for css_class, text in entries:
        places.append((css_class, text, start))
        start += CHARACTER * len(text) + 40
    return places


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten: the least that is not below ``step``."""
    power = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
