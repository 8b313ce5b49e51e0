"""What moved between the base and the tuned model, and what there is to say of why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sharpen.evaluation.beir import Document
from sharpen.evaluation.languages import Analyzer, language_of, word_spans
from sharpen.recipes.serving.systems import Found, RunSystems

Kind = Literal["entered", "left", "up", "down"]
SHOWN = 1200
"""Characters of a document's text that are shown."""
_BLANK = re.compile(r"\s+")

Segment = tuple[str, bool]
"""A piece of a text, and whether it is a word that the query has, too."""


@dataclass(frozen=True)
class Place:
    """``rank``: from 1; None where the document is not among those that are ranked. ``deviations``: of its score above
    the corpus' mean; None where the system does not score all documents."""

    rank: int | None
    score: float | None
    deviations: float | None


@dataclass(frozen=True)
class Move:
    """A document that stands elsewhere by the tuned model than by the base. ``entered``, ``left``: the first ``k``.
    ``words``: of the query, in the document, as BM25 counts words. ``positive``, ``negative``: of so many queries that
    were trained on."""

    document: str
    kind: Kind
    base: Place
    tuned: Place
    bm25: float | None
    words: tuple[str, ...]
    positive: int
    negative: int

    @property
    def sentence(self) -> str:
        """What may be the reason, for people."""
        parts = []
        if self.base.deviations is not None and self.tuned.deviations is not None:
            parts.append(
                f"{self.base.deviations:+.1f} to {self.tuned.deviations:+.1f} standard deviations above the corpus"
            )
        parts.append(f"words in common: {', '.join(self.words)}" if self.words else "no word in common")
        if self.positive:
            parts.append(f"trained on as the answer of {_queries(self.positive)}")
        if self.negative:
            parts.append(f"trained on as a negative of {_queries(self.negative)}")
        return "; ".join(parts)


def moves(systems: RunSystems, query: str, found: dict[str, Found], k: int) -> list[Move]:
    """The documents among the first ``k`` of the base or the tuned model that have another rank by the other, those
    that entered or left first, then by how far they moved. ``found``: of both, and of BM25 where it is there."""
    base, tuned = found["base"], found["tuned"]
    union = list(dict.fromkeys([*list(tuned.scores)[:k], *list(base.scores)[:k]]))
    union = [i for i in union if base.ranks.get(i) != tuned.ranks.get(i)]
    deviations = [systems.deviations(query, name, union) for name in ("base", "tuned")] if union else [{}, {}]
    bm25 = found["bm25"].scores if "bm25" in found else {}
    made = []
    for i in union:
        places = [
            Place(of.ranks.get(i), of.scores.get(i), d.get(i)) for of, d in zip((base, tuned), deviations, strict=True)
        ]
        positive, negative = systems.trained_on.get(i, (0, 0))
        words = common_words(query, systems.corpus[i])
        made.append(Move(i, _kind(*places, k), *places, bm25.get(i), words, positive, negative))
    return sorted(made, key=lambda m: (m.kind in ("up", "down"), -_distance(m)))


def common_words(query: str, document: Document) -> tuple[str, ...]:
    """Words of the query that the document has, as BM25 counts them: in their stems, without stop words.

    >>> common_words("how ice flows", Document("d", "Ice is flowing downhill.", metadata={"language": "en"}))
    ('ice', 'flows')
    """
    analyzer = _analyzer(document)
    there = set(analyzer.terms(document.content))
    words = [query[start:end] for start, end in word_spans(query)]
    return tuple(dict.fromkeys(word for word in words if (terms := analyzer.terms(word)) and there.issuperset(terms)))


def segments(query: str, text: str, document: Document, shown: int = SHOWN) -> list[Segment]:
    """The beginning of a text of a document, its title or the text itself, with the words of the query told apart;
    ``shown``: characters at most.

    >>> segments("how ice flows", "Ice is flowing downhill.", Document("d", "", metadata={"language": "en"}))
    [('Ice', True), (' is ', False), ('flowing', True), (' downhill.', False)]
    """
    text = _BLANK.sub(" ", text).strip()
    text = text if len(text) <= shown else text[: shown - 1].rstrip() + "…"
    analyzer = _analyzer(document)
    wanted = set(analyzer.terms(query))
    made: list[Segment] = []
    end = 0
    for start, stop in word_spans(text):
        if wanted.isdisjoint(analyzer.terms(text[start:stop])):
            continue
        if start > end:
            made.append((text[end:start], False))
        made.append((text[start:stop], True))
        end = stop
    return [*made, (text[end:], False)] if end < len(text) else made


_ANALYZERS: dict[str | None, Analyzer] = {}


def _analyzer(document: Document) -> Analyzer:
    language = language_of(document)
    return _ANALYZERS.setdefault(language, Analyzer(language))


def _kind(base: Place, tuned: Place, k: int) -> Kind:
    before, after = (place.rank or float("inf") for place in (base, tuned))
    if after <= k < before:
        return "entered"
    if before <= k < after:
        return "left"
    return "up" if after < before else "down"


def _distance(move: Move) -> float:
    before, after = (place.rank or 10**9 for place in (move.base, move.tuned))
    return abs(before - after)


def _queries(number: int) -> str:
    return f"{number:,} {'query' if number == 1 else 'queries'}"
