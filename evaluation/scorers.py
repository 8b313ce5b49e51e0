"""Names of scorers, as recipes have them. Nothing here loads torch."""

from __future__ import annotations

from typing import Annotated

from sharpen.evaluation.settings import MODEL, Marker

BASE = "base"
"""The encoder that is to be tuned, by cosine."""
BM25_SCORER = "bm25"
FUSED = "fused"
"""BM25 and the base together, each with mean 0 and deviation 1 over a query's documents."""
ENCODER = "encoder:"
"""Before the name of a bi-encoder; any other name is a cross-encoder's."""
BUILT_IN = (BASE, BM25_SCORER, FUSED)


def needs_base(scorer: str) -> bool:
    """Whether the base's scores are a part of the scorer's."""
    return scorer in (BASE, FUSED)


def scorer_digest(scorer: str) -> str:
    """What stands for a scorer in a fingerprint."""
    if scorer in BUILT_IN:
        return scorer
    return f"{ENCODER if scorer.startswith(ENCODER) else ''}{MODEL.digest(scorer.removeprefix(ENCODER))}"


def _check(scorer: str) -> None:
    if scorer not in BUILT_IN:
        MODEL.check(scorer.removeprefix(ENCODER))


ScorerName = Annotated[str, Marker(scorer_digest, _check)]
"""``base``, ``bm25``, ``fused``, ``encoder:<name>`` or a cross-encoder's folder or name. ``base`` and ``fused`` stand
for themselves in a fingerprint; the encoder must be beside them in it."""
