"""Why a generative retriever finds what it finds: what it remembers, what it never reaches, where it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel

from sharpen.evaluation.beir import Qrels, Run
from sharpen.evaluation.runs import ranking

Cause = Literal["wrong beginning", "wrong end"]


class Memory(BaseModel):
    """``texts``: pieces of documents that the model was asked for the identifier of, whether it was trained on them
    (``trained``) or not; ``first`` and ``found``: fractions of which it was the first, or among its beams (Context2ID
    accuracy, HIT@1 and HIT@beams). ``documents``: those whose pieces or queries were looked for, of all that have an
    identifier; ``unreached``: of these, the ones that none of them found. ``failures``: queries whose document was not
    found, by the place where the best beam left its identifier."""

    texts: int
    trained: bool = True
    first: float
    found: float
    documents: int
    unreached: list[str]
    failures: dict[Cause, int]
    queries: int


def remembered(run: Run, positives: Mapping[str, str]) -> tuple[float, float]:
    """Fractions of the texts whose document is the first, and is found at all. ``positives``: text to document.

    >>> remembered({"t1": {"a": -0.1, "b": -2.0}, "t2": {"b": -0.3}}, {"t1": "b", "t2": "b"})
    (0.5, 1.0)
    """
    first = sum(ranking(run.get(text, {}))[:1] == [document] for text, document in positives.items())
    found = sum(document in run.get(text, {}) for text, document in positives.items())
    return first / len(positives), found / len(positives)


def unreached(documents: Sequence[str], runs: Sequence[tuple[Run, Mapping[str, str]]]) -> list[str]:
    """The documents that none of their own texts found, in their order. ``runs``: each with text to document."""
    reached = {d for run, positives in runs for text, d in positives.items() if d in run.get(text, {})}
    return [document for document in documents if document not in reached]


def failures(run: Run, qrels: Qrels, tokens: Mapping[str, Sequence[Sequence[int]]]) -> dict[Cause, int]:
    """Of the queries none of whose relevant documents was found: whether the best beam began as none of their
    identifiers does (their first token), or as one of them and went wrong later. ``tokens``: document to the tokens of
    each of its identifiers (several where chunks have their own); one that has none begins as nothing does.

    >>> tokens = {"a": [(5, 6, 0)], "b": [(5, 7, 0)], "c": [(8, 0)]}
    >>> failures({"q1": {"b": -1.0}, "q2": {"c": -1.0}, "q3": {"a": -1.0}}, dict.fromkeys(("q1", "q2", "q3"), {"a": 1}),
    ...     tokens)
    {'wrong beginning': 1, 'wrong end': 1}
    """
    counts: dict[Cause, int] = {"wrong beginning": 0, "wrong end": 0}
    for query, grades in qrels.items():
        relevant = [d for d, grade in grades.items() if grade > 0]
        scores = run.get(query, {})
        if not scores or any(d in scores for d in relevant):
            continue
        firsts = {identifier[0] for identifier in tokens[ranking(scores)[0]]}
        began = any(identifier[0] in firsts for d in relevant for identifier in tokens.get(d, ()))
        counts["wrong end" if began else "wrong beginning"] += 1
    return counts
