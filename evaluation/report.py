"""Before and after: what is in ``metrics.json``, and the page that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from evaluation.metrics import PRIMARY, PerQuery
from evaluation.significance import Difference, Estimate, Verdict, compare, estimate


class Comparison(BaseModel):
    """The content of ``metrics.json``: every metric lies between 0 and 1.

    ``verdict`` is that of ``primary``; ``queries`` is how many there are, ``queries_of`` where they come from.
    """

    primary: str = PRIMARY
    verdict: Verdict
    queries: int
    queries_of: str = ""
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    delta: dict[str, Difference]
    bm25: dict[str, Estimate] | None = None
    names: tuple[str, str] = ("base", "tuned model")
    """What is compared: the first and the second."""


def make_comparison(before: PerQuery, after: PerQuery, *, seed: int, queries_of: str, bm25: PerQuery | None = None, names: tuple[str, str] = ("base", "tuned model")) -> Comparison:
    """Compare two systems' scores per query, metric by metric. Raises ``ValueError`` if their queries differ."""
    delta = {metric: compare(before[metric], after[metric], seed) for metric in before}
    return Comparison(
        verdict=delta[PRIMARY].verdict,
        queries=len(before[PRIMARY]),
        queries_of=queries_of,
        before=_estimates(before, seed),
        after=_estimates(after, seed),
        delta=delta,
        bm25=_estimates(bm25, seed) if bm25 else None,
        names=names,
    )


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the before/after table, as text."""
    header = ["metric", "before", "after", "difference", "95 % interval", "p", "won / tied / lost"]
    if comparison.bm25:
        header.insert(1, "BM25")
    rows = []
    for metric, d in comparison.delta.items():
        row = [metric, _value(comparison.before[metric]), _value(comparison.after[metric]), f"{d.value:+.4f}"]
        row += [f"{d.interval[0]:+.4f} to {d.interval[1]:+.4f}", f"{d.p:.4f}", f"{d.wins} / {d.ties} / {d.losses}"]
        if comparison.bm25:
            row.insert(1, _value(comparison.bm25[metric]))
        rows.append(row)
    return header, rows


def sentence(comparison: Comparison) -> str:
    """The verdict with its numbers, in words."""
    d = comparison.delta[comparison.primary]
    low, high = d.interval
    facts = f"{comparison.primary} {comparison.before[comparison.primary].value:.4f} before, {comparison.after[comparison.primary].value:.4f} after; difference {d.value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, p = {d.p:.4f}, {comparison.queries} {comparison.queries_of}"
    first, second = comparison.names
    verdict = f"**{comparison.verdict}** {'from' if comparison.verdict == 'not distinguishable' else 'than'} the {first}"
    return f"The {second} is {verdict}: {facts}."


def markdown(name: str, comparison: Comparison, sections: Mapping[str, Sequence[str]]) -> str:
    """The report: verdict, table, how to read it, then ``sections`` (heading to paragraphs or list lines)."""
    lines = [f"# {_escape(name)}", "", sentence(comparison), "", *markdown_table(comparison), ""]
    lines += ["Differences are after minus before on the same queries; intervals are paired percentile bootstraps over queries, "
              "p is from a paired permutation test (10,000 resamples each). *Better* or *worse* needs an interval without zero and p < 0.05.", ""]  # fmt: skip
    for heading, paragraphs in sections.items():
        lines += [f"## {heading}", "", *paragraphs, ""]
    return "\n".join(lines)


def markdown_table(comparison: Comparison) -> list[str]:
    """The lines of the before/after table."""
    header, rows = table(comparison)
    return [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]


def difference_table(what: str, rows: Mapping[str, Comparison]) -> list[str]:
    """A line of ``PRIMARY`` for each of several comparisons; ``what`` heads their names."""
    lines = [_row([what, *next(iter(rows.values())).names, "difference", "95 % interval", "p", "verdict"]), _row(["---"] * 7)]
    for name, c in rows.items():
        d = c.delta[c.primary]
        lines.append(_row([name, f"{c.before[c.primary].value:.4f}", f"{c.after[c.primary].value:.4f}", f"{d.value:+.4f}", f"{d.interval[0]:+.4f} to {d.interval[1]:+.4f}", f"{d.p:.4f}", c.verdict]))
    return lines


def code(text: str) -> str:
    """Text of documents and queries for a Markdown page, as code, so that nothing in it is markup."""
    text = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{text}`" if text else "(empty)"


def _estimates(scores: PerQuery, seed: int) -> dict[str, Estimate]:
    return {metric: estimate(values, seed) for metric, values in scores.items()}


def _value(e: Estimate) -> str:
    return f"{e.value:.4f} ± {(e.interval[1] - e.interval[0]) / 2:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+-!|" else c for c in text)
