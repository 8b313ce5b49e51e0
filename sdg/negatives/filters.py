"""What of the candidates is likely relevant, and so no negative. Filters go with any miner, and after one another.

Each takes and returns rows by query, as ``candidates`` gives them; what it drops gets the verdict and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.answers import held_to_schema, list_schema, parse_json
from sharpen.sdg.filters.text import first_words
from sharpen.sdg.llm.client import LLM, Answer, Request
from sharpen.sdg.negatives.record import Negative
from sharpen.sdg.prompts import template

Rows = Mapping[str, Sequence[Negative]]
PairScores = Mapping[tuple[str, str], float]
"""(Query ID, document ID) to a score."""
Limit = Callable[[str], float]
"""The highest score that a negative of a query may have."""

NEAR_THE_POSITIVE = 0.95
"""Share of the way from random documents to the positive up to which a document is taken for a negative, where that is
calibrated. NV-Retriever found 0.95 of the positive's score the best of those that it tried, for a model whose random
documents score near 0."""
QUANTILE = 0.25
"""Of known positives, so many score lower than the absolute limit that is calibrated."""
MOST, LEAST = 0.5, 0.005
"""Shares of the candidates: who drops more, or less, is likely set wrong."""


@dataclass(frozen=True)
class Calibration:
    """Where a scorer puts what is known: the positives of each query (the least of a query's own), and documents drawn
    at random.

    Thresholds do not transfer between models, as their scores begin and end elsewhere: random documents have a cosine
    of 0.05 by one model and of 0.75 by another. What is between random documents (0) and the positive (1) has a place
    on the same scale for all of them, and that is where limits are set.
    """

    positives: Mapping[str, float]
    random: float
    """Mean score of random documents."""

    def absolute(self) -> float:
        """The quantile of the positives' scores below which a quarter of them lie."""
        return float(np.quantile(list(self.positives.values()), QUANTILE))

    def margin(self) -> float:
        """As much as lies, for the query in the middle, between the positive and ``NEAR_THE_POSITIVE`` of the way to
        it."""
        return (1 - NEAR_THE_POSITIVE) * float(np.median([p - self.random for p in self.positives.values()]))

    def near_positive(self, query_id: str) -> float:
        """For each query ``NEAR_THE_POSITIVE`` of the way from random documents to its positive."""
        return self.random + NEAR_THE_POSITIVE * (self.positives[query_id] - self.random)


def calibrate(queries: Sequence[Query], scores: PairScores, random_scores: Iterable[float]) -> Calibration:
    """``scores``: of each query's positives; ``random_scores``: of the queries with documents drawn at random."""
    return Calibration(
        {q.id: min(scores[q.id, i] for i in q.metadata["positives"]) for q in queries},
        float(np.mean(list(random_scores))),
    )


def drop_above(rows: Rows, scores: PairScores, limit: Limit, reason: str) -> dict[str, list[Negative]]:
    """Drop the candidates that score above their query's limit. Absolute limits, margins and shares of the positive's
    score differ in ``limit`` alone."""
    return {
        query_id: [
            (
                replace(n, verdict="dropped", reason=reason)
                if n.verdict == "candidate" and scores[query_id, n.doc_id] > limit(query_id)
                else n
            )
            for n in own
        ]
        for query_id, own in rows.items()
    }


def judged(
    rows: Rows,
    queries: Mapping[str, Query],
    corpus: Corpus,
    llm: LLM,
    *,
    action: Literal["drop", "relabel"] = "drop",
    per_prompt: int = 5,
    max_words: int = 200,
    chat: bool = True,
    progress: Callable[[Answer], None] | None = None,
) -> dict[str, list[Negative]]:
    """Ask an LLM which candidates answer their query. Those that do are dropped, or become positives (``relabel``, as
    in RLHN).

    ``per_prompt`` candidates of one query are shown at once. An answer without exactly one verdict for each of them
    drops them all, as nobody can say which is whose. Raises ``InputError`` as ``LLM.ask`` does.
    """
    batches = [
        (q, own[start : start + per_prompt])
        for q, found in rows.items()
        for own in [[n for n in found if n.verdict == "candidate"]]
        for start in range(0, len(own), per_prompt)
    ]
    requests = (
        _question(queries[q].text, [corpus[n.doc_id].content for n in batch], max_words, chat) for q, batch in batches
    )
    answers = llm.ask(requests, lambda _n, _r, answer: (progress and progress(answer), answer)[1])
    said: dict[tuple[str, str], tuple[str, str]] = {}
    for (q, batch), answer in zip(batches, answers, strict=True):
        relevant = None if answer.error else _verdicts(answer.text, len(batch))
        for place, n in enumerate(batch):
            if relevant is None:
                said[q, n.doc_id] = (
                    "dropped",
                    (
                        f"judge: LLM error: {answer.error.partition(':')[0]}"
                        if answer.error
                        else "judge: its answer does not match its documents"
                    ),
                )
            elif relevant[place]:
                said[q, n.doc_id] = (
                    ("relabelled", "judge: relevant") if action == "relabel" else ("dropped", "judge: relevant")
                )
    return {
        q: [
            (
                replace(n, verdict=said[q, n.doc_id][0], reason=said[q, n.doc_id][1])
                if n.verdict == "candidate" and (q, n.doc_id) in said
                else n
            )
            for n in own
        ]
        for q, own in rows.items()
    }


def agreed(found: Mapping[str, Rows], corpus: Corpus) -> dict[str, dict[str, list[Negative]]]:
    """One verdict for a query and a text, whoever found it: what one miner's rows lose is no candidate in another's,
    nor are copies of what has become a positive, which it becomes once."""
    result = {miner: {q: list(own) for q, own in rows.items()} for miner, rows in found.items()}
    for query_id in {q: None for rows in found.values() for q in rows}:
        verdicts: dict[str, Negative] = {}
        for rows in found.values():
            for n in rows.get(query_id, ()):
                key = corpus[n.doc_id].copy_key
                if n.verdict == "relabelled" or (n.verdict == "dropped" and key not in verdicts):
                    verdicts[key] = n
        relabelled: set[str] = set()
        for rows in result.values():
            own = rows.get(query_id, [])
            for place, n in enumerate(own):
                key = corpus[n.doc_id].copy_key
                said = verdicts.get(key)
                if said is None or (n.verdict == "dropped" and said.verdict == "dropped"):
                    continue
                if said.verdict == "relabelled" and key not in relabelled and n.verdict == "relabelled":
                    relabelled.add(key)
                elif n.verdict != "dropped":
                    own[place] = replace(
                        n,
                        verdict="dropped",
                        reason=said.reason if said.verdict == "dropped" else "same text as a positive",
                    )
    return result


def counted(before: Rows, after: Rows) -> dict[str, int]:
    """Candidates that a filter was given, and what it did with them."""
    given = sum(n.verdict == "candidate" for own in before.values() for n in own)
    left = sum(n.verdict == "candidate" for own in after.values() for n in own)
    relabelled = sum(n.verdict == "relabelled" for own in after.values() for n in own) - sum(
        n.verdict == "relabelled" for own in before.values() for n in own
    )
    return {"candidates": given, "dropped": given - left - relabelled} | (
        {"relabelled": relabelled} if relabelled else {}
    )


def doubt(counts: Mapping[str, int]) -> str | None:
    """What is to be said of a filter that takes nearly nothing, or most."""
    if not counts["candidates"]:
        return None
    share = 1 - (counts["candidates"] - counts["dropped"] - counts.get("relabelled", 0)) / counts["candidates"]
    if share > MOST:
        return f"{share:.0%} of the candidates: its threshold is likely not that of this model and corpus"
    if share < LEAST:
        return f"{share:.1%} of the candidates, which is nearly nothing"
    return None


def _question(query: str, documents: Sequence[str], max_words: int, chat: bool) -> Request:
    prompt = template("judge_negatives.j2").render(
        query=query, documents=[first_words(d, max_words) for d in documents]
    )
    schema = list_schema("relevant", len(documents), {"type": "boolean"})
    return Request(
        prompt.strip(),
        chat,
        held_to_schema({"temperature": 0.0, "max_tokens": 8 * len(documents) + 40}, "relevant", schema, chat),
    )


def _verdicts(text: str, count: int) -> list[bool] | None:
    try:
        value = parse_json(text)
    except ValueError:
        return None
    found = value.get("relevant") if isinstance(value, dict) else value
    return (
        found if isinstance(found, list) and len(found) == count and all(isinstance(v, bool) for v in found) else None
    )
