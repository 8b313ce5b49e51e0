"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence

from markdown_it import MarkdownIt
from markupsafe import Markup

from sharpen.evaluation.report import charts
from sharpen.evaluation.report.by_query import TOP_K, QueryChange
from sharpen.evaluation.report.comparison import METHOD, Comparison, kinds_table, plain_sentence, power, table
from sharpen.evaluation.report.rendering import render, source

MAX_QUERIES = 2000
"""On a page: with more, it is slow to open."""


def page(
    title: str,
    comparison: Comparison,
    changes: Sequence[QueryChange],
    kinds: Mapping[str, Comparison],
    sections: Mapping[str, Sequence[str]] | None = None,
    figures: Mapping[str, str] | None = None,
    leading: Collection[str] = (),
) -> str:
    """HTML of a comparison.

    ``changes``: of ``query_changes``, those that changed most first. ``kinds``: of ``slices``. ``sections``: heading to
    lines of Markdown, as in ``markdown``; HTML in them stays text. ``figures``: SVG to be put below the heading of that
    name; it is trusted. ``leading``: headings of sections that stand before the queries.
    """
    script = source("report.js")
    listed = changes[:MAX_QUERIES]
    points = {f"q-{n}": (c.before, c.after) for n, c in enumerate(listed, start=1)}
    header, rows = table(comparison)
    return render(
        "report.html.j2",
        title=title,
        comparison=comparison,
        summary=plain_sentence(comparison),
        method=METHOD.replace("*", ""),
        power=power(comparison),
        header=header,
        rows=rows,
        intervals=Markup(charts.intervals(comparison)),
        scatter=Markup(charts.scatter(points, comparison.names, comparison.primary)),
        changes=listed,
        total=len(changes),
        top_k=TOP_K,
        slices=_as_html(kinds_table(kinds)),
        sections=[
            {
                "anchor": f"section-{n}",
                "name": name,
                "body": _as_html(lines),
                "figure": Markup((figures or {}).get(name, "")),
                "leads": name in leading,
            }
            for n, (name, lines) in enumerate((sections or {}).items(), start=1)
        ],
        style=Markup(source("report.css") + "\n" + source("charts.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _as_html(lines: Sequence[str]) -> Markup:
    """Of Markdown; HTML in it stays text."""
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render("\n".join(lines)))
