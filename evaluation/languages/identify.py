"""Which language a text is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import regex

from sharpen.evaluation.beir import Corpus, Document

LANGUAGE = "language"
"""Of a document's metadata: the two-letter code (ISO 639-1) of the language that it is in."""
DEFAULT = "en"
"""Of texts without a letter, and of documents that nobody has looked at."""
MOST_CHARACTERS = 2000
"""Of a text that is looked at; more says nothing new."""
SURE = 0.99
"""Probability from which a document's language counts as known from this document alone."""
SURE_LETTERS = 60
"""Letters that it takes for that."""

_BY_SCRIPT = {
    "Arabic": "ar fa ku ps ug ur",
    "Armenian": "hy",
    "Bengali": "as bn",
    "Cyrillic": "be bg kk ky mk mn ru sr uk",
    "Devanagari": "hi mr ne",
    "Ethiopic": "am",
    "Georgian": "ka",
    "Greek": "el",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Han": "zh",
    "Hangul": "ko",
    "Hebrew": "he",
    "Katakana": "ja",
    "Hiragana": "ja",  # the last one of a language is what a text in it counts as
    "Kannada": "kn",
    "Khmer": "km",
    "Lao": "lo",
    "Malayalam": "ml",
    "Myanmar": "my",
    "Oriya": "or",
    "Sinhala": "si",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
    "Tibetan": "bo",
}
"""Languages by the script that they are written in; all others are in Latin letters."""
_SCRIPT_OF = {language: script for script, codes in _BY_SCRIPT.items() for language in codes.split()}
_LETTERS = {script: regex.compile(rf"\p{{Script={script}}}") for script in _BY_SCRIPT}
_LATIN = regex.compile(r"\p{Script=Latin}")
_LATIN_WORD = regex.compile(r"\p{Script=Latin}{2,}")
FEW_WORDS = 4
"""In Latin letters, with which a text can still be in a language of another script."""
_IDEOGRAPHIC = ("Han", "Hiragana", "Katakana", "Hangul")
_LETTERS_OF_A_SIGN = 3
"""Letters that say about as much as one sign of these scripts."""


class Identified(NamedTuple):
    """``probability``: of the language among those that were possible; 1 where the script says it alone."""

    language: str
    probability: float


def language_of(document: Document) -> str:
    """Two-letter code of a document's language: as its metadata has it, else English.

    >>> language_of(Document("d", "Ahoj", metadata={"language": "cs"})), language_of(Document("d", "hello"))
    ('cs', 'en')
    """
    return str(document.metadata.get(LANGUAGE) or DEFAULT)


def identify(text: str, among: Collection[str] | None = None) -> Identified | None:
    """The language of a text by its script and, where several are written in that, by ``py3langid``.

    ``among``: two-letter codes of the languages that it can be (default: all of some 97). None for a text without a
    letter.

    >>> identify("Kolik bodů dostala obrana?").language, identify("黑豹队的防守丢了多少分？").language
    ('cs', 'zh')
    >>> identify("42") is None
    True
    """
    text = text[:MOST_CHARACTERS]
    script = _script(text)
    if script is None:
        return None
    possible = _languages_in(script)
    if among is not None and not (possible := possible & frozenset(among)):
        # a script that none of them is written in: a quotation, a formula
        possible = frozenset(among)
    if len(possible) == 1:
        return Identified(next(iter(possible)), 1.0)
    language, probability = _identifier(possible).classify(text)
    return Identified(str(language), float(probability))


def is_another_language(text: str, language: str) -> bool:
    """Whether a text is clearly not in ``language``: in another script, or by ``py3langid`` with a probability above
    0.95. Of few words in the same script nothing is clear, nor of few in Latin letters, in which names and terms are
    written everywhere.

    >>> is_another_language("was kostet das Ausstellen einer neuen Karte", "en"), is_another_language("agg", "en")
    (True, False)
    """
    script = _script(text[:MOST_CHARACTERS])
    if script is None:
        return False
    own = _SCRIPT_OF.get(language, "Latin")
    if script != own and {script, language} != {"Han", "ja"}:
        if script != "Latin":
            return True
        if len(_LATIN_WORD.findall(text)) < FEW_WORDS or _LETTERS[own].search(text):
            return False
    found = identify(text)
    return found is not None and found.language != language and found.probability > 0.95


def find_languages(documents: Corpus | Sequence[Document]) -> dict[str, str]:
    """ID to the language of each document.

    First each document is looked at alone. Those of which it is clear (60 letters, a probability of 0.99) say which
    languages there are; all others, being short or full of names and code, are taken to be in one of these. A document
    that has a language in its metadata keeps it.

    >>> texts = {"a": "Der Mieter zahlt die Miete am dritten Werktag eines jeden Monats im Voraus.", "b": "BGB 535"}
    >>> find_languages([Document(i, text) for i, text in texts.items()])
    {'a': 'de', 'b': 'de'}
    """
    documents = list(documents.values() if isinstance(documents, Mapping) else documents)
    found = {d.id: str(d.metadata[LANGUAGE]) for d in documents if d.metadata.get(LANGUAGE)}
    open_ones: list[Document] = []
    for document in documents:
        if document.id in found:
            continue
        single = identify(document.content)
        letters = len(regex.findall(r"\p{L}", document.content[:MOST_CHARACTERS]))
        if single and single.language in ("ja", "ko", "zh"):
            letters *= _LETTERS_OF_A_SIGN
        if single and single.probability >= SURE and letters >= SURE_LETTERS:
            found[document.id] = single.language
        else:
            open_ones.append(document)
    known = Counter(found.values())
    usual = {language for language, n in known.items() if 100 * n >= sum(known.values())} or None
    most = max(known, key=known.__getitem__) if known else DEFAULT
    for document in open_ones:
        single = identify(document.content, usual)
        found[document.id] = single.language if single else most
    return {document.id: found[document.id] for document in documents}


def language_name(code: str) -> str:
    """English name of a language, as prompts say it; the code itself where it is not known.

    >>> language_name("cs")
    'Czech'
    """
    from babel import Locale

    return str(Locale("en").languages.get(code, code))


def _script(text: str) -> str | None:
    """The script that says most in a text."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    amount = {
        script: len(letters.findall(text)) * (_LETTERS_OF_A_SIGN if script in _IDEOGRAPHIC else 1)
        for script, letters in _LETTERS.items()
    }
    kana = amount["Hiragana"] + amount["Katakana"]
    if kana * 10 >= amount["Han"] and kana:  # Japanese mixes both
        amount["Hiragana"] += amount.pop("Han") + amount.pop("Katakana")
    amount["Latin"] = len(_LATIN.findall(text))
    script = max(amount, key=amount.__getitem__)
    return script if amount[script] else None


@cache
def _all_languages() -> frozenset[str]:
    return frozenset(map(str, _new_identifier().nb_classes))


@cache
def _languages_in(script: str) -> frozenset[str]:
    if script in _BY_SCRIPT:
        return frozenset(_BY_SCRIPT[script].split())
    return _all_languages() - frozenset(_SCRIPT_OF)


@cache
def _identifier(languages: frozenset[str]):
    identifier = _new_identifier()
    identifier.set_languages(sorted(languages & _all_languages()))
    return identifier


def _new_identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
