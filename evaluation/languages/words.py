"""Where words begin and end, in any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import partial

import regex

_UNSPACED = "Han|Hiragana|Katakana|Thai|Khmer|Lao|Myanmar|Tibetan"
"""Scripts without blanks between words, which ICU finds by dictionaries."""
_UNSPACED_RUN = regex.compile(
    "[" + "".join(rf"\p{{Script={s}}}" for s in _UNSPACED.split("|")) + r"\p{Script_Extensions=Hiragana}]"
    "[" + "".join(rf"\p{{Script={s}}}" for s in _UNSPACED.split("|")) + r"\p{Script_Extensions=Hiragana}\p{M}]*"
)
_WORD = regex.compile(r"[\w\p{N}]+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without signs: what stands between blanks and signs, and in scripts without
    blanks (Chinese, Japanese, Thai, Khmer, Lao, Burmese) what ICU's dictionaries know.

    >>> words("Soak the beans!"), words("ประเทศไทยมีภูเขา"), words("हिन्दी भाषा")
    (['soak', 'the', 'beans'], ['ประเทศไทย', 'มี', 'ภูเขา'], ['हिन्दी', 'भाषा'])
    """
    return list(each_word(text))


def n_words(text: str) -> int:
    """How many words a text has; in scripts with blanks, how many pieces stand between these.

    >>> n_words("Soak the beans!"), n_words("ประเทศไทยมีภูเขา")
    (3, 3)
    """
    if text.isascii() or not _UNSPACED_RUN.search(text):
        return len(text.split())
    return sum(1 for _ in each_word(text))


def each_word(text: str) -> Iterator[str]:
    """As ``words``, one at a time."""
    if text.isascii():
        yield from _WORD.findall(text.lower())
        return
    text = unicodedata.normalize("NFC", text).lower()
    for run in _WORD.findall(text):
        yield from _split_run(run)


def _split_run(run: str) -> Iterator[str]:
    """The words of a run of letters; other letters around those of an unspaced script stay together."""
    end = 0
    for match in _UNSPACED_RUN.finditer(run):
        if match.start() > end:
            yield run[end : match.start()]
        yield from _by_dictionary(match[0])
        end = match.end()
    if end < len(run):
        yield run[end:]


def _by_dictionary(run: str) -> Iterator[str]:
    # as much as one character cannot be cut
    if len(run) == 1:
        yield run
        return
    yield from map(partial(_slice, run), _breaker()(run, "zh").segments())


def _slice(text: str, span: tuple[int, int]) -> str:
    return text[span[0] : span[1]]


def _breaker():
    from icu4py.breakers import WordBreaker

    return WordBreaker
