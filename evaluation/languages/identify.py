"""Which language a text is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
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
SURE_LETTERS = 100
"""Letters that it takes for that."""

SENTENCE_WORDS = 4
"""Words in Latin letters that are more than a name."""

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
    "Kana": "ja",
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
_LETTERS = {script: regex.compile(rf"\p{{Script={script}}}") for script in _BY_SCRIPT if script != "Kana"}
_LETTERS["Kana"] = regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]")
_LATIN = regex.compile(r"\p{Script=Latin}")
_LATIN_WORD = regex.compile(r"\p{Script=Latin}{2,}")
_IDEOGRAPHIC = ("Han", "Kana", "Hangul")
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
    own = _script_of(language)
    if (script, language) == ("Han", "ja"):
        return False
    if script != own:
        if script != "Latin":
            return True
        if len(_LATIN_WORD.findall(text)) < SENTENCE_WORDS or _LETTERS[own].search(text):
            return False
    found = identify(text)
    return found is not None and found.language != language and found.probability > 0.95


def find_languages(documents: Corpus | Sequence[Document], sample: int | None = None) -> dict[str, str]:
    """ID to the language of each document.

    First each document is looked at alone. Those of which it is clear (100 letters, a probability of 0.99) say which
    languages there are; all others, being short or full of names and code, are in one that at least 1 % of these have.
    A document that has a language in its metadata keeps it. ``sample``: if so many of the documents, spread over all,
    are in one language, the others are not looked at (some 0.8 ms a document).

    >>> law = "Der Mieter zahlt die Miete am dritten Werktag eines jeden Monats im Voraus."
    >>> texts = {"a": 2 * law, "b": "BGB 535"}
    >>> find_languages([Document(i, text) for i, text in texts.items()])
    {'a': 'de', 'b': 'de'}
    """
    each = documents.values() if isinstance(documents, Mapping) else documents
    if sample and len(each) > sample:
        drawn = find_languages(list(islice(each, 0, None, len(each) // sample)))
        if len(only := set(drawn.values())) == 1:
            return dict.fromkeys((document.id for document in each), only.pop())
    documents = list(each)
    found = {d.id: str(d.metadata[LANGUAGE]) for d in documents if d.metadata.get(LANGUAGE)}
    unclear: dict[str, Identified | None] = {}
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
            unclear[document.id] = single
    if found:
        usual = _most_frequent(Counter(found.values()), 0.01)
    else:  # nothing but short texts: what those in one script are in together
        usual = _of_scripts(document.content for document in documents)
    for document in documents:
        if document.id in unclear:
            alone = unclear[document.id]
            in_script = [code for code in usual if alone and _script_of(code) == _script_of(alone.language)]
            single = identify(document.content, in_script) if in_script else alone
            found[document.id] = single.language if single else next(iter(usual), DEFAULT)
    return {document.id: found[document.id] for document in documents}


def _script_of(language: str) -> str:
    return _SCRIPT_OF.get(language, "Latin")


def _of_scripts(texts: Iterable[str]) -> list[str]:
    """The language of all texts of a script together, of the script with most texts first."""
    by_script: dict[str, list[str]] = {}
    for text in texts:
        if script := _script(text):
            by_script.setdefault(script, []).append(text)
    joined = (" ".join(of_one) for of_one in sorted(by_script.values(), key=len, reverse=True))
    return [single.language for text in joined if (single := identify(text))]


def _most_frequent(counted: Counter[str], fraction: float) -> list[str]:
    """Those with at least so much of all, the most frequent one first."""
    return [language for language, n in counted.most_common() if n >= fraction * counted.total()]


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
    if amount["Kana"] and 10 * amount["Kana"] >= amount["Han"]:  # Japanese mixes both
        amount["Kana"] += amount.pop("Han")
    amount["Latin"] = len(_LATIN.findall(text))
    script = max(amount, key=amount.__getitem__)
    return script if amount[script] else None


@cache
def _all_languages() -> frozenset[str]:
    return frozenset(map(str, _new_identifier().nb_classes)) - {"zxx"}  # no language at all


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
