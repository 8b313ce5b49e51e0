"""Where words begin and end, in any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import regex

from sharpen.evaluation.truncation import report_text

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


def first_words(text: str, n: int, in_prompt: bool = True) -> str:
    """The first ``n`` words (one or more) of a text as they stand in it, counted as by ``n_words``, on one line.
    ``in_prompt``: they are all that an LLM is shown of the text, so who collects truncations is told of it.

    >>> first_words("Soak  the beans!", 2), first_words("他们排名第六！真的吗？", 3)
    ('Soak the', '他们排名第六')
    """
    pieces = text.split()
    if in_prompt and pieces:
        report_text("in_prompts", n, text, n_words(text))
    if text.isascii() or not _UNSPACED_RUN.search(text):
        return " ".join(pieces[:n])
    shown: list[str] = []
    for piece in pieces:
        ends = [end for _, end in word_spans(piece)] if _UNSPACED_RUN.search(piece) else [len(piece)]
        if len(ends) >= n:
            return " ".join([*shown, piece[: ends[n - 1]] if len(ends) > n else piece])
        shown.append(piece)
        n -= len(ends)
    return " ".join(shown)


def each_word(text: str) -> Iterator[str]:
    """As ``words``, one at a time."""
    if text.isascii():
        yield from _WORD.findall(text.lower())
        return
    text = unicodedata.normalize("NFC", text).lower()
    for start, end in word_spans(text):
        yield text[start:end]


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each word: of a run of letters, those of an unspaced script by its dictionary, and other
    letters around them together."""
    for run in _WORD.finditer(text):
        end = run.start()
        for match in _UNSPACED_RUN.finditer(text, run.start(), run.end()):
            if match.start() > end:
                yield end, match.start()
            yield from ((match.start() + a, match.start() + b) for a, b in _by_dictionary(match[0]))
            end = match.end()
        if end < run.end():
            yield end, run.end()


def _by_dictionary(run: str) -> Iterator[tuple[int, int]]:
    # as much as one character cannot be cut
    if len(run) == 1:
        yield 0, 1
        return
    yield from _breaker()(run, "zh").segments()


def _breaker():
    from icu4py.breakers import WordBreaker

    return WordBreaker
