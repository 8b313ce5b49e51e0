"""``sharpen search``: what a run's systems find for a query, in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sharpen.recipes.serving.marks import Marks
from sharpen.recipes.serving.systems import Found, RunSystems
from sharpen.recipes.serving.why import Move, moves, segments
from sharpen.recipes.tables import printable

COLUMN = 30
"""Characters that a system's column takes at least; where there are fewer, systems stand one below the other."""
SNIPPET = 240
PROMPT = "query, or of the last one +1 (relevant) -2 (not) =3 (take back); empty: end> "
_MARK = re.compile(r"([+\-=])(\d+)")
_MEANS = {"+": True, "-": False, "=": None}


class Terminal:
    """Searches of a run's systems, printed. ``k``: documents of each system. ``who``: stands with all marks."""

    def __init__(self, folder: Path, console: Console, k: int, who: str) -> None:
        self.systems, self.console, self.k, self.who = RunSystems(folder, console), console, k, who
        self.marks = Marks.of_run(folder, self.systems.corpus)
        self._query: str | None = None
        self._numbers: dict[str, int] = {}

    def ask(self) -> None:
        """Read queries and marks until there is an empty line, or no more. Raises ``InputError`` as ``mark`` does."""
        while line := self._line():
            found = _MARK.findall(line)
            if found and not _MARK.sub("", line).strip():
                self.mark([(sign, int(number)) for sign, number in found])
            else:
                self.search(line)

    def search(self, query: str) -> None:
        """Print what all systems find, and what moved between base and tuned."""
        found = self.systems.search(query)
        changed = moves(self.systems, query, found, self.k)
        shown = dict.fromkeys(i for of in found.values() for i in list(of.scores)[: self.k])
        shown |= dict.fromkeys(move.document for move in changed)
        self._query, self._numbers = query, {i: n for n, i in enumerate(shown, start=1)}
        views = [self._column(name, of, found["base"]) for name, of in found.items()]
        if self.console.width >= COLUMN * len(views):
            self.console.print(Columns(views, equal=True, expand=True))
        else:
            for view in views:
                self.console.print(view)
        self._documents(query)
        self._moved(changed)

    def mark(self, signs: list[tuple[str, int]]) -> None:
        """Mark documents of the last query by their numbers."""
        self.systems.check_same()
        by_number = {number: i for i, number in self._numbers.items()}
        for sign, number in signs:
            if self._query is None or number not in by_number:
                self._say(f"{sign}{number}: there is no such document above; search first")
                continue
            self.marks.mark(self._query, by_number[number], _MEANS[sign], self.who)
        queries, marks = self.marks.count()
        self._say(f"{marks:,} marks of {queries:,} queries in {self.marks.folder}\n{self.marks.how_to_use()}")

    def _line(self) -> str:
        try:
            return self.console.input(PROMPT, markup=False).strip()
        except EOFError:
            return ""

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _column(self, name: str, found: Found, base: Found) -> Group:
        system = self.systems.systems[name]
        best = ", to deploy" if system.deploy else ""
        head = Text(f"{system.label}{best}, {1000 * found.seconds:.0f} ms", style="bold")
        view = Table.grid(padding=(0, 1))
        for rank, (i, score) in enumerate(list(found.scores.items())[: self.k], start=1):
            document = self.systems.corpus[i]
            moved = _change(rank, base.ranks.get(i)) if name not in ("bm25", "base") else Text()
            number = Text(f"[{self._numbers[i]}]", style="bold")
            view.add_row(number, Text(printable(document.title or i)), Text(f"{score:.3f}", style="dim"), moved)
        if not found.scores:
            view.add_row("", Text("nothing found", style="dim"), "", "")
        return Group(head, view, "")

    def _documents(self, query: str) -> None:
        marked = self.marks.of(query)
        for i, number in self._numbers.items():
            document = self.systems.corpus[i]
            sign = {True: " +", False: " -"}.get(marked.get(i), "")
            line = Text(f"[{number}]{sign} ", style="bold")
            line.append(printable(f"{i}: {document.title} " if document.title else f"{i}: "), style="dim")
            for piece, common in segments(query, document.text, document, SNIPPET):
                line.append(printable(piece), style="bold yellow" if common else "")
            self.console.print(line)

    def _moved(self, changed: list[Move]) -> None:
        if not changed:
            self._say("\nNothing moved between base and tuned.")
            return
        view = Table(
            "", "base", "tuned", "moved", "BM25", "why", title="What moved from base to tuned", show_lines=True
        )
        for move in changed:
            ranks = [f"{place.rank:,}" if place.rank else "–" for place in (move.base, move.tuned)]
            bm25 = "0" if move.bm25 is None else f"{move.bm25:.1f}"
            view.add_row(Text(f"[{self._numbers[move.document]}]"), *ranks, move.kind, bm25, Text(move.sentence))
        self.console.print(view)


def _change(rank: int, before: int | None) -> Text:
    if before is None or before == rank:
        return Text("=" if before else "new", style="dim")
    return Text(f"▲{before - rank}", style="green") if before > rank else Text(f"▼{rank - before}", style="red")
