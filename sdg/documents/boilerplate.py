"""Lines that repeat over documents: headers, footers, licences."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sharpen.evaluation.beir import Corpus, Document

MIN_DOCUMENTS = 10
MIN_CHARACTERS = 8
_SAMPLE = 400
_STRUCTURE = re.compile(r"\s*(?:#{1,6} |```|~~~)")
_PAGE = re.compile(
    r"\b(page|seite|strona|strana|página|pagina|slide|folie|страница)\s+\d+(\s*(?:of|von|de|di|z|ze|из|/)\s*\d+)?", re.I
)


def repeated_lines(corpus: Corpus) -> dict[str, int]:
    """Line to the number of documents it stands in, of those that stand in at least half, the most frequent first.

    Of fewer than ``MIN_DOCUMENTS`` documents nothing is said. Pages' numbers count as equal ("Page 3 of 9"); headings,
    fences and lines of fewer than ``MIN_CHARACTERS`` characters do not count.

    >>> corpus = {str(n): Document(str(n), f"Text {'abcdefghij'[n]} alone\\nPrinted on page {n}") for n in range(10)}
    >>> repeated_lines(corpus)
    {'Printed on page 0': 10}
    """
    if len(corpus) < MIN_DOCUMENTS:
        return {}
    # what stands in half of all documents stands in some of any few hundred: only these are counted in all
    ids = sorted(corpus, key=lambda i: hashlib.sha256(i.encode()).digest())[:_SAMPLE]
    counted = Counter(key for i in ids for key in _keys(corpus[i].text))
    candidates = {key for key, n in counted.items() if n >= max(2, len(ids) / 4)}
    if not candidates:
        return {}
    totals: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for document in corpus.values():
        lines = _keys(document.text)
        for key in candidates & lines.keys():
            totals[key] += 1
            shown.setdefault(key, lines[key])
    return {shown[key]: n for key, n in totals.most_common() if 2 * n >= len(corpus)}


def without_lines(documents: Iterable[Document], lines: Mapping[str, int]) -> Corpus:
    """The documents without the repeated lines."""
    keys = {_key(line) for line in lines}
    return {d.id: replace(d, text=_drop(d.text, keys)) for d in documents}


def _drop(text: str, keys: set[str]) -> str:
    kept = "\n".join(line for line in text.split("\n") if _key(line) not in keys)
    return text if kept == text else re.sub(r"\n{3,}", "\n\n", kept).strip()


def _keys(text: str) -> dict[str, str]:
    """Key to line, of the lines that count."""
    return {
        _key(line): line.strip()
        for line in text.split("\n")
        if len(line.strip()) >= MIN_CHARACTERS and not _STRUCTURE.match(line) and any(map(str.isalpha, line))
    }


def _key(line: str) -> str:
    return _PAGE.sub(r"\1 0", " ".join(line.split()))
