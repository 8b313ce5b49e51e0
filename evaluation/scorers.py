"""Names of scorers, as recipes have them. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import CROSS_ENCODER, Marker
from sharpen.evaluation.settings import ENCODER as DENSE_ENCODER

BASE = "base"
"""The encoder that is to be tuned, by cosine."""
BM25_SCORER = "bm25"
FUSED = "fused"
"""The mixture of the base and BM25 with the weights below."""
FUSED_WEIGHTS = {BASE: 1.0, BM25_SCORER: 0.3}
"""Of six weights of BM25, 0.3 to 0.5 are best with all-MiniLM-L6-v2 on SciFact's training claims, and 0.1 on questions
about Python; fitted ones are better than any default."""
ENCODER = "encoder:"
"""Before the name of a bi-encoder; any other name is a cross-encoder's."""
RERANKER = "reranker"
"""The cross-encoder that is trained in the same run."""
LLM_POINTWISE = "llm"
"""An LLM that is asked of each document whether it answers the query."""
LLM_LISTWISE = "llm:listwise"
"""An LLM that puts a query's documents in order, as in RankGPT."""
LLM_SCORERS = (LLM_POINTWISE, LLM_LISTWISE)
"""Lent to ``Models`` by whoever has the LLM; they score what other scorers rank first."""
BUILT_IN = (BASE, BM25_SCORER, FUSED, RERANKER, *LLM_SCORERS)


def members_of(teacher: Teacher) -> tuple[str, ...]:
    """The scorers of a teacher.

    >>> members_of("fused"), members_of(["bm25", "encoder:all-mpnet-base-v2"])
    (('base', 'bm25'), ('bm25', 'encoder:all-mpnet-base-v2'))
    """
    return tuple(teacher if is_fitted(teacher) else mixture_of(teacher))


def check_mixture(teacher: Teacher | None) -> Teacher | None:
    """The teacher as it is. Raises ``ValueError`` for a mixture of nothing, a weight that is not above 0, and ``fused``
    inside of a mixture.

    >>> check_mixture({"base": 1.0, "bm25": -0.3})
    Traceback (most recent call last):
    ValueError: weights are above 0, and bm25 has -0.3
    """
    if teacher is None or isinstance(teacher, str):
        return teacher
    if not teacher:
        raise ValueError("a mixture names at least one scorer")
    if FUSED in teacher:
        raise ValueError("fused is a mixture itself; name base and bm25 in its place")
    if isinstance(teacher, dict) and (low := [scorer for scorer, weight in teacher.items() if not weight > 0]):
        raise ValueError(f"weights are above 0, and {low[0]} has {teacher[low[0]]:g}")
    return teacher


def mixture_of(teacher: str | Mapping[str, float]) -> dict[str, float]:
    """Scorers with their weights.

    >>> mixture_of("bm25"), mixture_of("fused")
    ({'bm25': 1.0}, {'base': 1.0, 'bm25': 0.3})
    """
    if isinstance(teacher, str):
        return dict(FUSED_WEIGHTS) if teacher == FUSED else {teacher: 1.0}
    return dict(teacher)


def needs_base(teacher: Teacher) -> bool:
    """Whether the base's scores are a part of the teacher's."""
    return BASE in members_of(teacher)


def llm_members(teacher: Teacher) -> tuple[str, ...]:
    """Those of a teacher's scorers for which an LLM is asked.

    >>> llm_members({"base": 1.0, "llm": 0.5}), llm_members("fused")
    (('llm',), ())
    """
    return tuple(scorer for scorer in members_of(teacher) if scorer in LLM_SCORERS)


def ranks_corpus(scorer: str) -> bool:
    """Whether it can score all documents: BM25 and encoders can, a cross-encoder and an LLM cannot.

    >>> [ranks_corpus(scorer) for scorer in ("bm25", "encoder:all-mpnet-base-v2", "a/cross-encoder", "llm")]
    [True, True, False, False]
    """
    return scorer in (BASE, BM25_SCORER) or scorer.startswith(ENCODER)


def is_encoder(scorer: str) -> bool:
    """Whether it scores by the cosine of two vectors.

    >>> [scorer for scorer in ("bm25", "base", "encoder:all-mpnet-base-v2", "a/cross-encoder") if is_encoder(scorer)]
    ['base', 'encoder:all-mpnet-base-v2']
    """
    return scorer == BASE or scorer.startswith(ENCODER)


def is_fitted(teacher: Teacher | None) -> bool:
    """Whether the weights are still to be found: a list of scorers has none."""
    return isinstance(teacher, list | tuple)


def scorer_digest(scorer: str) -> str:
    """What stands for a scorer in a fingerprint."""
    if scorer in BUILT_IN:
        return scorer
    return f"{ENCODER if scorer.startswith(ENCODER) else ''}{CROSS_ENCODER.digest(scorer.removeprefix(ENCODER))}"


def _check(scorer: str) -> None:
    if scorer not in BUILT_IN:
        (DENSE_ENCODER if scorer.startswith(ENCODER) else CROSS_ENCODER).check(scorer.removeprefix(ENCODER))


def _check_without_llm(scorer: str) -> None:
    if scorer in LLM_SCORERS:
        raise InputError(
            f"{scorer} is a scorer for teachers only; to have an LLM look at negatives, take a filter of kind judge"
        )
    _check(scorer)


def _teacher_digest(teacher: str | dict[str, float]) -> Any:  # of a tuple, each one
    if isinstance(teacher, dict):
        return {scorer_digest(scorer): weight for scorer, weight in teacher.items()}
    return scorer_digest(teacher)


def _check_teacher(teacher: str | dict[str, float]) -> None:
    for scorer in members_of(teacher):
        _check(scorer)


Teacher = str | dict[str, float] | tuple[str, ...]
"""One scorer, a mixture of several with their weights, or several whose weights are fitted."""
TeacherName = Annotated[Teacher, Marker(_teacher_digest, _check_teacher)]
ScorerName = Annotated[str, Marker(scorer_digest, _check_without_llm)]
"""``base``, ``bm25``, ``fused``, ``encoder:<name>`` or a cross-encoder's folder or name. ``base`` and ``fused`` stand
for themselves in a fingerprint; the encoder must be beside them in it, beside ``reranker`` its folder's files, and in a
teacher beside ``llm`` and ``llm:listwise`` which LLM it is and how it is asked."""
