"""Documents in: a folder of text files, a JSONL file, a BEIR folder or the Python documentation."""

from __future__ import annotations

import re
from pathlib import Path

from sharpen.evaluation.beir import Corpus, Document, read_corpus
from sharpen.evaluation.files import InputError, visible_files
from sharpen.sdg.python_docs import read_python_docs

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".html", ".htm")
PYTHON_DOCS = "python-docs"
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "img",
        "ins",
        "kbd",
        "label",
        "mark",
        "q",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "tt",
        "u",
        "var",
        "wbr",
    ]
)


def read_documents(source: str | Path, exclude: Path | None = None) -> Corpus:
    r"""Read the documents of ``source``.

    - ``python-docs``: the documentation of the running Python;
    - a folder with ``corpus.jsonl``, or the name of a BEIR dataset: that corpus;
    - any other folder: every .txt, .md, .rst and .html file below it, the ID being the path in the folder; hidden
      files, hidden folders and what lies below ``exclude`` are left out;
    - a ``.jsonl`` file: objects with ``_id`` and ``text``, ``title`` and ``metadata`` at will.

    Returns ID to document; empty documents are left out. Raises ``InputError`` if nothing is there or a row is bad.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "beans.md").write_text("# Cooking beans\n\nSoak them overnight.")
    ...     corpus = read_documents(folder)
    >>> corpus["beans.md"].title, corpus["beans.md"].text
    ('Cooking beans', 'Soak them overnight.')
    """
    path, source = Path(source).expanduser(), str(source)
    if source == PYTHON_DOCS:
        corpus = {d["_id"]: Document(d["_id"], d["text"], d["title"], d["metadata"]) for d in read_python_docs()}
    elif path.is_file():
        if path.suffix != ".jsonl":
            raise InputError(
                f"{path}: a corpus file must be .jsonl (objects with _id and text); for text files, give their folder"
            )
        corpus = read_corpus(path)
    elif path.is_dir() and not (path / "corpus.jsonl").exists():
        corpus = _read_folder(path, exclude)
    else:
        from sharpen.evaluation.datasets import find_dataset

        corpus = read_corpus(find_dataset(source) / "corpus.jsonl")
    return {doc_id: document for doc_id, document in corpus.items() if document.content}


def text_files(folder: Path, exclude: Path | None = None) -> list[Path]:
    """The files of a folder that are read as documents."""
    outside = exclude and exclude.resolve()
    return sorted(
        p
        for p in visible_files(folder)
        if p.suffix.lower() in TEXT_SUFFIXES and not (outside and p.resolve().is_relative_to(outside))
    )


def _read_folder(folder: Path, exclude: Path | None) -> Corpus:
    files = text_files(folder, exclude)
    corpus: Corpus = {}
    for file in files:
        try:
            raw = file.read_text(encoding="utf-8-sig")
            str(file).encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(file)!r}: the file's name is not UTF-8; rename it") from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); convert the file or move it out of"
                f" {folder}"
            ) from None
        title, text = _html(raw) if file.suffix.lower() in (".html", ".htm") else _plain(raw)
        doc_id = file.relative_to(folder).as_posix()
        corpus[doc_id] = Document(doc_id, text, title or file.stem, {"source": doc_id})
    if not any(d.text for d in corpus.values()):
        what = "only empty files" if files else "no files"
        raise InputError(f"{folder}: {what} ending in {', '.join(TEXT_SUFFIXES)}; nothing to train on")
    return {doc_id: d for doc_id, d in corpus.items() if d.text}


def _html(raw: str) -> tuple[str, str]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(raw, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for element in soup(["script", "style", "nav", "noscript", "template", "title"]):
        element.decompose()
    for element in soup.find_all(True):
        if element.name not in _INLINE:
            element.insert_before("\n")
            element.insert_after("\n")
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in soup.get_text().splitlines())
    return title, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _plain(raw: str) -> tuple[str, str]:
    """Title: a Markdown heading, or a line underlined as in reStructuredText, if the file opens with one."""
    lines = raw.strip().split("\n")
    if match := re.match(r"#{1,6}\s+(.+?)(?:\s+#+)?\s*$", lines[0]):
        return match[1], "\n".join(lines[1:]).strip()
    if len(lines) > 1 and lines[0].strip() and re.fullmatch(r"([=\-~*^#\"])\1{2,}\s*", lines[1]):
        return lines[0].strip(), "\n".join(lines[2:]).strip()
    return "", "\n".join(lines).strip()
