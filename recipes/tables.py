"""Tables of the terminal."""

from __future__ import annotations

from rich.table import Table


def numbers_table(first: str, *others: str) -> Table:
    """A table whose columns but the first one hold numbers."""
    view = Table()
    view.add_column(first, overflow="fold")  # a name that is cut off is none
    for name in others:
        view.add_column(name, justify="right")
    return view


def shorten(text: str, words: int) -> str:
    """The first words of a text.

    >>> shorten("a b c", 2)
    'a b …'
    """
    parts = text.split()
    return " ".join(parts[:words]) + (" …" if len(parts) > words else "")
