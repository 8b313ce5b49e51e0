"""Two systems compared: the numbers, as ``metrics.json`` has them, in words, as text, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from sharpen.evaluation.files import InputError, write_text
from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.significance import (
    LEVEL,
    Difference,
    Estimate,
    Groups,
    Verdict,
    estimate,
    holm,
    paired_difference,
)

if TYPE_CHECKING:
    from sharpen.evaluation.report.by_query import QueryChange

BEFORE_AFTER = ("base", "tuned model")
LOSS = 0.005
"""nDCG@10: what is lost on another collection is a part of the verdict from there on."""


class Comparison(BaseModel):
    """The content of ``metrics.json``: every metric lies between 0 and 1.

    ``verdict`` is that of the metric ``primary``; ``queries`` is how many there are, ``queries_of`` where they come
    from.
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
    """Of the first system and of the second."""
    caveat: str = Field("", exclude=True)
    """Said with the verdict, in Markdown, as ``lost_elsewhere`` has it; no part of the numbers."""


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
    """Compare two systems' scores by query, metric by metric.

    ``groups``: queries that are resampled together, as ``document_groups`` gives them. Raises ``InputError`` if the
    queries of the two differ, or if there is none.
    """
    _check_same_queries(before, after, names)
    delta = {
        metric: paired_difference(before[metric], after[metric], seed, groups) for metric in before if metric in after
    }
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


def _check_same_queries(before: PerQuery, after: PerQuery, names: tuple[str, str]) -> None:
    for metric in before.keys() & after.keys():
        first, second = before[metric].keys(), after[metric].keys()
        if not first or not second:
            raise InputError(f"{names[0]} and {names[1]} cannot be compared: there is no query")
        if first != second:
            other = sorted(first ^ second)[0]
            raise InputError(
                f"{names[0]} and {names[1]} cannot be compared: they were scored on {len(first):,} and"
                f" {len(second):,} queries, of which {len(first & second):,} are the same; {other!r} is one that only"
                f" {names[0] if other in first else names[1]} has"
            )


@dataclass(frozen=True)
class Report:
    """The comparison of two systems on one task; ``print(report)`` gives the table and the verdict.

    ``changes``: the queries, those that changed most first. ``kinds``: the comparison for kinds of queries.
    """

    title: str
    comparison: Comparison
    changes: Sequence[QueryChange] = ()
    kinds: Mapping[str, Comparison] | None = None

    @property
    def verdict(self) -> Verdict:
        """``better``, ``worse`` or ``not distinguishable``, of nDCG@10."""
        return self.comparison.verdict

    def __str__(self) -> str:
        return "\n".join([self.title, "", *text_table(self.comparison), "", plain_sentence(self.comparison)])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as ``metrics.json`` has them."""
        return self.comparison.model_dump(mode="json")

    def to_markdown(self) -> str:
        """The verdict, the table, how to read it, and kinds of queries."""
        sections = {} if self.kinds is None else {"Kinds of queries": kinds_table(self.kinds)}
        return markdown(self.title, self.comparison, sections)

    def to_latex(self) -> str:
        """A table for the package ``booktabs``: a row for each system, a column for each metric.

        A dagger marks values of the second system that differ from the first's: an interval of the difference without
        zero, and p < 0.05.
        """
        return latex(self.comparison)

    def to_html(self, path: str | Path) -> Path:
        """Write one page that needs no other file and no network, and return its path."""
        from sharpen.evaluation.report.page import page  # imports this module

        write_text(Path(path), page(self.title, self.comparison, self.changes, self.kinds or {}))
        return Path(path)


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


def text_table(comparison: Comparison) -> list[str]:
    """The lines of the table, with columns that stay in line where all letters are equally wide."""
    header, rows = table(comparison)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def plain_sentence(comparison: Comparison) -> str:
    """``sentence`` without the marks of Markdown."""
    return sentence(comparison).replace("**", "")


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
    caveat = f" {comparison.caveat}" if comparison.caveat else ""
    verdict = f"**{comparison.verdict}** {'from' if comparison.verdict == 'not distinguishable' else 'than'} {first}"
    return f"{second[0].upper() + second[1:] if second.startswith('the ') else second} is {verdict}: {facts}.{caveat}"


def lost_elsewhere(others: Mapping[str, Comparison]) -> str:
    """The collections on which 0.005 of nDCG@10 or more were lost, with their intervals; nothing where there is none.

    >>> scores = [{"ndcg@10": {"q1": 0.5, "q2": value}} for value in (0.5, 0.4)]
    >>> comparison = make_comparison(*scores, seed=1, queries_of="queries")
    >>> lost_elsewhere({"elsewhere, split test": comparison})
    '**Elsewhere it lost** 0.0500 on elsewhere, split test (-0.1000 to +0.0000, which may be chance).'
    """
    lost = []
    for name, comparison in others.items():
        d = comparison.delta[comparison.primary]
        if d.value <= -LOSS:
            chance = "" if d.verdict == "worse" else ", which may be chance"
            lost.append(f"{-d.value:.4f} on {name} ({d.interval[0]:+.4f} to {d.interval[1]:+.4f}{chance})")
    return f"**Elsewhere it lost** {' and '.join(lost)}." if lost else ""


def _sides(comparison: Comparison) -> tuple[str, str]:
    return ("before", "after") if comparison.names == BEFORE_AFTER else comparison.names


METHOD = (
    "Differences are the second minus the first on the same queries. Intervals are percentile bootstraps, p is from a"
    " paired permutation test (10,000 resamples each); queries about the same document are resampled together. *Better*"
    " or *worse* needs an interval that excludes zero and p < 0.05."
)

MAX_QUERIES_NEEDED = 1_000_000
"""Nobody has more, so how many more is of no use."""


def power(comparison: Comparison) -> str:
    """Which difference these queries could have shown, in words."""
    d = comparison.delta[comparison.primary]
    if d.detectable is None:
        return "No query changed, so it cannot be said how many would be needed."
    text = f"With these queries a difference of {d.detectable:.4f} would be found with a probability of 0.8"
    if d.needed and d.verdict == "not distinguishable":
        within = d.needed <= MAX_QUERIES_NEEDED
        number = f"about {d.needed:,}" if within else f"more than {MAX_QUERIES_NEEDED:,}"
        return f"{text}; for one of {abs(d.value):.4f} it would take {number} like them."
    if d.effect is None:
        return f"{text}."
    return f"{text}. The effect is {d.effect:+.2f} standard deviations of a query's difference."


def markdown(name: str, comparison: Comparison, sections: Mapping[str, Sequence[str]]) -> str:
    """The report: verdict, table, how to read it, then ``sections`` (heading to paragraphs or list lines)."""
    lines = [f"# {_escape(name)}", "", sentence(comparison), "", *markdown_table(comparison), ""]
    lines += [METHOD, "", power(comparison), ""]
    for heading, paragraphs in sections.items():
        lines += [f"## {heading}", "", *paragraphs, ""]
    return "\n".join(lines)


def markdown_table(comparison: Comparison) -> list[str]:
    """The lines of the before/after table."""
    header, rows = table(comparison)
    return [markdown_row(header), markdown_row(["---"] * len(header)), *(markdown_row(row) for row in rows)]


def latex(comparison: Comparison) -> str:
    """A LaTeX table: systems by metrics, with a dagger where the second differs from the first."""
    metrics, (first, second) = list(comparison.delta), map(_latex, _sides(comparison))
    systems = [(first, comparison.before), (second, comparison.after)]
    if comparison.bm25:
        systems.insert(0, ("BM25", comparison.bm25))
    marks = {m: "" if d.verdict == "not distinguishable" else "$^{\\dagger}$" for m, d in comparison.delta.items()}
    rows = [
        " & ".join([name, *(f"{values[m].value:.4f}{marks[m] if values is comparison.after else ''}" for m in metrics)])
        for name, values in systems
    ]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * len(metrics)}}}",
            "\\toprule",
            " & ".join(["system", *map(_latex, metrics)]) + r" \\",
            "\\midrule",
            *(row + r" \\" for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
            f"% {comparison.queries} {comparison.queries_of}; dagger: differs from {first} (interval of the paired"
            " difference without zero, and p < 0.05 in a paired permutation test)",
            "",
        ]
    )


def difference_table(what: str, rows: Mapping[str, Comparison]) -> list[str]:
    """A line of nDCG@10 for each of several comparisons; ``what`` is the heading of their names.

    p and verdict are adjusted for the number of comparisons by ``holm``.
    """
    adjusted = holm([c.delta[c.primary].p for c in rows.values()])
    lines = [
        markdown_row(
            [what, "queries", *next(iter(rows.values())).names, "difference", "95 % interval", "p (Holm)", "verdict"]
        ),
        markdown_row(["---"] * 8),
    ]
    for (name, c), p in zip(rows.items(), adjusted, strict=True):
        d = c.delta[c.primary]
        verdict = c.verdict if p < 1 - LEVEL else "not distinguishable"
        lines.append(
            markdown_row(
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
    """The same for kinds of queries, as ``slices`` gives them."""
    return difference_table("kind", kinds) if kinds else ["No kind has enough queries."]


def code(text: str) -> str:
    """Text of documents and queries for a Markdown page, as code, so that nothing in it is markup."""
    text = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{text}`" if text else "(empty)"


def _estimates(scores: PerQuery, seed: int, groups: Groups | None) -> dict[str, Estimate]:
    return {metric: estimate(values, seed, groups) for metric, values in scores.items()}


def _value(e: Estimate) -> str:
    return f"{e.value:.4f} ± {(e.interval[1] - e.interval[0]) / 2:.3f}"


def _latex(text: str) -> str:
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+-!|" else c for c in text)
