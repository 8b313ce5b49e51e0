"""Are generated queries like real ones? Lengths, kinds, words taken from the document, coverage, and who is closer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpen.evaluation.beir import Corpus, text_key
from sharpen.evaluation.languages import words

KINDS = ("how", "what", "why", "when", "where", "which", "who", "yes or no", "other question", "keywords", "statement")
"""A query's kind: by its first word, by a question mark, or, without either, keywords (up to four words) or a
statement."""

DRIFT = 0.2
"""Distance from which two distributions are called apart (Kolmogorov-Smirnov for numbers, total variation for kinds),
if there are enough queries to tell: p below 0.01."""

_YES_NO = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "should",
        "would",
        "will",
        "may",
        "must",
        "has",
        "have",
        "had",
        "am",
    ]
)


@dataclass(frozen=True)
class JudgedTexts:
    """Query texts with the IDs of their relevant documents."""

    texts: Mapping[str, str]
    positives: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Profile:
    """Of a set of queries. ``lengths``: words of each; ``overlaps``: fraction of each one's words that stand in its
    documents; ``kinds``: fraction of each of ``KINDS``; ``coverage``: fraction of the corpus's documents that are some
    query's; ``duplicates``: fraction of the queries that say the same as an earlier one, but for case and signs."""

    queries: int
    lengths: np.ndarray
    overlaps: np.ndarray
    kinds: dict[str, float]
    coverage: float
    duplicates: float


def kind_of(text: str) -> str:
    """One of ``KINDS``.

    >>> [kind_of(text) for text in ("is it done", "dough too wet", "Why?")]
    ['yes or no', 'keywords', 'why']
    """
    query_words = words(text)
    first = query_words[0] if query_words else ""
    if first in ("how", "what", "why", "when", "where", "which", "who"):
        return first
    if first in _YES_NO:
        return "yes or no"
    if text.rstrip().endswith("?"):
        return "other question"
    return "keywords" if len(query_words) <= 4 else "statement"


def profile(queries: JudgedTexts, corpus: Corpus) -> Profile:
    """Describe queries whose documents are in ``corpus``; others are left out. Raises ``ValueError`` if none is
    left."""
    known = {q: [d for d in ids if d in corpus] for q, ids in queries.positives.items() if q in queries.texts}
    known = {q: ids for q, ids in known.items() if ids}
    if not known:
        raise ValueError("no query has a document in the corpus")
    texts = [queries.texts[q] for q in known]
    kinds = Counter(map(kind_of, texts))
    keys = Counter(text_key(" ".join(words(text))) for text in texts)
    return Profile(
        queries=len(texts),
        lengths=np.array([len(words(text)) for text in texts]),
        overlaps=np.array(
            [_overlap(queries.texts[q], " ".join(corpus[d].content for d in ids)) for q, ids in known.items()]
        ),
        kinds={kind: kinds[kind] / len(texts) for kind in KINDS},
        coverage=len({d for ids in known.values() for d in ids}) / len(corpus),
        duplicates=1 - len(keys) / len(texts),
    )


def drift(synthetic: Profile, real: Profile) -> list[str]:
    """In what the synthetic queries are clearly unlike the real ones, with the numbers and what may help."""
    from scipy import stats

    warnings = []
    for name, unit, of_synthetic, of_real, advice in (
        ("length", "words", synthetic.lengths, real.lengths, "show examples of the right length in the pool"),
        (
            "overlap with the document",
            "of the words",
            synthetic.overlaps,
            real.overlaps,
            "rewrite the pool's queries in words that its documents lack, or filter by filters.copying",
        ),
    ):
        test = stats.ks_2samp(of_synthetic, of_real)
        if test.statistic >= DRIFT and test.pvalue < 0.01:
            warnings.append(
                f"{name}: {of_synthetic.mean():.2f} {unit} in the mean, real ones {of_real.mean():.2f} (distance"
                f" {test.statistic:.2f}, p {test.pvalue:.1e}); {advice}"
            )
    table = np.array(
        [[profile.kinds[kind] * profile.queries for kind in KINDS] for profile in (synthetic, real)]
    ).round()
    table = table[:, table.sum(axis=0) > 0]
    distance = sum(abs(synthetic.kinds[kind] - real.kinds[kind]) for kind in KINDS) / 2
    if distance >= DRIFT and stats.chi2_contingency(table).pvalue < 0.01:
        apart = sorted(KINDS, key=lambda kind: -abs(synthetic.kinds[kind] - real.kinds[kind]))[:3]
        shown = ", ".join(f"{kind} {synthetic.kinds[kind]:.0%} against {real.kinds[kind]:.0%}" for kind in apart)
        warnings.append(f"kinds: {shown} (distance {distance:.2f}); mix strategies or examples in these proportions")
    if synthetic.duplicates > real.duplicates + 0.05:
        warnings.append(
            f"duplicates: {synthetic.duplicates:.0%} of the queries say the same as another one, real ones"
            f" {real.duplicates:.0%}; use filters.near_duplicates, or a higher temperature"
        )
    return warnings


def win_rates(real: JudgedTexts, sets: Mapping[str, JudgedTexts]) -> dict[tuple[str, str], dict[str, Any]]:
    """How often one set of synthetic queries is closer to the real ones than another (Wen et al. 2025, equation 1).

    A real query's closeness to a set is the largest Jaccard similarity of its words with those of a query that was
    written for one of its documents (0 without one). For each two sets: the fraction of the real queries for which the
    first is closer (``wins``), for which the second is (``losses``), and how many real queries had a query of either
    (``queries``).
    """
    closeness = {name: _closeness(real, queries) for name, queries in sets.items()}
    rates = {}
    names = list(sets)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            compared = [q for q in real.texts if q in closeness[first] or q in closeness[second]]
            pairs = [(closeness[first].get(q, 0.0), closeness[second].get(q, 0.0)) for q in compared]
            n = max(1, len(pairs))
            rates[first, second] = {
                "queries": len(pairs),
                "wins": sum(a > b for a, b in pairs) / n,
                "losses": sum(a < b for a, b in pairs) / n,
            }
    return rates


def _closeness(real: JudgedTexts, queries: JudgedTexts) -> dict[str, float]:
    written: dict[str, list[set[str]]] = {}
    for query_id, ids in queries.positives.items():
        for doc_id in ids:
            written.setdefault(doc_id, []).append(set(words(queries.texts[query_id])))
    result = {}
    for query_id, ids in real.positives.items():
        query_words = set(words(real.texts[query_id]))
        if candidates := [other for doc_id in ids for other in written.get(doc_id, [])]:
            result[query_id] = max(_jaccard(query_words, other) for other in candidates)
    return result


def _jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second) if first | second else 0.0


def _overlap(text: str, document: str) -> float:
    query_words = set(words(text))
    return len(query_words & set(words(document))) / len(query_words) if query_words else 0.0
