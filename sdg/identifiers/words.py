"""The words of a text that say most of what it is about, beside all others of the corpus."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property

from sharpen.evaluation.beir import Document
from sharpen.evaluation.languages import Analyzer, language_of, words

_WORD = re.compile(r"\w+")


class CharacteristicWords:
    """Words of documents by TF-IDF: how often a document has it, times log((1 + documents) / those that have it).

    Words with the same stem count together, without the stop words of the document's language, and are written as the
    document most often writes them. Of equal ones the earlier comes first.

    >>> texts = {"a": "The Rhine floods the town. Floods rise.", "b": "The town sleeps."}
    >>> CharacteristicWords({i: Document(i, text) for i, text in texts.items()}).of("a")
    ['floods', 'Rhine', 'rise', 'town']
    """

    def __init__(self, documents: Mapping[str, Document]) -> None:
        self.documents = documents
        self._analyzers: dict[str, tuple[Analyzer, dict[str, tuple[str, ...]]]] = {}
        self._known: dict[str, list[str]] = {}

    def of(self, doc_id: str) -> list[str]:
        """All words of a document, the most characteristic first. Of a text of nothing but stop words, all of it."""
        if doc_id not in self._known:
            document = self.documents[doc_id]
            counts = self._terms(document)
            total = len(self.documents)
            weight = {t: n * math.log((1 + total) / self._document_frequency[t]) for t, n in counts.items()}
            written = self._written(document)
            ranked = sorted(counts, key=lambda term: -weight[term])  # stable: in the order of the text
            self._known[doc_id] = [written[term] for term in ranked] or list(dict.fromkeys(words(document.content)))
        return self._known[doc_id]

    @cached_property
    def _document_frequency(self) -> Counter[tuple[str, ...]]:
        return Counter(term for document in self.documents.values() for term in self._terms(document))

    def _terms(self, document: Document) -> Counter[tuple[str, ...]]:
        """How often there is a word, by its terms (several, where there is no stemmer)."""
        return Counter(term for word in words(document.content) if (term := self._term(word, language_of(document))))

    def _term(self, word: str, language: str) -> tuple[str, ...]:
        """Empty for what says nothing by itself: stop words, letters and digits."""
        analyzer, known = self._analyzers.setdefault(language, (Analyzer(language), {}))
        if word not in known:
            known[word] = () if word.isdecimal() and len(word) < 2 else tuple(analyzer.terms(word))
        return known[word]

    def _written(self, document: Document) -> dict[tuple[str, ...], str]:
        """Of each word the form that the text has most often; the one in small letters, where that is as often."""
        as_written: dict[str, Counter[str]] = {}
        for form, n in Counter(_WORD.findall(unicodedata.normalize("NFC", document.content))).items():
            as_written.setdefault(form.lower(), Counter())[form] += n
        forms: dict[tuple[str, ...], Counter[str]] = {}
        for word, n in Counter(words(document.content)).items():
            if term := self._term(word, language_of(document)):
                # what ICU cuts out of a text without blanks is as it stands there
                forms.setdefault(term, Counter()).update(as_written.get(word, {word: n}))
        return {term: max(counts, key=lambda f: (counts[f], f.islower())) for term, counts in forms.items()}


def joined(parts: Iterable[str]) -> str:
    """An identifier made of several keywords."""
    return ", ".join(parts)
