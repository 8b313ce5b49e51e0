"""Queries as people type them."""

from __future__ import annotations

import random
import unicodedata

import regex

_QWERTY = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_KEYBOARDS = {
    "ar": ("ضصثقفغعهخحجد", "شسيبلاتنمكط", "ئءؤرىةوزظ"),
    "ca": ("qwertyuiop", "asdfghjklñ", "zxcvbnmç"),
    "cs": ("ěščřžýáíé", "qwertzuiopú", "asdfghjklů", "yxcvbnm"),
    "da": ("qwertyuiopå", "asdfghjklæø", "zxcvbnm"),
    "de": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "el": ("ςερτυθιοπ", "ασδφγηξκλ", "ζχψωβνμ"),
    "es": ("qwertyuiop", "asdfghjklñ", "zxcvbnm"),
    "fa": ("ضصثقفغعهخحجچ", "شسیبلاتنمکگ", "ظطزرذدپو"),
    "fi": ("qwertyuiopå", "asdfghjklöä", "zxcvbnm"),
    "fr": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
    "hu": ("qwertzuiopőú", "asdfghjkléáű", "íyxcvbnm"),
    "no": ("qwertyuiopå", "asdfghjkløæ", "zxcvbnm"),
    "pt": ("qwertyuiop", "asdfghjklç", "zxcvbnm"),
    "ro": ("qwertyuiopăî", "asdfghjklșț", "zxcvbnm"),
    "ru": ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    "sk": ("ľščťžýáíé", "qwertzuiopú", "asdfghjklô", "yxcvbnm"),
    "sl": ("qwertzuiopš", "asdfghjklčć", "yxcvbnm"),
    "sv": ("qwertyuiopå", "asdfghjklöä", "zxcvbnm"),
    "tr": ("qwertyuıopğü", "asdfghjklşi", "zxcvbnmöç"),
    "uk": ("йцукенгшщзхї", "фівапролджє", "ячсмитьбю"),
}
"""Rows of letters by language; all others type on an English one. Letters of other scripts have no neighbours on it."""
_UNMARKED = ("ar", "ca", "cs", "el", "es", "fr", "hr", "hu", "it", "lt", "lv", "pl", "pt", "ro", "sk", "sl", "tr", "vi")
"""Languages in which many people type letters without their marks."""
_PLAIN = {
    "de": {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"},
    "pl": {"ł": "l"},
    "ru": {"ё": "е"},
    "tr": {"ı": "i"},
    "vi": {"đ": "d"},
}
"""What people type in place of letters that are none of the base letters with a mark."""
_LETTERS = regex.compile(r"[\p{L}\p{M}]+")
_NO_ALPHABET = regex.compile(
    r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Thai}\p{Script=Lao}"
    r"\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}]"
)
"""Signs that are chosen from a list, or words without blanks between them."""


def with_typo(text: str, rng: random.Random, language: str = "en") -> str:
    """The text with one slip of the fingers in a word of four letters or more: two letters swapped, one left out, one
    doubled, or its neighbour on the language's keyboard; or, in languages with marks on letters, with none of these.

    ``language``: a two-letter code. Without such a word (as in Chinese, Japanese, Korean or Thai), the text.

    >>> with_typo("nájem bytu v Říčanech", random.Random(1), "cs"), with_typo("他们排名第几", random.Random(1), "zh")
    ('najem bytu v Ricanech', '他们排名第几')
    """
    plain = _without_marks(text, language)
    if plain != text and rng.random() < 0.5:
        return plain
    pieces = text.split(" ")
    long = [n for n, piece in enumerate(pieces) if _is_long(piece)]
    if not long:
        return plain
    n = rng.choice(long)
    letters = regex.findall(r"\X", pieces[n])  # with the signs that belong to them, as in Hindi
    i = rng.randrange(1, len(letters) - 1)
    before, letter, after = "".join(letters[:i]), letters[i], "".join(letters[i + 1 :])
    neighbours = _neighbours(letter.lower(), language)
    slips = [
        before + letters[i + 1] + letter + "".join(letters[i + 2 :]),
        before + after,
        before + letter * 2 + after,
    ]
    if neighbours:
        slips.append(before + rng.choice(neighbours) + after)
    pieces[n] = rng.choice([slip for slip in slips if slip != pieces[n]])
    return " ".join(pieces)


def _is_long(piece: str) -> bool:
    if not _LETTERS.fullmatch(piece) or _NO_ALPHABET.search(piece):
        return False
    return len(piece) >= 4 and len(regex.findall(r"\X", piece)) >= 3


def _neighbours(letter: str, language: str) -> str:
    for row in _KEYBOARDS.get(language, _QWERTY):
        if (i := row.find(letter)) >= 0:
            return row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    return ""


def _without_marks(text: str, language: str) -> str:
    for letter, typed in _PLAIN.get(language, {}).items():
        text = text.replace(letter, typed).replace(letter.upper(), typed.capitalize())
    if language not in _UNMARKED or text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if unicodedata.category(c) != "Mn"))
