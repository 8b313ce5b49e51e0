"""HTML to text in one walk: blocks become lines, headings keep their level, ``<pre>`` its indentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sharpen.sdg.documents.encodings import decode
from sharpen.sdg.documents.files import Entry, InputFile
from sharpen.sdg.documents.markup import encoding_metadata
from sharpen.sdg.documents.skipping import Unreadable

_NO_TEXT = ("script", "style", "noscript", "template", "title", "svg", "math-annotation", "datalist", "iframe")
_NAVIGATION = "//nav | //*[@role='navigation' or @role='search' or @hidden]"
_FRAME = (
    "//footer[not(ancestor::main or ancestor::article)] | //aside[not(ancestor::main or ancestor::article)]"
    " | //*[@role='contentinfo' or @role='complementary']"
    " | //header[not(ancestor::main or ancestor::article or .//h1 or .//h2)]"
)
_MAIN = "//main | //*[@role='main']"
_INLINE = set(
    re.findall(
        r"\w+",
        "a abbr acronym b bdi bdo big cite code data del dfn em font i img input ins kbd label mark q rp rt ruby s samp"
        " small span strike strong sub sup time tt u var wbr",
    )
)
_PARAGRAPHS = set(
    re.findall(
        r"\w+", "p pre blockquote ul ol dl table figure section article main header footer aside hr h1 h2 h3 h4 h5 h6"
    )
)
_CHARSET = re.compile(rb"""<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,100}?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)
_CLOSED = re.compile(r"<(script|style|title|a|div|span|p|td|textarea|iframe|section)\b([^<>]*)/>", re.I)
_AUTHOR = ("author", "dc.creator", "dcterms.creator", "article:author", "citation_author")
_DATE = ("article:published_time", "dcterms.date", "dcterms.created", "dc.date", "citation_publication_date", "date")


def read_html(file: InputFile) -> Iterator[Entry]:
    data = file.read()
    declared = _CHARSET.search(data[:4096])
    text, encoding = decode(data, declared[1].decode("ascii") if declared else None)
    entry = html_entry(text)
    yield Entry(entry.text, entry.title, metadata=encoding_metadata(encoding) | entry.metadata)


def html_entry(source: str, is_page: bool = True) -> Entry:
    """Title, text and metadata. ``is_page``: navigation, page headers and footers are left out, unless nothing or less
    than half of the text would be left.

    >>> html_entry("<title>Beans</title><nav>Home</nav><h2>Soaking</h2><pre>a\\n  b</pre>").text
    '## Soaking\\n\\na\\n  b'
    """
    root = _parse(source)
    if root is None:
        return Entry("")
    title, metadata = _title(root), _metadata(root)
    for element in list(root.iter(*_NO_TEXT)):
        _drop(element)
    text = _main_text(root) if is_page else _text(root)
    if not title:
        heading = root.find(".//h1")
        title = " ".join("".join(heading.itertext()).split()) if heading is not None else ""
    if title and re.match(rf"#+ {re.escape(title)}(?:\n|$)", text):
        text = text.partition("\n")[2].strip()
    return Entry(text, title or None, metadata=metadata)


def _parse(source: str) -> Any:
    from lxml import etree

    source = _CLOSED.sub(r"<\1\2></\1>", source.replace("\0", ""))
    # of bytes, as lxml refuses text that declares an encoding
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=True)
    root = etree.fromstring(source.encode("utf-8", "replace"), parser) if source.strip() else None
    if any("depth" in error.message.lower() for error in parser.error_log):
        raise Unreadable("broken", "HTML nested too deeply")
    return root


def _main_text(root: Any) -> str:
    everything = _text(root)
    content = _text_without(root, _NAVIGATION, everything) or everything
    parts = root.xpath(_MAIN)
    if len(parts) == 1 and 2 * len(main := _text(parts[0])) >= len(content):
        return main
    framed = _text_without(root, _FRAME, content)
    return framed if 2 * len(framed) >= len(content) else content


def _text_without(root: Any, path: str, text: str) -> str:
    """The text without some elements; ``text``: the one with them, as to walk through all takes its time."""
    elements = root.xpath(path)
    for element in elements:
        _drop(element)
    return _text(root) if elements else text


def _drop(element: Any) -> None:
    """Take an element out, and leave the text behind it."""
    parent, previous = element.getparent(), element.getprevious()
    if parent is None:
        return
    if previous is not None:
        previous.tail = (previous.tail or "") + (element.tail or "")
    else:
        parent.text = (parent.text or "") + (element.tail or "")
    parent.remove(element)


def _title(root: Any) -> str:
    element = root.find(".//title")
    title = " ".join("".join(element.itertext()).split()) if element is not None else ""
    return title or _meta(root, ("og:title", "dc.title", "citation_title"))


def _metadata(root: Any) -> dict[str, Any]:
    found = {"author": _meta(root, _AUTHOR), "date": _meta(root, _DATE)}
    return {name: value for name, value in found.items() if value}


def _meta(root: Any, names: tuple[str, ...]) -> str:
    for element in root.iter("meta"):
        name = (element.get("name") or element.get("property") or "").lower()
        if name in names and (content := " ".join((element.get("content") or "").split())):
            return content
    return ""


def _text(root: Any) -> str:
    from lxml import etree

    writer = _Writer()
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if not isinstance(element.tag, str):
            continue
        if event == "start":
            writer.open(element)
        else:
            writer.close(element)
            if element is not root:
                writer.write(element.tail or "")
    return writer.text()


class _Writer:
    """Text as it comes, with as many line breaks between as the blocks ask for."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.breaks, self.is_spaced, self.pre = 0, False, 0
        self.joins = ""  # between two cells or rows of a table

    def open(self, element: Any) -> None:
        tag = element.tag
        if tag in ("td", "th"):
            if element.getprevious() is not None and self.parts:
                self.breaks, self.joins = 0, self.joins + "| " if self.joins else " | "
        elif tag == "tr" and element.getprevious() is not None:
            self.breaks, self.joins = 0, "\n" if self.parts else ""
        elif tag not in _INLINE:
            self._break(2 if tag in _PARAGRAPHS else 1)
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.write("#" * int(tag[1]) + " ")
        if tag == "pre":
            self.pre += 1
            if _is_code(element):
                self._raw("```\n")
            self._raw((element.text or "").removeprefix("\n"))
        else:
            self.write(element.text or "")

    def close(self, element: Any) -> None:
        tag = element.tag
        if tag == "pre":
            self.pre -= 1
            if self.parts:
                self.parts[-1] = self.parts[-1].rstrip("\n")
            if _is_code(element):
                self._raw("\n```")
        if tag == "tr":
            self.joins = ""
        if tag not in _INLINE and tag not in ("td", "th"):
            self._break(2 if tag in _PARAGRAPHS else 1)

    def write(self, text: str) -> None:
        if self.pre:
            self._raw(text)
            return
        words = text.split()
        if not words:
            self.is_spaced |= bool(text)
            return
        self.is_spaced |= text[0].isspace()
        self._flush()
        self.parts.append(" ".join(words))
        self.is_spaced = text[-1].isspace()

    def text(self) -> str:
        return re.sub(r"[ \t]+\n", "\n", "".join(self.parts)).strip("\n").rstrip()

    def _raw(self, text: str) -> None:
        if text:
            self.is_spaced = False
            self._flush()
            self.parts.append(text)

    def _flush(self) -> None:
        if self.parts:
            self.parts.append(self.joins or ("\n" * self.breaks if self.breaks else " " * self.is_spaced))
        self.breaks, self.joins = 0, ""

    def _break(self, lines: int) -> None:
        if self.pre:
            return
        if not self.joins:
            self.breaks = max(self.breaks, lines)
        self.is_spaced = False


def _is_code(pre: Any) -> bool:
    return pre.find("code") is not None or bool(re.search(r"code|highlight|lang", pre.get("class") or ""))
