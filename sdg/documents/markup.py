"""Plain text, Markdown, reStructuredText and AsciiDoc: the title and what else the head of a file says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from sharpen.sdg.documents.encodings import decode
from sharpen.sdg.documents.files import Entry, InputFile

_ATX = re.compile(r"#{1,6}\s+(.+?)(?:\s+#+)?\s*$")
_RULE = re.compile(r"([=\-`:'\"~^_*+#<>.])\1{2,}\s*$")
_FRONT = {"---": ("---", "..."), "+++": ("+++",)}
_RST_FIELD = re.compile(r":([\w -]+):(?:\s+(.*))?$")
_ADOC_ATTRIBUTE = re.compile(r":!?([\w-]+)!?:(?:\s+(.*))?$")
_ADOC_AUTHOR = re.compile(r"[^\W\d_][\w.'-]*(?: [\w.'-]+){0,3}(?: <[^<>]+>)?(?:; .*)?$")
_ADOC_REVISION = re.compile(r"(?:v?[\d.]+, ?)?(\d{4}-\d{2}-\d{2}).*$")


def read_plain(file: InputFile) -> Iterator[Entry]:
    text, metadata = text_of(file)
    yield _titled(text, metadata)


def read_markdown(file: InputFile) -> Iterator[Entry]:
    r"""Front matter (YAML between ``---``, TOML between ``+++``) gives title, author and date and is no text.

    >>> from io import BytesIO
    >>> data = b"---\ntitle: Beans\nauthor: A. Cook\n---\nSoak them."
    >>> next(read_markdown(InputFile("a.md", "a.md", lambda: BytesIO(data))))
    Entry(text='Soak them.', title='Beans', name='', metadata={'author': 'A. Cook'})
    """
    text, metadata = text_of(file)
    front, text = front_matter(text)
    metadata |= known_metadata(front)
    entry, title = _titled(text, metadata, overline=False), front.get("title")
    if isinstance(title, str | int | float) and str(title).strip():
        # a heading that repeats the title is left out, and any other is the text's
        entry = entry if entry.title == str(title).strip() else Entry(text.strip(), metadata=metadata)
        entry = Entry(entry.text, str(title).strip(), metadata=metadata)
    yield entry


def read_rst(file: InputFile) -> Iterator[Entry]:
    """The title is what is underlined (and perhaps overlined), after labels, comments and directives without text."""
    text, metadata = text_of(file)
    lines = text.strip().split("\n")
    start = _after_labels(lines)
    title, body = _underlined(lines, start)
    if not title:
        yield _titled(text, metadata)
        return
    fields, body = _fields(lines, body, _RST_FIELD)
    yield Entry("\n".join(lines[body:]).strip(), title, metadata=metadata | known_metadata(fields))


def read_asciidoc(file: InputFile) -> Iterator[Entry]:
    """The title is a line with one ``=``; lines of author, revision and attributes after it are no text."""
    text, metadata = text_of(file)
    lines = text.strip().split("\n")
    start, fields = 0, {}
    while start < len(lines) and (lines[start].startswith("//") or not lines[start].strip()):
        start += 1
    before, start = _fields(lines, start, _ADOC_ATTRIBUTE)
    match = re.match(r"[=#]\s+(\S.*)", lines[start]) if start < len(lines) else None
    if not match:
        yield _titled(text, metadata)
        return
    start += 1
    if start < len(lines) and _ADOC_AUTHOR.match(lines[start]):
        fields["author"] = lines[start].partition(" <")[0]
        start += 1
        if start < len(lines) and (revision := _ADOC_REVISION.match(lines[start])):
            fields["date"] = revision[1]
            start += 1
    after, start = _fields(lines, start, _ADOC_ATTRIBUTE)
    metadata |= known_metadata(before | after | fields)
    yield Entry("\n".join(lines[start:]).strip(), match[1].strip(), metadata=metadata)


def text_of(file: InputFile) -> tuple[str, dict[str, Any]]:
    """A file's text with line breaks as \\n, and metadata that names its encoding where that is not UTF-8."""
    text, encoding = decode(file.read())
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding_metadata(encoding)


def encoding_metadata(encoding: str) -> dict[str, Any]:
    return {} if encoding == "utf-8" else {"encoding": encoding}


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """What a head of YAML or TOML says, and the text without it; a head that is neither is text."""
    lines = text.lstrip("\n").split("\n")
    ends = _FRONT.get(lines[0].rstrip())
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ends), None) if ends else None
    if end is None:
        return {}, text
    head = "\n".join(lines[1:end])
    try:
        values = tomllib.loads(head) if lines[0].startswith("+") else _yaml(head)
    except ValueError:
        values = None
    return (values, "\n".join(lines[end + 1 :])) if isinstance(values, dict) else ({}, text)


def known_metadata(values: dict[str, Any]) -> dict[str, Any]:
    """Author and date under these names, as strings; of several authors all."""
    values = {str(key).lower(): value for key, value in values.items()}
    found = {}
    for name, keys in (("author", ("author", "authors", "creator")), ("date", ("date", "revdate", "published"))):
        value = next((values[key] for key in keys if values.get(key)), None)
        if value:
            found[name] = ", ".join(map(_name, value)) if isinstance(value, list) else _name(value)
    return found


def _name(value: Any) -> str:
    return str(value.get("name") or json.dumps(value, default=str)) if isinstance(value, dict) else str(value).strip()


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(re.findall(r"\*\w+", text)) > 20:
        return None  # aliases of aliases grow without bound
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(str(error)) from None


def _titled(text: str, metadata: dict[str, Any], overline: bool = True) -> Entry:
    """Title: a Markdown heading, or an underlined line, if the text opens with one."""
    lines = text.strip().split("\n")
    if match := _ATX.match(lines[0]):
        return Entry("\n".join(lines[1:]).strip(), match[1], metadata=metadata)
    title, body = _underlined(lines, 0, overline)
    return Entry("\n".join(lines[body:]).strip(), title or None, metadata=metadata)


def _underlined(lines: list[str], start: int, overline: bool = True) -> tuple[str, int]:
    """A title with its underline, and perhaps an overline, that begins at ``start``, and the line after it."""
    over, title, under = [*lines[start : start + 3], "", "", ""][:3]
    if overline and _RULE.match(over) and title.strip() and not _RULE.match(title) and under.rstrip() == over.rstrip():
        return title.strip(), start + 3
    if over.strip() and not _RULE.match(over) and not over[0].isspace() and _RULE.match(title):
        return over.strip(), start + 2
    return "", start


def _after_labels(lines: list[str]) -> int:
    """The first line that is no label, comment or directive; what is indented below one belongs to it."""
    n = 0
    while n < len(lines):
        line = lines[n]
        is_mark = line.startswith((".. ", "__ ")) or line.rstrip() == ".." or _RST_FIELD.match(line)
        if is_mark:
            n += 1
            while n < len(lines) and (lines[n][:1].isspace() and lines[n].strip()):
                n += 1
        elif not line.strip():
            n += 1
            # an indented block goes on after an empty line
            while n < len(lines) and lines[n][:1].isspace() and lines[n].strip() and n > 1:
                n += 1
        else:
            break
    return n


def _fields(lines: list[str], start: int, pattern: re.Pattern[str]) -> tuple[dict[str, Any], int]:
    """``:name: value`` lines at ``start``, after blank ones, and the line after them."""
    fields, n = {}, start
    while n < len(lines) and not lines[n].strip():
        n += 1
    first = n
    while n < len(lines) and (match := pattern.match(lines[n])):
        fields[match[1].lower()] = match[2] or ""
        n += 1
    return fields, n if n > first else start
