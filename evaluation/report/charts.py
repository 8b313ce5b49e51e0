"""Charts as SVG to be put into a page, in the page's own colours, so that they are right in the dark, too."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

from sharpen.evaluation.report.comparison import Comparison

# matplotlib wants colours; the page's are put in their place
_COLOURS = {"text": "#010101", "line": "#010102", "before": "#010103", "after": "#010104"}
_CSS = {"text": "currentColor", "line": "var(--line)", "before": "var(--before)", "after": "var(--after)"}


def intervals(comparison: Comparison) -> str:
    """Each metric before and after, with its 95 % interval."""
    names = list(comparison.before)
    figure, axes = _figure(4.6, 0.5 * len(names) + 0.9)
    for offset, (side, values) in zip(
        (0.17, -0.17), (("before", comparison.before), ("after", comparison.after)), strict=True
    ):
        places = [len(names) - row + offset for row in range(len(names))]
        middle = [values[m].value for m in names]
        lengths = [(v - values[m].interval[0], values[m].interval[1] - v) for m, v in zip(names, middle, strict=True)]
        ends = np.maximum(0, lengths).T  # a rounding can make one negative, which is an error
        axes.errorbar(
            middle, places, xerr=ends, fmt="o", capsize=3, color=_COLOURS[side], label=comparison.names[side == "after"]
        )
    axes.set_yticks([len(names) - row for row in range(len(names))], names)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color=_COLOURS["line"])
    _legend(figure)
    return _svg(figure, "Metrics of both systems with their intervals")


def scatter(points: Mapping[str, tuple[float, float]], names: tuple[str, str]) -> str:
    """A point for each query, before to the right and after upwards; ``points`` by the anchor that each leads to."""
    figure, axes = _figure(4.6, 4.6)
    axes.plot([0, 1], [0, 1], color=_COLOURS["line"])
    marks = axes.scatter(*zip(*points.values(), strict=True), s=26, color=_COLOURS["after"], alpha=0.45, linewidths=0)
    marks.set_urls([f"#{anchor}" for anchor in points])
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        xlabel=f"nDCG@10 of the {names[0]}",
        ylabel=f"nDCG@10 of the {names[1]}",
        aspect="equal",
    )
    return _svg(figure, "nDCG@10 of each query: above the line it was won, below it lost")


def curves(
    losses: Sequence[tuple[float, float]], validated: Sequence[tuple[float, float]], kept: float | None, metric: str
) -> str:
    """The training's loss by step, and what validation said."""
    figure, axes = _figure(7, 2.8)
    axes.plot(*zip(*losses, strict=True), color=_COLOURS["before"], label="loss")
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if validated:
        right = axes.twinx()
        right.plot(*zip(*validated, strict=True), color=_COLOURS["after"], marker="o", label=metric)
        right.set_ylabel(metric, color=_COLOURS["text"])
        right.tick_params(colors=_COLOURS["text"])
        for side in right.spines.values():
            side.set_color(_COLOURS["line"])
    if kept is not None and validated:
        axes.axvline(kept, color=_COLOURS["line"], linestyle=":", label="kept")
    _legend(figure)
    return _svg(figure, "Learning curve")


def arms_chart(rows: Sequence[tuple[str, float, tuple[float, float]]], baseline: str) -> str:
    """Differences to a baseline with their intervals: name, value, interval; the first on top. A picture of its own, so
    in its own colours."""
    figure, axes = _figure(7, 0.42 * len(rows) + 1.1)
    places = list(range(len(rows), 0, -1))
    values = [value for _, value, _ in rows]
    ends = np.maximum(0, [(value - low, high - value) for _, value, (low, high) in rows]).T
    axes.axvline(0, color=_COLOURS["line"])
    axes.errorbar(values, places, xerr=ends, fmt="o", capsize=3, color=_COLOURS["after"])
    axes.set_yticks(places, [name for name, _, _ in rows])
    axes.set_xlabel(f"nDCG@10, difference to: {baseline} (95 % intervals)")
    axes.grid(axis="x", color=_COLOURS["line"])
    svg = _svg(figure, "Differences to the baseline with their intervals")
    style = "<style>svg { color: #222; background: #fff; --line: #bbb; --after: #1f6fb2 }</style>"
    return svg.replace(">", f">{style}", 1)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_COLOURS["text"])
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_COLOURS["text"])
    for side in axes.spines.values():
        side.set_color(_COLOURS["line"])
    return figure, axes


def _legend(figure) -> None:
    lines = [line for axes in figure.axes for line in zip(*axes.get_legend_handles_labels(), strict=True)]
    figure.legend(
        *zip(*lines, strict=True), loc="outside upper center", ncols=3, frameon=False, labelcolor=_COLOURS["text"]
    )


def _svg(figure, title: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 9.5}
    ):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, _CSS[name])
    # several charts stand in one page: IDs of their own where something refers to them, and no others
    own = {
        i: f"{re.sub(r'[^a-z]+', '-', title.lower())}-{i}" for i in re.findall(r'(?:url\(|xlink:href=")#([\w.-]+)', svg)
    }
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{own[m.group(1)]}"' if m.group(1) in own else "", svg)
    drawn = set(re.findall(r' id="([\w.-]+)"', svg))
    svg = re.sub(
        r'(url\(|xlink:href=")#([\w.-]+)',
        lambda m: f"{m.group(1)}#{own[m.group(2)] if own[m.group(2)] in drawn else m.group(2)}",
        svg,
    )
    svg = svg.replace("<a ", '<a tabindex="-1" ')  # the table below has the same by keyboard
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
