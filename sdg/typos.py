"""Queries as people type them."""

from __future__ import annotations

import random

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {c: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, c in enumerate(row)}


def with_typo(text: str, rng: random.Random) -> str:
    """The text with one slip of the fingers in a word of four letters or more: two letters swapped, one left out, one
    doubled, or its neighbour on the keyboard. Without such a word, the text."""
    pieces = text.split(" ")
    long = [n for n, piece in enumerate(pieces) if len(piece) >= 4 and piece.isalpha()]
    if not long:
        return text
    n = rng.choice(long)
    piece, i = pieces[n], rng.randrange(1, len(pieces[n]) - 1)
    neighbours = _NEIGHBOURS.get(piece[i].lower(), "")
    slips = [
        piece[:i] + piece[i + 1] + piece[i] + piece[i + 2 :],
        piece[:i] + piece[i + 1 :],
        piece[:i] + piece[i] + piece[i:],
    ]
    if neighbours:
        slips.append(piece[:i] + rng.choice(neighbours) + piece[i + 1 :])
    pieces[n] = rng.choice([slip for slip in slips if slip != piece])
    return " ".join(pieces)
