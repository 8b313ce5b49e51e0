"""What can be said of a query by looking at it and at its document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Document, Query, text_key
from sharpen.evaluation.languages import LANGUAGE, is_another_language, words
from sharpen.evaluation.settings import Count, Fraction, Settings
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.languages import ENGLISH, wording_of
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


def query_key(text: str) -> str:
    """Equal for queries that differ in signs and case only.

    >>> query_key("What is it?") == query_key("what is it")
    True
    """
    return text_key(" ".join(words(text)))


def one_line(text: str) -> str:
    """Without line breaks: small models take up those of a text, and a query ends at one."""
    return " ".join(text.split())


def text_problem(text: str, document: Document, language: str | None = None) -> Problem | None:
    """Why a query is unusable, or None: empty, too short (under 2 words), too long (over 32), no words, refers to the
    document as a document, is the document's own words (8 in a row, or the title), or is in another ``language``
    (two-letter code; None: not looked at). Words are those of any script.

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
    if _refers_to_itself(text, language or document.metadata.get(LANGUAGE)):
        return Problem(Reason.SELF_REFERENCE)
    if _is_copied(query_words, document):
        return Problem(Reason.COPIED_FROM_DOCUMENT)
    if language and is_another_language(text, language):
        return Problem(Reason.WRONG_LANGUAGE, detail=language)
    return None


def _refers_to_itself(text: str, language: str | None) -> bool:
    # models fall into English, too
    wordings = [wording_of(code) for code in {ENGLISH, language or ENGLISH}]
    return any(wording and wording.refers_to_itself(text) for wording in wordings)


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
