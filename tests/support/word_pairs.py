"""Queries and documents of a few words, which a tiny model learns in some steps: each query has a word of its document,
and the negative lacks it."""

from __future__ import annotations

from sharpen.evaluation.beir import Document, Query
from sharpen.training.triplets import Triplet
from tests.support.tiny_models import WORDS

NOUNS, OTHERS = WORDS.split()[:8], WORDS.split()[8:16]
CORPUS = {
    f"{a}-{kind}": Document(f"{a}-{kind}", f"{a} {b} {b if kind == 'good' else a}")
    for a, b in zip(NOUNS, OTHERS, strict=True)
    for kind in ("good", "bad")
}
QUERIES = {a: Query(a, f"the {b}") for a, b in zip(NOUNS, OTHERS, strict=True)}
TRIPLETS = [Triplet(a, f"{a}-good", (f"{a}-bad",)) for a in NOUNS]
