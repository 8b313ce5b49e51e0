"""What can be said of a query by looking at it and at its document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Document, Query, text_key
from sharpen.evaluation.settings import Count, Fraction, Settings
from sharpen.evaluation.truncation import report_text
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.rejections import Problem, Rejection
from sharpen.sdg.rejections import RejectionReason as Reason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

MIN_WORDS = 2
MAX_WORDS = 32
COPIED_RUN = 8
"""Words in a row from which a query is the document's own."""
HARVESTED = "harvested"
"""In the metadata of a query that is a text of its document, and is no copy by mistake: which kind of text."""

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


def query_key(text: str) -> str:
    """Equal for queries that differ in signs and case only.

    >>> query_key("What is it?") == query_key("what is it")
    True
    """
    return text_key(" ".join(words(text)))


def first_words(text: str, n: int, in_prompt: bool = True) -> str:
    """The first ``n`` words, which are what stands between blanks, on one line. ``in_prompt``: they are all that an LLM
    is shown of the text, so who collects truncations is told of it."""
    shown = text.split()
    if in_prompt and shown:
        report_text("in_prompts", n, text, len(shown))
    return " ".join(shown[:n])


def one_line(text: str) -> str:
    """Without line breaks: small models take up those of a text, and a query ends at one."""
    return " ".join(text.split())


def text_problem(text: str, document: Document, language: str | None = None) -> Problem | None:
    """Why a query is unusable, or None: empty, too short (under 2 words), too long (over 32), no words, refers to the
    document as a document, is the document's own words (8 in a row, or the title), or is in another ``language``
    (two-letter code).

    >>> text_problem("what does this passage say", Document("d", "Beans are soaked overnight.")).reason.value
    'self_reference'
    """
    query_words = words(text)
    if not text:
        return Problem(Reason.EMPTY)
    if not query_words:
        return Problem(Reason.NO_WORDS)
    if len(query_words) < MIN_WORDS:
        return Problem(Reason.TOO_SHORT, len(query_words), MIN_WORDS)
    if len(query_words) > MAX_WORDS:
        return Problem(Reason.TOO_LONG, len(query_words), MAX_WORDS)
    if _SELF_REFERENCE.search(text):
        return Problem(Reason.SELF_REFERENCE)
    if _is_copied(query_words, document):
        return Problem(Reason.COPIED_FROM_DOCUMENT)
    if language and is_another_language(text, language):
        return Problem(Reason.WRONG_LANGUAGE, detail=language)
    return None


def _is_copied(query_words: list[str], document: Document) -> bool:
    if set(words(document.title)).issuperset(query_words):
        return True
    document_words = " ".join(words(document.content))
    runs = (" ".join(query_words[i : i + COPIED_RUN]) for i in range(len(query_words) - COPIED_RUN + 1))
    return any(run in document_words for run in runs)


def copied_fraction(text: str, document: Document, n: int = 3) -> float:
    """Fraction of the query's ``n``-grams of words that stand in the document; of a shorter query, of its words.

    >>> copied_fraction("beans are soaked in oil", Document("d", "Beans are soaked overnight."), n=2)
    0.5
    """
    query_words = words(text)
    size = min(n, len(query_words))
    if not size:
        return 0.0
    document_grams = set(_grams(words(document.content), size))
    query_grams = _grams(query_words, size)
    return sum(gram in document_grams for gram in query_grams) / len(query_grams)


def _grams(sequence: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)]


class Copying(Settings):
    """Drops the queries that are written in their document's own words. Harvested ones are, and pass.

    >>> corpus = {"d": Document("d", "Beans are soaked overnight and boiled for an hour.")}
    >>> asked = [Query("q", "are beans soaked overnight and boiled", {"positives": ["d"]})]
    >>> Copying(ngram=2, max_fraction=0.5).apply(asked, corpus, None).rejected[0].problem.value
    0.6
    """

    name: ClassVar[str] = "copying"
    first_process_only: ClassVar[bool] = False

    ngram: Count = Field(3, description="Words in a row.")
    max_fraction: Fraction = Field(0.5, description="Fraction of the query's n-grams that may stand in its document.")

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources | None = None) -> FilterResult:
        result = FilterResult()
        for query in queries:
            if HARVESTED in query.metadata:
                result.kept.append(query)
                continue
            fraction = max(
                copied_fraction(query.text, corpus[doc_id], self.ngram) for doc_id in query.metadata["positives"]
            )
            if fraction <= self.max_fraction:
                result.kept.append(query)
            else:
                problem = Problem(Reason.COPYING, round(fraction, 3), self.max_fraction)
                result.rejected.append(Rejection.of(query, self.name, problem))
        return result


def is_another_language(text: str, language: str) -> bool:
    """Whether the text is clearly in another language; of few words nothing is clear."""
    identified, probability = _identifier().classify(text)
    return identified != language and probability > 0.95


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
