"""What BM25 counts: words of a text, without stop words, as stems or pieces of words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import regex
import Stemmer

from sharpen.evaluation.languages.words import each_word

GRAM = 4
"""Characters of the pieces of a long word where there is no stemmer; McNamee and Mayfield (2004) found 4 best for most
languages of Europe."""
GRAM_KOREAN = 2
"""Syllables: two are about a morpheme (Lee and Ahn 1996)."""

_SNOWBALL = {
    "ar": "arabic",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "eo": "esperanto",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "nb": "norwegian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
_STOP_WORDS = {
    "da": "DANISH",
    "de": "GERMAN",
    "en": "EN",
    "es": "SPANISH",
    "fr": "FRENCH",
    "it": "ITALIAN",
    "nl": "DUTCH",
    "nb": "NORWEGIAN",
    "no": "NORWEGIAN",
    "pt": "PORTUGUESE",
    "ru": "RUSSIAN",
    "sv": "SWEDISH",
    "tr": "TURKISH",
}
"""Lists of ``bm25s``. That of English is Lucene's 33, as in BEIR's published figures; its 841 Chinese words cost 0.004
of nDCG@10 on XQuAD."""
_WHOLE_WORDS = frozenset(["bo", "ja", "km", "lo", "my", "th", "zh"])
"""Words that ICU cuts out are short, and do not change their endings."""
_ASCII_WORD = regex.compile(r"\b\w\w+\b")


class Analyzer:
    """Makes terms of texts in one language: words in lower case, without its stop words, and of each its Snowball stem;
    where Snowball has none, pieces of four characters of the longer words (two in Korean).

    ``language``: a two-letter code, or None: words as they are. An analyzer keeps what it has made of each word.

    >>> Analyzer("en").terms("How the ice is flowing"), Analyzer("cs").terms("nájemné za byt")[0]
    (['how', 'ice', 'flow'], 'nájemn')
    >>> Analyzer("uk").terms("за оренду")
    ['за', 'орен', 'ренд', 'енду']
    """

    def __init__(self, language: str | None) -> None:
        self.language = language
        self._stop_words = _stop_words(language)
        # without a cache of its own, which would only be emptied again and again: known words do not come here twice
        self._stemmer = Stemmer.Stemmer(_SNOWBALL[language], 0) if language in _SNOWBALL else None
        self._size = None
        if language and not self._stemmer and language not in _WHOLE_WORDS:
            self._size = GRAM_KOREAN if language == "ko" else GRAM
        self._known = _Known(self._make)

    def terms(self, text: str) -> list[str]:
        """The terms of a text, in their order."""
        known = self._known
        return [term for word in _words(text) for term in known[word]]

    def _make(self, word: str) -> Iterable[str]:
        if word in self._stop_words:
            return ()
        if self._stemmer:
            return (self._stemmer.stemWord(word),)
        if self._size is None or len(word) <= self._size or word.isdecimal():
            return (word,)
        return (word[i : i + self._size] for i in range(len(word) - self._size + 1))


class _Known(dict[str, tuple[str, ...]]):
    """Words with what was made of them; of a new one that is made first. Looking up the others needs no call."""

    def __init__(self, make: Callable[[str], Iterable[str]]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, word: str) -> tuple[str, ...]:
        made = self[word] = tuple(self._make(word))
        return made


def _words(text: str) -> Iterator[str]:
    """Words of two letters or more, as in ``bm25s``; in scripts without blanks a sign alone is one, too."""
    if text.isascii():
        yield from _ASCII_WORD.findall(text.lower())
        return
    for word in each_word(text):
        if len(word) > 1 or unicodedata.category(word) == "Lo":
            yield word


@cache
def _stop_words(language: str | None) -> frozenset[str]:
    from bm25s import stopwords

    name = _STOP_WORDS.get(language or "")
    return frozenset(getattr(stopwords, f"STOPWORDS_{name}")) if name else frozenset()
