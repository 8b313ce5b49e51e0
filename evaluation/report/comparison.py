"""Before and after: what is in ``metrics.json``, and the page that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.significance import LEVEL, Difference, Estimate, Groups, Verdict, compare, estimate, holm

BEFORE_AFTER = ("base", "tuned model")


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
    names: tuple[str, str] = BEFORE_AFTER
    """What is compared: the first and the second."""


def make_comparison(
    before: PerQuery,
    after: PerQuery,
    *,
    seed: int,
    queries_of: str,
    groups: Groups | None = None,
    bm25: PerQuery | None = None,
    names: tuple[str, str] = BEFORE_AFTER,
) -> Comparison:
    """Compare two systems' scores per query, metric by metric. ``groups``: which queries hang together, as
    ``document_groups`` says. Raises ``ValueError`` if the queries of the two differ."""
    delta = {metric: compare(before[metric], after[metric], seed, groups) for metric in before if metric in after}
    return Comparison(
        verdict=delta[PRIMARY].verdict,
        queries=len(before[PRIMARY]),
        queries_of=queries_of,
        before=_estimates(before, seed, groups),
        after=_estimates(after, seed, groups),
        delta=delta,
        bm25=_estimates(bm25, seed, groups) if bm25 else None,
        names=names,
    )


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the before/after table, as text."""
    header = ["metric", *_sides(comparison), "difference", "95 % interval", "p", "won / tied / lost"]
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
    first, second = (f"the {name}" if name == "base" or " " in name else name for name in comparison.names)
    before, after = (side[comparison.primary].value for side in (comparison.before, comparison.after))
    facts = (
        f"{comparison.primary} {before:.4f} before, {after:.4f} after"
        if comparison.names == BEFORE_AFTER
        else f"{comparison.primary} {after:.4f}, and {before:.4f} of {first}"
    )
    facts += (
        f"; difference {d.value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, p = {d.p:.4f}, {comparison.queries}"
        f" {comparison.queries_of}"
    )
    if d.groups < comparison.queries:
        facts += f" about {d.groups} documents"
    verdict = f"**{comparison.verdict}** {'from' if comparison.verdict == 'not distinguishable' else 'than'} {first}"
    return f"{second[0].upper() + second[1:] if second.startswith('the ') else second} is {verdict}: {facts}."


def _sides(comparison: Comparison) -> tuple[str, str]:
    return ("before", "after") if comparison.names == BEFORE_AFTER else comparison.names


HOW = (
    "Differences are the second minus the first on the same queries. Intervals are percentile bootstraps, p is from a"
    " paired permutation test (10,000 resamples each); queries about the same document are drawn together. *Better* or"
    " *worse* needs an interval without zero and p < 0.05."
)


MOST_NEEDED = 1_000_000
"""Queries; nobody has more, and how many more is of no use."""


def power(comparison: Comparison) -> str:
    """What these queries could have found, in words."""
    d = comparison.delta[comparison.primary]
    if d.detectable is None:
        return "No query changed, so nothing can be said of how many would be needed."
    said = f"With these queries a difference of {d.detectable:.4f} would be found four times of five"
    if d.needed and d.verdict == "not distinguishable":
        how_many = f"some {d.needed:,}" if d.needed <= MOST_NEEDED else f"more than {MOST_NEEDED:,}"
        return f"{said}; for one of {abs(d.value):.4f} it would take {how_many} like them."
    return (
        f"{said}. The effect is {d.effect:+.2f} standard deviations of a query's difference."
        if d.effect is not None
        else f"{said}."
    )


def markdown(name: str, comparison: Comparison, sections: Mapping[str, Sequence[str]]) -> str:
    """The report: verdict, table, how to read it, then ``sections`` (heading to paragraphs or list lines)."""
    lines = [f"# {_escape(name)}", "", sentence(comparison), "", *markdown_table(comparison), ""]
    lines += [HOW, "", power(comparison), ""]
    for heading, paragraphs in sections.items():
        lines += [f"## {heading}", "", *paragraphs, ""]
    return "\n".join(lines)


def markdown_table(comparison: Comparison) -> list[str]:
    """The lines of the before/after table."""
    header, rows = table(comparison)
    return [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]


def difference_table(what: str, rows: Mapping[str, Comparison]) -> list[str]:
    """A line of ``PRIMARY`` for each of several comparisons; ``what`` heads their names. p and verdict are as ``holm``
    adjusts them for so many."""
    adjusted = holm([c.delta[c.primary].p for c in rows.values()])
    lines = [
        _row([what, "queries", *next(iter(rows.values())).names, "difference", "95 % interval", "p (Holm)", "verdict"]),
        _row(["---"] * 8),
    ]
    for (name, c), p in zip(rows.items(), adjusted, strict=True):
        d = c.delta[c.primary]
        verdict = c.verdict if p < 1 - LEVEL else "not distinguishable"
        lines.append(
            _row(
                [
                    name,
                    f"{c.queries:,}",
                    f"{c.before[c.primary].value:.4f}",
                    f"{c.after[c.primary].value:.4f}",
                    f"{d.value:+.4f}",
                    f"{d.interval[0]:+.4f} to {d.interval[1]:+.4f}",
                    f"{p:.4f}",
                    verdict,
                ]
            )
        )
    return lines


def kinds_table(kinds: Mapping[str, Comparison]) -> list[str]:
    """The same for the kinds of queries that ``slices`` tells apart."""
    return difference_table("kind", kinds) if kinds else ["None has enough queries to say anything of."]


def code(text: str) -> str:
    """Text of documents and queries for a Markdown page, as code, so that nothing in it is markup."""
    text = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{text}`" if text else "(empty)"


def _estimates(scores: PerQuery, seed: int, groups: Groups | None) -> dict[str, Estimate]:
    return {metric: estimate(values, seed, groups) for metric, values in scores.items()}


def _value(e: Estimate) -> str:
    return f"{e.value:.4f} ± {(e.interval[1] - e.interval[0]) / 2:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+-!|" else c for c in text)
