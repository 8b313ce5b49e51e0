"""Tables of the terminal."""

from __future__ import annotations

import re

from rich.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def numbers_table(first: str, *others: str) -> Table:
    """A table whose columns but the first one hold numbers."""
    view = Table()
    view.add_column(first, overflow="fold")  # a name that is cut off is none
    for name in others:
        view.add_column(name, justify="right")
    return view


def printable(text: str) -> str:
    r"""A text of a document, or an LLM's, without what a terminal would take for a command: to write a file, to change
    its title.

    >>> printable("\x1b]0;title\x07 ice\n\tflows")
    '�]0;title� ice\n\tflows'
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str, words: int) -> str:
    """The first words of a text.

    >>> shorten("a b c", 2)
    'a b …'
    """
    parts = text.split()
    return " ".join(parts[:words]) + (" …" if len(parts) > words else "")
