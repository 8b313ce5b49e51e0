"""Source code: a document for each function and class, with its name as the title."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from typing import Any

from sharpen.sdg.documents.files import Entry, InputFile
from sharpen.sdg.documents.markup import text_of

WHOLE_CLASS = 60
"""Lines up to which a class is one document; a longer one is its head and a document for each method."""
_KEYWORDS = (
    "func|fun|fn|def|function|sub|proc|class|struct|interface|trait|impl|enum|union|module|namespace|object|protocol"
    "|extension|record|type|macro_rules!|contract|library"
)
_MODIFIERS = (
    "export|default|public|private|protected|internal|static|final|abstract|async|pub(?:\\([\\w: ]+\\))?|unsafe|const"
    '|extern(?: "C")?|inline|virtual|override|sealed|open|data|case|partial|suspend|declare|local|template<[^>]*>'
)
_DECLARED = re.compile(
    rf"(?P<indent> {{0,4}}|\t)(?:(?:{_MODIFIERS})\s+)*(?:{_KEYWORDS})\s*\*?\s+(?:\([^)]*\)\s*)?(?:<[^>]*>\s*)?"
    r"(?P<name>[^\W\d][\w.:!?-]*)"
)
_SIGNATURE = re.compile(  # of C, C++, Java, C#: types, a name, parameters, and no semicolon
    r"(?P<indent> {0,4}|\t)(?!(?:if|for|while|switch|return|else|do|case|catch|throw|new|delete|using|goto|assert)\b)"
    r"(?:[\w:<>,\[\].?]+[\s*&]+)+(?P<name>~?[\w:]*\w)\s*\((?:[^;=]|=(?!=))*$"
)
_ASSIGNED = re.compile(  # of JavaScript, R, Julia: name = function, name = (...) =>
    r"(?P<indent> {0,4}|\t)(?:(?:export|const|let|var|local)\s+)*(?P<name>[\w.$]+)\s*(?:=|<-|:)\s*"
    r"(?:async\s+)?(?:function\b|\([^()]*\)\s*(?::[^=]+)?=>|[\w$]+\s*=>)"
)
_ABOVE = re.compile(r"\s*(?://|/\*|\*|#|--|;|@|\[|%|\(\*|<!--|\"\"\")")


def read_python(file: InputFile) -> Iterator[Entry]:
    """By the syntax tree: functions, classes (long ones by method), and what is left of the module. Code that this
    Python cannot parse is read as any other language is."""
    text, metadata = text_of(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the code that is read, as an invalid escape
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield from _by_shape(text, file.stem, metadata)
        return
    units = list(_units(tree.body))
    yield from _cut(text, file.stem, units, metadata)


def read_code(file: InputFile) -> Iterator[Entry]:
    """By the shape of lines: a definition is one that stands at the left, or one level in, and begins as definitions
    do; it goes on to the next. What comes before the first is the module's."""
    text, metadata = text_of(file)
    yield from _by_shape(text, file.stem, metadata)


def _units(body: list[Any], owner: str = "") -> Iterator[tuple[int, int, str]]:
    """First line (counted from 0), line after the last, and name."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        name = f"{owner}{node.name}"
        if isinstance(node, ast.ClassDef) and node.end_lineno - start > WHOLE_CLASS:
            inner = list(_units(node.body, f"{name}."))
            if inner:
                yield start, inner[0][0], name
                yield from inner
                continue
        yield start, node.end_lineno, name


def _by_shape(text: str, stem: str, metadata: dict[str, Any]) -> Iterator[Entry]:
    lines = text.split("\n")
    starts: list[tuple[int, str]] = []
    owner = ""
    for n, line in enumerate(lines):
        match = _DECLARED.match(line) or _ASSIGNED.match(line) or (_SIGNATURE.match(line) if len(line) < 300 else None)
        if not match:
            continue
        name = match["name"].rstrip(":")
        owner = owner if match["indent"] else name
        start = n
        while start and _ABOVE.match(lines[start - 1]) and (not starts or start - 1 > starts[-1][0]):
            start -= 1
        starts.append((start, f"{owner}.{name}" if match["indent"] and owner else name))
    ends = [start for start, _ in starts[1:]] + [len(lines)]
    units = [(start, end, name) for (start, name), end in zip(starts, ends, strict=True)]
    yield from _cut(text, stem, units, metadata)


def _cut(text: str, stem: str, units: list[tuple[int, int, str]], metadata: dict[str, Any]) -> Iterator[Entry]:
    """Each unit, and what is left under the file's own ID and name."""
    lines = text.split("\n")
    left, at, used = [], 0, {}
    found = []
    for start, end, name in units:
        left += lines[at:start]
        at = max(at, end)
        body = "\n".join(lines[start:end]).strip("\n").rstrip()
        used[name] = used.get(name, 0) + 1
        part = name if used[name] == 1 else f"{name}({used[name]})"  # overloaded, or under a condition
        if body.strip():
            found.append(Entry(body, name, part, {**metadata, "line": start + 1}))
    left += lines[at:]
    rest = re.sub(r"\n{3,}", "\n\n", "\n".join(left)).strip()
    if rest or not found:
        yield Entry(rest, stem, metadata=metadata)
    yield from found
