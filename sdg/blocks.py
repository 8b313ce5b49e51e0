"""What a document's text is made of, as far as it must not be torn apart: sentences, code, rows of tables, headings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import regex

from sharpen.evaluation.languages import sentence_spans

Kind = Literal["heading", "text", "code", "row"]

_FENCE = regex.compile(r"\s*(```+|~~~+)")
_HEADING = regex.compile(r" {0,3}#{1,6}\s+\S|={1,6} \S")
_RULE = regex.compile(r"([=\-~^\"#*+])\1{2,}\s*$")
_ROW = regex.compile(r"\s*(?:\|.*\||\+[-=+]{3,}\+)\s*$")
_ITEM = regex.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")


class Piece(NamedTuple):
    """A part of a text that is better not cut: its characters, and what it is. Blanks behind it belong to it."""

    start: int
    end: int
    kind: Kind


def pieces_of(text: str, language: str = "en") -> list[Piece]:
    """The pieces of a text, in their order; together they are the text.

    Headings of Markdown, AsciiDoc and reStructuredText, blocks of code between fences or indented, rows of tables, and
    the sentences of all else, paragraph by paragraph, by the rules of ``language``.

    >>> text = "# Beans\\n\\nSoak them. Boil them.\\n\\n```\\nboil(2)\\n\\neat()\\n```\\n"
    >>> [(piece.kind, text[piece.start : piece.end].strip()) for piece in pieces_of(text)]
    [('heading', '# Beans'), ('text', 'Soak them.'), ('text', 'Boil them.'), ('code', '```\\nboil(2)\\n\\neat()\\n```')]
    """
    pieces: list[Piece] = []
    for kind, start, end in _blocks(text):
        if kind != "text":
            pieces.append(Piece(start, end, kind))
            continue
        for first, last in sentence_spans(text[start:end], language):
            pieces.append(Piece(start + first, start + last, "text"))
    return pieces


def _blocks(text: str) -> Iterator[tuple[Kind, int, int]]:
    """Kind and span of each block; those of text are paragraphs and items of lists, with the blank lines behind."""
    kind: Kind = "text"
    start = end = 0
    blank, fence = True, ""
    lines = text.splitlines(keepends=True)
    for n, line in enumerate(lines):
        if not line.strip() and not fence:
            end, blank = end + len(line), True
            continue
        now, fence = _kind(line, lines[n + 1] if n + 1 < len(lines) else "", kind, fence, blank)
        begins = now != kind or now in ("row", "heading") or (blank and now == "text") or _ITEM.match(line)
        if end > start and begins and not (now == "code" == kind) and not (kind == "heading" and _is_rule(line, now)):
            yield kind, start, end
            start = end
        kind, end, blank = now, end + len(line), False
    if end > start:
        yield kind, start, end


def _kind(line: str, following: str, before: Kind, fence: str, blank: bool) -> tuple[Kind, str]:
    """What a line is, and the fence that is still open behind it."""
    found = _FENCE.match(line)
    if fence:
        return "code", "" if found and found[1].startswith(fence) else fence
    if found:
        return "code", found[1]
    if line.startswith(("    ", "\t")) and (before == "code" or blank) and not _ITEM.match(line):
        return "code", ""
    if _ROW.match(line):
        return "row", ""
    if _HEADING.match(line) or _is_rule(line, before) or (_RULE.match(following) and not _RULE.match(line)):
        return "heading", ""
    return "text", ""


def _is_rule(line: str, kind: Kind) -> bool:
    """Whether the line is the rule below a heading, and belongs to it."""
    return kind == "heading" and bool(_RULE.match(line))
