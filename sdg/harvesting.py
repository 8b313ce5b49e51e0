"""Texts that documents carry anyway and that can stand for queries: titles, headings, definitions, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal, get_args

import regex

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.languages import sentences, words
from sharpen.sdg.languages import ENGLISH, wording_of

VERBATIM = "verbatim"
"""In a query's metadata: whether its text stands in its document's ``content`` as it is, but for case, signs and line
breaks. Whoever scores the document for the query then scores a copy."""
TextKind = Literal["title", "heading", "definition", "docstring", "caption", "link", "lead", "sentence"]
TEXT_KINDS: tuple[TextKind, ...] = get_args(TextKind)
"""A text that is several of them counts as the first."""

_ATX = re.compile(r" {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*")
_UNDERLINE = re.compile(r"([=\-~^\"#*+])\1{2,}\s*")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_INDENTED = re.compile(r"(?: {4}|\t)")
_LIST_MARK = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_NO_PROSE = re.compile(r"\s*(?:>>>|\.\. |:\w+:|\|)|.*\s\|\s")
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\([^()\s]+(?:\s[^()]*)?\)|`([^`<>]+?)\s*<[^<>`]+>`_")
_IMAGE = re.compile(r"!\[([^\[\]]+)\]\(")
_DOCSTRING = re.compile(r"(?:\A|:[ \t]*(?:#[^\n]*)?\n)\s*[rRuU]?(\"\"\"|''')(.*?)\1", re.DOTALL)
_EMPHASIS = re.compile(r"(\*\*|\*|`+)([^*`\s](?:[^*`]*[^*`\s])?)\1")
_MARKUP = re.compile(r"\]\(|\]\[|://|\"\"\"|'''|::|[|{}<>\\]|`_|={2,}")
_CODE = re.compile(r"[\w.]+\(.*\)|.*(?:\s=\s|->|\[,|\):).*")
_POINTING = (
    "This|That|These|Those|It|There|Here|He|She|They|We|You|I|What|Which|Who|One|If|When|As|In|Each|Every|Such|Both|All"
    "|Some|Another|Other|Below|Above|Following"
)
_DEFINITION = re.compile(
    rf"(?!(?:{_POINTING})\b)[A-Z0-9\"“](?:(?!\b(?:if|when|whether|that|which)\b)[^.;:?!,]){{0,80}}?"
    r"\s(?:is|are)\s(?:an?|one of)\s+\w"
)


def carried_texts(document: Document, opens: bool = True, language: str = "en") -> dict[TextKind, list[str]]:
    r"""Kind to the texts of ``document`` in their order, each once and under the first of ``TEXT_KINDS`` that it is.

    - ``title``; ``heading``: of Markdown and reStructuredText, without their marks;
    - ``definition``: a sentence like "A ferry is a boat ...", in languages whose file in ``sharpen.sdg.languages`` says
      how one begins;
    - ``docstring``: the first line of each in Python code;
    - ``caption``: of figures and tables by their number ("Figure 2: ..."), and the text of Markdown images;
    - ``link``: what can be clicked on, which may be about another document than the one that it stands in;
    - ``lead``: the first sentence; ``sentence``: any other one.

    ``opens``: it is the beginning of a document, which alone has a title and a lead; a later chunk repeats the title.
    ``language``: two-letter code, by which sentences end. Line breaks become blanks, and marks of emphasis and the
    targets of links are left out. Code, tables, sentences with other markup and those that end in a colon are no texts.

    >>> document = Document("d", "A kiln is an oven.\n\n## Firing the kiln\n\nIt takes nine hours.", "Pottery")
    >>> carried_texts(document)
    {'title': ['Pottery'], 'heading': ['Firing the kiln'], 'definition': ['A kiln is an oven.'],
     'sentence': ['It takes nine hours.']}
    """
    found: dict[TextKind, list[str]] = {kind: [] for kind in TEXT_KINDS}
    headings, blocks = _headings_and_blocks(document.text, opens)
    found["title"] = [document.title] if opens else []
    found["heading"] = headings
    found["docstring"] = [line for m in _DOCSTRING.finditer(document.text) if (line := _first_line(m[2]))]
    found["caption"] = _IMAGE.findall(document.text)
    found["link"] = [markdown or rst for markdown, rst in _LINK.findall(document.text)]
    for block in blocks:
        if caption := _caption_pattern(language).match(block):
            found["caption"] += split_sentences(caption[1], language)[:1]
            continue
        for sentence in map(_plain, split_sentences(block, language)):
            if not _is_prose(sentence):
                continue
            is_lead = opens and not found["lead"] and not found["definition"]
            other: TextKind = "lead" if is_lead else "sentence"
            found["definition" if _defines(sentence, language) else other].append(sentence)
    return _each_once(found)


def split_sentences(text: str, language: str) -> list[str]:
    """The sentences of a text in a language (two-letter code).

    >>> split_sentences("Nájem končí dne 1. ledna. Byt se vrací uklizený.", "cs")
    ['Nájem končí dne 1. ledna.', 'Byt se vrací uklizený.']
    """
    if language != ENGLISH:
        return sentences(text, language)
    import sentencex

    # as ever, with what stands empty between paragraphs: answers are known by the numbers of their sentences
    return [sentence.strip() for sentence in sentencex.segment(language, text)]


@cache
def _caption_pattern(language: str) -> regex.Pattern:
    """The words of English and of ``language`` before a number; between Chinese words a blank is enough before the
    text. Words in small letters stand behind the number, as in Hungarian, which may have been taken for that of a
    list."""
    captions = [word for code in (language, ENGLISH) if (w := wording_of(code)) for word in w.captions]
    behind = "|".join(filter(str.islower, captions)) or "(?!)"
    labels = "|".join(captions)
    number = r"\d+(?:[.\-]\d+)*"
    before = rf"(?:{labels})\s*{number}(?:\s*[.:：]|(?=\s+\p{{Script=Han}}))"
    return regex.compile(rf"(?:{before}|(?:{number}\.\s)?(?:{behind})\s*[.:])\s*(.+)")


@cache
def _definition_pattern(language: str) -> regex.Pattern | None:
    wording = wording_of(language)
    return regex.compile(wording.definition) if wording and wording.definition else None


def _defines(sentence: str, language: str) -> bool:
    if language == ENGLISH:
        return bool(_DEFINITION.match(sentence))
    pattern = _definition_pattern(language)
    return bool(pattern and pattern.match(sentence))


def stands_in(text: str, content: str) -> bool:
    """Whether ``text`` stands in ``content`` as it is, but for case, signs and line breaks.

    >>> stands_in("firing the kiln", "## Firing the **kiln**"), stands_in("art", "start")
    (True, False)
    """
    return f" {' '.join(words(text))} " in f" {' '.join(words(content))} "


def _is_prose(sentence: str) -> bool:
    if sentence.endswith((":", "：")) or not re.match(r"[\w\"“„«「『（(¿¡]", sentence):
        return False
    return not (_MARKUP.search(sentence) or _CODE.fullmatch(sentence))


def _headings_and_blocks(text: str, opens: bool) -> tuple[list[str], list[str]]:
    """Headings, and what is prose between them: paragraphs and items of lists, each on one line."""
    headings: list[str] = []
    blocks: list[str] = []
    block: list[str] = []
    for line in [*_lines(text, opens, headings), ""]:
        mark = _LIST_MARK.match(line)
        if block and (mark or not line.strip()):
            blocks.append(" ".join(" ".join(block).split()))
            block = []
        if line.strip():
            block.append(line[mark.end() :] if mark else line)
    return headings, blocks


def _lines(text: str, opens: bool, headings: list[str]) -> Iterator[str]:
    """Lines of prose; whatever else there is, is an empty one. What is a heading goes into ``headings``."""
    lines = text.split("\n")
    fenced, before, skipped = not opens and _begins_in_code(lines), "", False
    for n, line in enumerate(lines):
        following = lines[n + 1] if n + 1 < len(lines) else ""
        is_code = not before.strip() and bool(_INDENTED.match(line))
        skipped = bool(line.strip()) and (is_code or skipped or line.lstrip().startswith(">>>"))
        if _FENCE.match(line):
            fenced, line = not fenced, ""
        elif fenced or skipped or _NO_PROSE.match(line):
            line = ""
        elif match := _ATX.fullmatch(line):
            headings.append(match[1])
            line = ""
        elif _is_underlined(line, before, following):
            headings.append(line.strip())
            line = ""
        elif _UNDERLINE.fullmatch(line):
            line = ""
        yield line
        before = lines[n]


def _begins_in_code(lines: list[str]) -> bool:
    """Whether a chunk was cut out of the midst of a code block: of its fences one is alone, and the first is bare."""
    fences = [line for line in lines if _FENCE.match(line)]
    return len(fences) % 2 == 1 and fences[0].strip() in ("```", "~~~")


def _is_underlined(line: str, before: str, following: str) -> bool:
    """Whether the line is a heading with a rule below it, and nothing but a rule directly above it."""
    if not line.strip() or _UNDERLINE.fullmatch(line) or not _UNDERLINE.fullmatch(following):
        return False
    return not before.strip() or bool(_UNDERLINE.fullmatch(before))


def _each_once(found: dict[TextKind, list[str]]) -> dict[TextKind, list[str]]:
    result: dict[TextKind, list[str]] = {}
    known: set[str] = set()
    for kind, texts in found.items():
        for text in map(_plain, texts):
            key = " ".join(words(text))
            if key and key not in known:
                known.add(key)
                result.setdefault(kind, []).append(text)
    return result


def _plain(text: str) -> str:
    """On one line, without marks of emphasis and targets of links."""
    text = _LINK.sub(lambda m: m[1] or m[2], text)
    return " ".join(_EMPHASIS.sub(r"\2", text).split())


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def copied_sources(queries: Iterable[Query], corpus: Corpus) -> dict[str, set[str]]:
    """Query ID to the documents that it was copied from, word for word: all chunks of these, and their copies.

    >>> texts = {"a": "Ice flows downhill.", "b": "Ice flows downhill.", "c": "Bread rises."}
    >>> corpus = {i: Document(i, text) for i, text in texts.items()}
    >>> copied = copied_sources([Query("q", "ice flows", {"positives": ["a"], "verbatim": True})], corpus)
    >>> sorted(copied["q"])
    ['a', 'b']
    """
    verbatim = [query for query in queries if query.metadata.get(VERBATIM)]
    if not verbatim:
        return {}
    same_text: dict[str, list[str]] = {}
    same_document: dict[str, list[str]] = {}
    for i, document in corpus.items():
        same_text.setdefault(document.copy_key, []).append(i)
        same_document.setdefault(document.doc_id, []).append(i)
    return {
        query.id: {
            other
            for i in query.metadata["positives"]
            if i in corpus
            for other in (*same_text[corpus[i].copy_key], *same_document[corpus[i].doc_id])
        }
        for query in verbatim
    }
