"""Which candidates are taken: so many a query, from one miner or from several by their weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

from sharpen.evaluation.beir import ALSO_ANSWERS, Corpus, Query
from sharpen.sdg.negatives.candidates import EXTRA_DEPTH, candidates
from sharpen.sdg.negatives.record import MinedRows, Negative, Reason

Mix = Literal["instance", "concatenation"]
"""``instance``: the negatives of one query come from all miners, by their weights. ``concatenation``: a query has so
many of each miner, and a row of the training holds those of one."""
TooFew = Literal["leave_out", "others", "random"]
"""What a query gets where a miner has fewer candidates than wanted: nothing more (it is left out of the training then),
what the other miners have left, or documents drawn at random."""


@dataclass(frozen=True)
class DrawOptions:
    """How candidates are drawn.

    ``weights``: miner to its part of a query's negatives; where that is no whole number, each query rounds up or down
    at random, so that they hold on the whole. ``more``: negatives drawn after the ``per_query`` ones, which do not
    change which these are.
    """

    weights: Mapping[str, float]
    per_query: int
    mix: Mix = "instance"
    too_few: TooFew = "leave_out"
    more: int = 0
    seed: int = 13


@dataclass(frozen=True)
class Drawn:
    """All rows, those of a query together, and the number of queries that got fewer than wanted of their miners."""

    rows: list[Negative]
    too_few: int


def draw(
    queries: Sequence[Query],
    rows: MinedRows,
    options: DrawOptions,
    corpus: Corpus | None = None,
    held_out: Sequence[str] = (),
) -> Drawn:
    """Draw ``per_query`` negatives for each query, and ``more`` after them.

    ``rows``: miner to query ID to rows as of ``candidates``, filtered or not. No document is taken twice for a query.
    What is drawn is ``kept`` and the other candidates are left out of the result; what was dropped or relabelled stays
    in it. Each query draws with its own seed, so it does not matter which others there are. ``corpus`` and ``held_out``
    are for ``too_few: random``. Raises ``ValueError`` if that lacks a corpus.
    """
    if options.too_few == "random" and corpus is None:
        raise ValueError("documents are to be drawn at random, and there is no corpus to draw from")
    documents = RandomDocuments(corpus, held_out, options.seed) if options.too_few == "random" else None
    result: list[Negative] = []
    too_few = 0
    for query in queries:
        by_miner = {miner: list(rows.get(miner, {}).get(query.id, ())) for miner in options.weights}
        of_query = _QueryDraw(query, by_miner, options, documents)
        taken = of_query.draw()
        too_few += of_query.is_short
        result += [row for mined in by_miner.values() for row in mined if row.verdict != "candidate"]
        result += [replace(n, verdict="kept") for n in taken]
    return Drawn(result, too_few)


@dataclass
class RandomDocuments:
    """Documents drawn at random from what may be a negative."""

    corpus: Corpus
    held_out: Sequence[str]
    seed: int

    def __post_init__(self) -> None:
        self._ids = sorted(self.corpus)
        self._held_out_texts = {self.corpus[i].copy_key for i in self.held_out if i in self.corpus}

    def draw(
        self, query: Query, ruled_out: Iterable[str], number: int, miner: str, rng: random.Random
    ) -> list[Negative]:
        """At least ``number``, where there are so many; none of ``ruled_out``, nor a copy of one."""
        texts = {self.corpus[i].copy_key for i in ruled_out if i in self.corpus} | self._held_out_texts
        drawn = rng.sample(self._ids, min(len(self._ids), 4 * number + EXTRA_DEPTH))
        answers = [*query.metadata["positives"], *query.metadata.get(ALSO_ANSWERS, ())]
        allowed = {i: self.corpus[i] for i in drawn if self.corpus[i].copy_key not in texts}
        allowed |= {i: self.corpus[i] for i in answers if i in self.corpus}
        run = {query.id: dict.fromkeys((i for i in drawn if i in allowed), 0.0)}
        return candidates([query], run, allowed, (), miner, (1, len(self._ids)), self.seed)[query.id]


@dataclass
class _QueryDraw:
    """The draw of one query: what its miners have, and what is taken so far."""

    query: Query
    rows: Mapping[str, list[Negative]]
    options: DrawOptions
    documents: RandomDocuments | None
    taken: list[Negative] = field(default_factory=list)
    is_short: bool = False
    """Whether its miners had fewer than the first ``per_query``."""

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.options.seed}/{self.query.id}")

    def draw(self) -> list[Negative]:
        for part, number in enumerate((self.options.per_query, self.options.more)):
            quotas = self._quotas(part, number)
            start = len(self.taken)
            for miner, quota in quotas.items():
                self.taken += self._sample(self.rows[miner], quota, miner)
            drawn = self.taken[start:]
            missing = sum(quotas.values()) - len(drawn)
            self.is_short |= part == 0 and missing > 0
            if not missing:
                continue
            if self.options.too_few == "leave_out":
                break  # more would stand in the places of those that are missing
            for miner, quota in quotas.items():
                self._fill(miner, quota - sum(n.miner == miner for n in drawn))
        return self.taken

    def _quotas(self, part: int, number: int) -> dict[str, int]:
        if self.options.mix == "concatenation":
            return dict.fromkeys(self.rows, number)
        rng = random.Random(f"{self.options.seed}/{self.query.id}/{part}")
        return split_by_weight(self.options.weights, number, rng)

    def _sample(self, rows: Sequence[Negative], number: int, miner: str) -> list[Negative]:
        """In the order of their ranks; of one training row, no document twice. The rows of a concatenation are of one
        miner each."""
        one_row = self.options.mix == "instance"
        ids = {n.doc_id for n in self.taken if one_row or n.miner == miner}
        left = [n for n in rows if n.verdict == "candidate" and n.doc_id not in ids]
        chosen = [n for n in left if n.reason == Reason.DECIDED][:number]  # a person said so
        others = [n for n in left if n not in chosen] if chosen else left
        drawn = self._rng.sample(others, min(number - len(chosen), len(others)))
        return sorted([*chosen, *drawn], key=lambda n: n.rank)

    def _fill(self, miner: str, missing: int) -> None:
        """Take what stands in for negatives that ``miner`` lacks: at random, or from the other miners."""
        if self.documents is None:
            for other in (m for m in self.rows if m != miner):
                drawn = self._sample(self.rows[other], missing, miner)
                detail = f"from {other}, as {miner} had too few"
                self.taken += [replace(n, miner=miner, reason=Reason.FROM_OTHER_MINER, detail=detail) for n in drawn]
                missing -= len(drawn)
        elif missing:
            ruled_out = [
                n.doc_id for rows in self.rows.values() for n in rows if n.verdict in ("dropped", "relabelled")
            ]
            rows = self.documents.draw(self.query, ruled_out, missing, miner, self._rng)
            detail = f"drawn at random, as {miner} had too few"
            drawn = self._sample(rows, missing, miner)
            self.taken += [replace(n, reason=Reason.DRAWN_AT_RANDOM, detail=detail) for n in drawn]


def split_by_weight(weights: Mapping[str, float], number: int, rng: random.Random) -> dict[str, int]:
    """``number`` split by weights: systematic sampling, so that each part is its weight's, rounded up or down.

    >>> split_by_weight({"a": 3, "b": 1}, 4, random.Random(0))
    {'a': 3, 'b': 1}
    """
    total = sum(weights.values())
    ends = [end / total * number for end in accumulate(weights.values())]
    start = rng.random()
    points = [start + n for n in range(number)]
    counts = [
        sum(low <= (p if p < number else p - number) < high for p in points)
        for low, high in zip([0.0, *ends[:-1]], ends, strict=True)
    ]
    counts[-1] += number - sum(counts)  # what a rounding put beyond the end
    return dict(zip(weights, counts, strict=True))
