"""What can be said of a query by looking at it and at its document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.sdg.filters import rejection

MAX_WORDS = 32

_WORD = re.compile(r"\w+")
_SELF_REFERENCE = re.compile(
    r"\b(?:this|the|above|given|following|provided) (?:passage|excerpt|paragraph|article|authors?|abstract|segment)\b"
    # these can be what a question is about ("parse the document", "in the context of"), so it takes more than the
    # article
    r"|\b(?:this|above|following|provided) (?:document|text|sentence|context)\b(?! of\b)"
    r"|\b(?:according to|based on|(?:described|mentioned|stated|discussed|explained|provided|listed|given) (?:in|by))"
    r" the (?:document|text|sentence|context)\b(?! of\b)"
    r"|\bthe (?:document|text|sentence|context)"
    r" (?:above|(?:say|describe|mention|state|discuss|explain|talk|refer)(?:e?s)?)\b"
    r"|\b(?:segment|document|passage|query) \d+\b",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def first_words(text: str, n: int) -> str:
    """The first ``n`` words, which are what stands between blanks, on one line."""
    return " ".join(text.split()[:n])


def reject_reason(text: str, document: Document, language: str | None = None) -> str | None:
    """Why a query is unusable, or None: empty, too short (under 2 words), too long (over 32), no words, refers to the
    document as a document, is the document's own words (8 in a row, or the title), or is in another ``language``
    (two-letter code)."""
    own_words = words(text)
    if not text:
        return "empty"
    if not own_words:
        return "no words"
    if len(own_words) < 2:
        return "too short"
    if len(own_words) > MAX_WORDS:
        return "too long"
    if _SELF_REFERENCE.search(text):
        return "refers to the document itself"
    theirs = " ".join(words(document.content))
    title = set(words(document.title))
    if title.issuperset(own_words) or any(" ".join(own_words[i : i + 8]) in theirs for i in range(len(own_words) - 7)):
        return "copied from the document"
    if language and is_another_language(text, language):
        return f"not in the language {language}"
    return None


def copied_share(text: str, document: Document, n: int = 3) -> float:
    """Share of the query's ``n``-grams of words that stand in the document; of a shorter query, of its words."""
    own = words(text)
    size = min(n, len(own))
    if not size:
        return 0.0
    theirs = set(_grams(words(document.content), size))
    mine = _grams(own, size)
    return sum(gram in theirs for gram in mine) / len(mine)


def _grams(sequence: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)]


def copying(
    queries: Sequence[Query], corpus: Corpus, n: int, max_share: float
) -> tuple[list[Query], list[dict[str, Any]]]:
    """Drop the queries of whose ``n``-grams more than ``max_share`` stand in one of their documents."""
    kept, rejected = [], []
    for query in queries:
        share = max(copied_share(query.text, corpus[doc_id], n) for doc_id in query.metadata["positives"])
        if share <= max_share:
            kept.append(query)
        else:
            rejected.append(rejection(query, "copying: the document's own words", share=round(share, 3)))
    return kept, rejected


def is_another_language(text: str, language: str) -> bool:
    """Whether the text is clearly in another language; of few words nothing is clear."""
    found, probability = _identifier().classify(text)
    return found != language and probability > 0.95


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
