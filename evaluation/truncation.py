"""What was cut off: texts that are longer than what an encoder reads, or a prompt shows, of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

What = Literal["documents", "queries", "pairs", "texts", "in_prompts"]
"""``texts``: neither side is named. ``pairs``: of query and document, for a cross-encoder. ``in_prompts``: texts that
an LLM was shown."""


@dataclass(frozen=True)
class Truncation:
    """Of ``texts`` texts, ``truncated`` are longer than ``limit``; the longest has ``longest``, in the same unit:
    tokens, with the special ones and the prompt; ``in_prompts``, words.

    >>> Truncation("documents", 1200, 37, 2113, 256).sentence()
    '37 of 1,200 documents are longer than the 256 tokens that the encoder reads (the longest: 2,113).'
    """

    what: What
    texts: int
    truncated: int
    longest: int
    limit: int

    @property
    def name(self) -> str:
        """Of the texts, for people."""
        return _NAMES[self.what]

    @property
    def unit(self) -> str:
        return "words" if self.what == "in_prompts" else "tokens"

    def sentence(self) -> str:
        """For people."""
        verb = "is" if self.truncated == 1 else "are"
        return (
            f"{self.truncated:,} of {self.texts:,} {self.name} {verb} longer than the {self.limit:,}"
            f" {_READERS[self.what]} (the longest: {self.longest:,})."
        )


def truncated_counts(found: Iterable[Truncation]) -> dict[str, int]:
    """How many texts of each side, over all collections.

    >>> truncated_counts([Truncation("documents", 9, 2, 70, 64), Truncation("in_prompts", 9, 3, 70, 40)])
    {'truncated_documents': 2, 'shortened_in_prompts': 3}
    """
    counts: Counter[str] = Counter()
    for each in found:
        counts["shortened_in_prompts" if each.what == "in_prompts" else f"truncated_{each.what}"] += each.truncated
    return dict(counts)


_NAMES = {"pairs": "pairs of query and document", "in_prompts": "texts in prompts"} | {
    name: name for name in ("documents", "queries", "texts")
}
_READERS = dict.fromkeys(_NAMES, "tokens that the encoder reads") | {
    "pairs": "tokens that the cross-encoder reads",
    "in_prompts": "words that the prompt shows",
}


@dataclass
class Truncations:
    """What ``collect_truncations`` has seen so far. ``rows``: row to length, of the texts that this process has had to
    truncate of a collection, the last one that was reported."""

    rows: dict[int, int] = field(default_factory=dict)
    _whole: dict[Truncation, None] = field(default_factory=dict)
    _texts: dict[tuple[What, int], dict[int, int]] = field(default_factory=dict)

    def add(self, found: Truncation) -> None:
        """Of all texts of a collection at once. What is equal to an earlier one is the same texts once more."""
        self._whole[found] = None

    def add_text(self, what: What, limit: int, text: object, length: int) -> None:
        """Of one text; the same one counts once."""
        self._texts.setdefault((what, limit), {})[hash(text)] = length

    def all(self) -> list[Truncation]:
        """Those of which a text was truncated."""
        by_text = [
            Truncation(what, len(lengths), sum(n > limit for n in lengths.values()), max(lengths.values()), limit)
            for (what, limit), lengths in self._texts.items()
        ]
        return [found for found in (*self._whole, *by_text) if found.truncated]


_collecting: list[Truncations] = []


@contextmanager
def collect_truncations(apart: bool = False) -> Iterator[Truncations]:
    """Collect what is truncated in the block, by any encoder, cross-encoder or prompt, on any thread. ``apart``: those
    who collect around the block are not told.

    >>> with collect_truncations() as found:
    ...     report_text("in_prompts", 3, "one two three four", 4)
    >>> found.all()
    [Truncation(what='in_prompts', texts=1, truncated=1, longest=4, limit=3)]
    """
    found, before = Truncations(), list(_collecting)
    _collecting[:] = [found] if apart else [*before, found]
    try:
        yield found
    finally:
        _collecting[:] = before if apart else [other for other in _collecting if other is not found]


def report_truncations(found: Iterable[Truncation], rows: dict[int, int] | None = None) -> None:
    """Tell all who collect of whole collections; ``rows``: as ``Truncations`` has them."""
    for each in found:
        for collector in _collecting:
            collector.add(each)
            collector.rows = rows or {}


def report_text(what: What, limit: int, text: object, length: int) -> None:
    """Tell all who collect of one text, whether it is longer than ``limit`` or not."""
    for collector in _collecting:
        collector.add_text(what, limit, text, length)
