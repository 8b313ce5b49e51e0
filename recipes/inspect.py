"""What became of a run's queries: accepted, borderline and rejected ones, by strategy and reason, and sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sharpen.evaluation.beir import Corpus, Document, Query, read_corpus, read_queries
from sharpen.evaluation.files import InputError
from sharpen.recipes.tables import numbers_table, printable, shorten
from sharpen.sdg.rejections import read_rejections

SHOWN = 12
"""Pairs shown of each kind."""


@dataclass(frozen=True)
class _Row:
    """A query for the tables; ``reason``: its code, empty for one that was kept."""

    text: str
    document: str
    strategy: str
    reason: str
    message: str
    borderline: bool = False


def inspect_run(
    folder: Path, console: Console, strategy: str | None = None, reason: str | None = None, number: int = SHOWN
) -> None:
    """Print accepted, borderline and rejected pairs of a run, and how many there are by strategy and reason.

    Borderline are those that a filter with a number rejected narrowly. ``strategy``, ``reason``: only those with this
    name, and with this text in the reason or its message. Raises ``InputError`` if the run has no pairs yet.
    """
    if not (folder / "pairs" / "queries.jsonl").exists():
        raise InputError(f"{folder}: no pairs there yet; give the folder of a run, like runs/quickstart")
    kept = [row for row in _kept(folder) if strategy is None or row.strategy == strategy]
    rejected = [row for row in _rejected(folder) if strategy is None or row.strategy == strategy]
    if strategy and not kept and not rejected:
        raise InputError(f"{folder}: no query of a strategy named {strategy!r}")
    if reason:
        rejected = [row for row in rejected if reason.lower() in f"{row.reason} {row.message}".lower()]
    console.print(_by_strategy(kept, rejected))
    console.print(_by_reason(rejected))
    sessions = [q for q in _generated(folder) if "session" in q.metadata and strategy in (None, q.metadata["strategy"])]
    if sessions:
        console.print(_by_round(sessions))
    corpus = read_corpus(folder / "pairs" / "corpus.jsonl")
    borderline = [row for row in rejected if row.borderline]
    others = [row for row in rejected if not row.borderline]
    for title, rows in (("Accepted", kept), ("Borderline", borderline), ("Rejected", others)):
        console.print(_pairs(f"{title} ({len(rows):,})", rows, corpus, number))


def _generated(folder: Path) -> Iterable[Query]:
    """What the filters were given."""
    return read_queries(folder / "queries" / "queries.jsonl").values()


def _kept(folder: Path) -> list[_Row]:
    queries = read_queries(folder / "pairs" / "queries.jsonl").values()
    return [_Row(q.text, q.metadata["positives"][0], q.metadata["strategy"], "", _scores(q.metadata)) for q in queries]


def _rejected(folder: Path) -> list[_Row]:
    rejections = [r for stage in ("pairs", "queries") for r in read_rejections(folder / stage / "rejected.jsonl")]
    return [_Row(r.text, r.document, r.strategy, str(r.reason), r.message, r.borderline) for r in rejections]


def _scores(metadata: dict[str, Any]) -> str:
    scores = metadata.get("scores")
    return f"judge: overall {scores['overall']:g}" if scores else "passed"


def _by_strategy(kept: Sequence[_Row], rejected: Sequence[_Row]) -> Table:
    view = numbers_table("strategy", "accepted", "rejected", "of these borderline")
    for name in sorted({row.strategy for row in (*kept, *rejected)}):
        of_name = [row for row in rejected if row.strategy == name]
        accepted = sum(row.strategy == name for row in kept)
        counts = (accepted, len(of_name), sum(row.borderline for row in of_name))
        view.add_row(escape(name), *(f"{n:,}" for n in counts))
    return view


def _by_reason(rejected: Sequence[_Row]) -> Table:
    view = numbers_table("reason", "queries")
    for name, n in Counter(row.reason for row in rejected).most_common():
        view.add_row(escape(name), f"{n:,}")
    return view


def _by_round(queries: Sequence[Query]) -> Table:
    """Of the queries of simulated users, before the filters."""
    view = numbers_table("strategy", "round", "queries", "found the document", "among the first 100")
    by_round: dict[tuple[str, int], list[Query]] = {}
    for query in queries:
        by_round.setdefault((query.metadata["strategy"], query.metadata["round"]), []).append(query)
    for (name, number), members in sorted(by_round.items()):
        found = sum(q.metadata["found"] for q in members)
        ranked = sum(q.metadata["rank"] is not None for q in members)
        view.add_row(escape(name), str(number), *(f"{n:,}" for n in (len(members), found, ranked)))
    return view


def _pairs(title: str, rows: Sequence[_Row], corpus: Corpus, number: int) -> Table:
    view = Table("query", "document", "why", title=title, show_lines=True, title_justify="left")
    step = max(1, len(rows) // number)  # spread over the whole, the same ones each time
    for row in rows[::step][:number]:
        document = corpus.get(row.document, Document(row.document, ""))
        text = f"{row.document}: {shorten(document.content, 30)}"
        cells = (shorten(row.text, 30), text, f"{row.strategy}: {row.message}")
        view.add_row(*(escape(printable(cell)) for cell in cells))
    return view
