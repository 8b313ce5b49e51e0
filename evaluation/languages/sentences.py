"""Where sentences begin and end."""

from __future__ import annotations

from collections.abc import Iterator

import regex

_GOES_ON = regex.compile(r"[\p{Ll}\p{Nd}(§]")
"""What does not begin a sentence after an abbreviation."""
_ABBREVIATED = regex.compile(r"(?<!\p{L})\p{L}{1,4}\.\s*$")

_MORE_ENDS = {
    "bo": regex.compile(r"(?<=[།༎])"),
    "km": regex.compile(r"(?<=[។៕])"),
    "lo": regex.compile(r"(?<=[\p{L}\p{M}])\s+(?=\p{Script=Lao})"),
    "th": regex.compile(r"(?<=[\p{L}\p{M}])\s+(?=\p{Script=Thai})"),
}
"""Of languages that ``sentencex`` has no rules for: in Thai and Lao a blank between words is all that there is."""


def sentence_spans(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Start and end (characters) of each sentence of a text, blanks behind it included: together they are the text.

    By the rules of ``sentencex`` for the two-letter code; a short word with a full stop before a small letter, a figure
    or a paragraph sign does not end one, in any language.

    >>> text = "Viz § 2201 odst. 1 písm. a) zákona č. 89/2012 Sb. o nájmu. Smlouva je písemná."
    >>> [text[start:end].strip() for start, end in sentence_spans(text, "cs")]
    ['Viz § 2201 odst. 1 písm. a) zákona č. 89/2012 Sb. o nájmu.', 'Smlouva je písemná.']
    """
    spans: list[tuple[int, int]] = []
    end = 0
    for piece in _pieces(text, language):
        start = text.find(piece, end)
        if start < 0 or not piece:
            continue
        before = text[spans[-1][0] : start] if spans else ""
        if spans and (
            not piece.strip() or not before.strip() or (_GOES_ON.match(piece) and _ABBREVIATED.search(before))
        ):
            spans[-1] = (spans[-1][0], start + len(piece))
        else:
            spans.append((end, start + len(piece)))
        end = start + len(piece)
    if end < len(text):
        spans = [*spans[:-1], (spans[-1][0], len(text))] if spans else [(0, len(text))]
    return spans


def _pieces(text: str, language: str) -> Iterator[str]:
    import sentencex

    more = _MORE_ENDS.get(language)
    for piece in sentencex.segment(language, text):
        yield from filter(None, more.split(piece)) if more else (piece,)


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, without blanks around them.

    >>> sentences("他们排名第六！真的吗？", "zh")
    ['他们排名第六！', '真的吗？']
    """
    return [piece for start, end in sentence_spans(text, language) if (piece := text[start:end].strip())]
