"""Draws that hang on the seed and on what is drawn, and never on what else there is."""

from __future__ import annotations

import hashlib


def drawn(seed: int, *key: str) -> int:
    """A number of 64 bits for one thing, the same whichever others there are. Those with the least of them are a sample
    of which adding, removing or changing other things replaces as few as can be.

    >>> drawn(13, "documents", "d1") == drawn(13, "documents", "d1") != drawn(13, "documents", "d2")
    True
    """
    return int.from_bytes(hashlib.sha256("/".join((str(seed), *key)).encode()).digest()[:8], "big")
