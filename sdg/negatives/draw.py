"""Which candidates are taken: so many a query, from one miner or from several by their shares."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.negatives.candidates import PASSED_OVER, candidates
from sharpen.sdg.negatives.record import Negative

Mix = Literal["instance", "concatenation"]
"""``instance``: the negatives of one query come from all miners, by their shares. ``concatenation``: a query has so
many of each miner, and a row of the training holds those of one."""
TooFew = Literal["leave_out", "others", "random"]
"""What a query gets where a miner has fewer candidates than wanted: nothing more (it is left out of the training then),
what the other miners have left, or documents drawn at random."""


@dataclass(frozen=True)
class Drawn:
    """All rows, those of a query together, and the number of queries that got fewer than wanted of their miners."""

    rows: list[Negative]
    too_few: int


def draw(
    queries: Sequence[Query],
    found: Mapping[str, Mapping[str, Sequence[Negative]]],
    shares: Mapping[str, float],
    per_query: int,
    seed: int,
    *,
    mix: Mix = "instance",
    too_few: TooFew = "leave_out",
    more: int = 0,
    corpus: Corpus | None = None,
    held_out: Sequence[str] = (),
) -> Drawn:
    """Draw ``per_query`` negatives for each query, and ``more`` after them, which do not change which the first are.

    ``found``: miner to query ID to rows as of ``candidates``, filtered or not. ``shares``: miner to its part of a
    query's negatives; where that is no whole number, each query rounds up or down at random, so that they hold on the
    whole. No document is taken twice for a query. What is drawn is ``kept`` and the other candidates are left out of
    the result; what was dropped or relabelled stays in it. Each query draws with its own seed, so it does not matter
    which others there are. ``corpus`` and ``held_out`` are for ``too_few: random``. Raises ``ValueError`` if that lacks
    a corpus.
    """
    if too_few == "random" and corpus is None:
        raise ValueError("documents are to be drawn at random, and there is no corpus to draw from")
    chance = _Chance(corpus, held_out, seed) if too_few == "random" else None
    rows: list[Negative] = []
    short = 0
    for query in queries:
        own = {miner: list(found.get(miner, {}).get(query.id, ())) for miner in shares}
        rows += [row for found_rows in own.values() for row in found_rows if row.verdict != "candidate"]
        rng = random.Random(f"{seed}/{query.id}")
        taken: list[Negative] = []
        for part, number in enumerate((per_query, more)):
            quotas = (
                dict.fromkeys(own, number)
                if mix == "concatenation"
                else _quotas(shares, number, random.Random(f"{seed}/{query.id}/{part}"))
            )
            drawn: list[Negative] = []
            for miner, quota in quotas.items():
                # of one training row, no document twice; the rows of a concatenation are of one miner each
                others = [n for n in taken + drawn if mix == "instance" or n.miner == miner]
                drawn += _sample(rng, own[miner], quota, others)
            missing = sum(quotas.values()) - len(drawn)
            short += part == 0 and missing > 0
            if missing and too_few != "leave_out":
                drawn += _filled(query, own, quotas, drawn, taken, rng, mix, chance)
            taken += drawn
            if missing and too_few == "leave_out":
                break  # more would stand in the places of those that are missing
        rows += [replace(n, verdict="kept") for n in taken]
    return Drawn(rows, short)


def _sample(rng: random.Random, rows: Sequence[Negative], number: int, taken: Sequence[Negative]) -> list[Negative]:
    """In the order of their ranks."""
    ids = {n.doc_id for n in taken}
    left = [n for n in rows if n.verdict == "candidate" and n.doc_id not in ids]
    return sorted(rng.sample(left, min(number, len(left))), key=lambda n: n.rank)


@dataclass
class _Chance:
    """Documents drawn at random from what may be a negative."""

    corpus: Corpus
    held_out: Sequence[str]
    seed: int

    def __post_init__(self) -> None:
        self._ids = sorted(self.corpus)
        self._held_out = {i for i in self.held_out if i in self.corpus}
        self._held_out_texts = {self.corpus[i].copy_key for i in self._held_out}

    def draw(
        self, query: Query, own: Mapping[str, list[Negative]], number: int, miner: str, rng: random.Random
    ) -> list[Negative]:
        """At least ``number``, where there are so many; none that a filter dropped or relabelled, nor a copy of one."""
        ruled_out = {
            n.doc_id
            for rows in own.values()
            for n in rows
            if n.verdict in ("dropped", "relabelled") and n.doc_id in self.corpus
        }
        texts = {self.corpus[i].copy_key for i in ruled_out} | self._held_out_texts
        drawn = rng.sample(self._ids, min(len(self._ids), 4 * number + PASSED_OVER))
        some = {
            i: self.corpus[i]
            for i in (*drawn, *query.metadata["positives"])
            if i in query.metadata["positives"] or self.corpus[i].copy_key not in texts
        }
        return candidates(
            [query],
            {query.id: dict.fromkeys((i for i in drawn if i in some), 0.0)},
            some,
            (),
            miner,
            (1, len(self._ids)),
            self.seed,
        )[query.id]


def _filled(
    query: Query,
    own: Mapping[str, list[Negative]],
    quotas: Mapping[str, int],
    drawn: list[Negative],
    taken: list[Negative],
    rng: random.Random,
    mix: Mix,
    chance: _Chance | None,
) -> list[Negative]:
    """What takes the place of the negatives that are missing, by chance or from the other miners; in a concatenation,
    each miner's own rows are filled."""
    added: list[Negative] = []
    for miner, missing in {m: quota - sum(n.miner == m for n in drawn) for m, quota in quotas.items()}.items():
        for other in (o for o in own if o != miner) if chance is None else ():
            found = _sample(
                rng, own[other], missing, [n for n in taken + drawn + added if mix == "instance" or n.miner == miner]
            )
            added += [replace(n, miner=miner, reason=f"from {other}, as {miner} had too few") for n in found]
            missing -= len(found)
        if chance and missing:
            found = _sample(
                rng,
                chance.draw(query, own, missing, miner, rng),
                missing,
                [n for n in taken + drawn + added if mix == "instance" or n.miner == miner],
            )
            added += [replace(n, reason=f"drawn at random, as {miner} had too few") for n in found]
    return added


def _quotas(shares: Mapping[str, float], number: int, rng: random.Random) -> dict[str, int]:
    """``number`` divided by shares: systematic sampling, so that each part is its share's, rounded up or down."""
    total = sum(shares.values())
    ends = [end / total * number for end in accumulate(shares.values())]
    start = rng.random()
    points = [start + n for n in range(number)]
    counts = [
        sum(low <= (p if p < number else p - number) < high for p in points)
        for low, high in zip([0.0, *ends[:-1]], ends, strict=True)
    ]
    counts[-1] += number - sum(counts)  # what a rounding put beyond the end
    return dict(zip(shares, counts, strict=True))
