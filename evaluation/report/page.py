"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from sharpen.evaluation.report import charts
from sharpen.evaluation.report.by_query import QueryChange
from sharpen.evaluation.report.comparison import HOW, Comparison, kinds_table, power, sentence, table

MOST_QUERIES = 2000
"""Queries that a page shows: more would make it slow to open."""


def page(
    title: str,
    comparison: Comparison,
    changes: Sequence[QueryChange],
    kinds: Mapping[str, Comparison],
    sections: Mapping[str, Sequence[str]] | None = None,
    figures: Mapping[str, str] | None = None,
) -> str:
    """HTML of a comparison.

    ``changes``: of ``query_changes``, those that moved most first. ``kinds``: of ``slices``. ``sections``: heading to
    lines of Markdown, as in ``markdown``; HTML in them stays text. ``figures``: SVG to be put below the heading of that
    name; it is trusted.
    """
    environment = Environment(
        loader=PackageLoader("sharpen.evaluation.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    source, _, _ = environment.loader.get_source(environment, "report.js")
    script = source.strip()
    shown = changes[:MOST_QUERIES]
    header, rows = table(comparison)
    as_html = lambda lines: Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render("\n".join(lines)))  # noqa: E731
    return environment.get_template("report.html.j2").render(
        title=title,
        comparison=comparison,
        summary=sentence(comparison).replace("**", ""),
        how=HOW.replace("*", ""),
        power=power(comparison),
        header=header,
        rows=rows,
        intervals=Markup(charts.intervals(comparison)),
        scatter=Markup(
            charts.scatter({f"q-{n}": (c.before, c.after) for n, c in enumerate(shown, start=1)}, comparison.names)
        ),
        changes=shown,
        total=len(changes),
        slices=as_html(kinds_table(kinds)),
        sections={
            name: (as_html(lines), Markup((figures or {}).get(name, ""))) for name, lines in (sections or {}).items()
        },
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
