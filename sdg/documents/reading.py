"""Documents in: a folder or a file of (nearly) any format, a BEIR corpus, or the Python documentation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, Document, corpus_file, read_corpus
from sharpen.evaluation.files import InputError, sha256_file, sha256_tree
from sharpen.evaluation.models import ProgressBar, no_progress
from sharpen.sdg.documents.boilerplate import repeated_lines, without_lines
from sharpen.sdg.documents.files import DEPTH_LIMIT, Entry, InputFile
from sharpen.sdg.documents.folders import find_files, is_dataset
from sharpen.sdg.documents.formats import DATASET, FORMATS, TEXT, Format, no_reader, not_installed
from sharpen.sdg.documents.settings import PYTHON_DOCS, ReadingSettings
from sharpen.sdg.documents.skipping import ReadingLog, Skipped, Unreadable
from sharpen.sdg.drawing import drawn
from sharpen.sdg.python_docs import read_python_docs

CORPUS_SUFFIXES = (".jsonl", ".jsonl.gz")
_LFS = b"version https://git-lfs.github.com/spec/"
_BREAKING = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_NO_CHARACTER = re.compile(r"[\x00\ud800-\udfff]")


def read_documents(
    source: str | Path,
    exclude: Path | None = None,
    settings: ReadingSettings | None = None,
    log: ReadingLog | None = None,
    progress: ProgressBar = no_progress,
) -> Corpus:
    r"""Read the documents of ``source``.

    - ``python-docs``: the documentation of the running Python;
    - a folder with ``corpus.jsonl`` (or ``corpus.jsonl.gz``), or the name of a BEIR dataset: that corpus;
    - a ``.jsonl`` or ``.jsonl.gz`` file: objects with ``_id`` and ``text``, ``title`` and ``metadata`` at will;
    - any other folder: every file below it that has a reader (``formats.py``), except hidden ones and what lies below
      ``exclude``. Rows of tables, letters of mailboxes, chapters, functions and files in archives are documents of
      their own;
    - any other file: as a folder that has only this one.

    The ID is the path in the folder, in Unicode's NFC, with tabs, line breaks and other control characters as ``%09``,
    ``%0A``, ...; what a file holds has its own ID, name or number after a slash (``prices.csv/17``). IDs of a single
    file's documents go without its name. Metadata say ``source``, ``format`` and, where files do, ``author``, ``date``
    and an ``encoding`` other than UTF-8.

    ``settings``: which files, and what becomes of others. ``log``: is told what was skipped and why; without one that
    is a warning. Returns ID to document. Raises ``InputError`` if nothing is there, if a row of a ``.jsonl`` file is
    bad, and for skipped files where ``settings.strict`` is set.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "beans.md").write_text("# Cooking beans\n\nSoak them overnight.")
    ...     corpus = read_documents(folder)
    >>> corpus["beans.md"].title, corpus["beans.md"].text
    ('Cooking beans', 'Soak them overnight.')
    """
    settings, own = settings or ReadingSettings(), log is None
    log = ReadingLog() if log is None else log
    corpus = {d.id: d for d in iter_documents(source, exclude, settings, log, progress)}
    log.documents, log.repeated = len(corpus), repeated_lines(corpus)
    if log.repeated and settings.boilerplate == "drop":
        corpus = without_lines(corpus.values(), log.repeated)
        empty = [d.id for d in corpus.values() if not d.text]
        log.skipped += [Skipped(i, "only repeated lines", by_choice=True) for i in empty]
        corpus = {i: d for i, d in corpus.items() if d.text}
    if own:
        for sentence in log.sentences():
            warnings.warn(f"{source}: {sentence}", stacklevel=2)
    return corpus


def iter_documents(
    source: str | Path,
    exclude: Path | None = None,
    settings: ReadingSettings | None = None,
    log: ReadingLog | None = None,
    progress: ProgressBar = no_progress,
) -> Iterator[Document]:
    """The documents of ``read_documents`` one by one: of a folder, one file at a time is in memory.

    Boilerplate is neither looked for nor dropped, as that takes all of them. Raises ``InputError`` as it does, for
    what comes to light while reading when all is read.
    """
    settings, log = settings or ReadingSettings(), ReadingLog() if log is None else log
    is_empty = True
    for document in _long_enough(_source(source, exclude, settings, log, progress), settings, log):
        is_empty = False
        yield document
    if settings.strict:
        log.refuse(str(source))
    if is_empty:
        because = ", ".join(f"{n:,} {reason}" for reason, n in log.reasons().items()) or "no files"
        raise InputError(f"{source}: no document with any text in it ({because}); nothing to train on")


def some_documents(source: str | Path, number: int, log: ReadingLog) -> tuple[list[Document], bool]:
    """At most ``number`` documents of ``source``, drawn from all of it, the same each time; and whether there are more.

    No more than ``number`` files are opened, and five times as many documents read; of a ``.jsonl`` file, all. A few
    files that hold many documents get as much of that as the others leave, so that none hides the rest. ``log``: is
    told what was skipped of the files that were opened. Raises ``InputError`` as ``iter_documents`` does.
    """
    path, settings = locate_source(str(source)), ReadingSettings()
    documents: list[Document] = []
    more, left = False, 5 * number
    if path.is_dir() and not is_dataset(path):
        found, log.skipped[:] = find_files(path, settings)
        # by a draw and not each n-th: where languages or kinds take turns, that would be one of them
        files = sorted(found, key=lambda file: drawn(0, file.relative_to(path).as_posix()))[:number]
        more, seen = len(files) < len(found), set()
        for n, file in enumerate(sorted(files, key=_size)):
            doc_id = escape_id(file.relative_to(path).as_posix())
            every = _long_enough(_read_one(InputFile.of(file, doc_id), settings, log, seen), settings, log)
            most = left // (len(files) - n)  # the largest come last, when it is known what is left for them
            read = list(islice(every, most + 1))
            more, left = more or len(read) > most, left - len(read[:most])
            documents += read[:most]
    if not documents:  # no such folder, or nothing but files without any text among those drawn
        most = None if path.name.endswith(CORPUS_SUFFIXES) else left
        documents = list(islice(iter_documents(source, settings=settings, log=log), most))
    chosen = sorted(documents, key=lambda document: drawn(0, document.id))[:number]
    return chosen, more or len(chosen) < len(documents)


def _size(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_size, file.name
    except OSError:  # it is skipped when it is read
        return 0, file.name


def locate_source(source: str) -> Path:
    """The file or folder that a source other than ``python-docs`` is read from: of a BEIR folder or the name of a
    dataset its corpus file. Raises ``InputError`` where there is none."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return corpus_file(path) or path
    from sharpen.evaluation.datasets import find_dataset

    folder = find_dataset(source)
    return corpus_file(folder) or folder / "corpus.jsonl"


def source_digest(source: str, settings: ReadingSettings, exclude: Path | None = None) -> dict[str, Any]:
    """What the documents of a source other than ``python-docs`` depend on: the files that are read, those that are
    not, and the versions of the libraries that read them. Raises ``InputError`` where there is no source."""
    path = locate_source(source)
    if path.name.endswith(CORPUS_SUFFIXES):
        return {"files": sha256_file(path)}
    is_folder = path.is_dir() and not is_dataset(path)
    files, skipped = find_files(path, settings, exclude) if is_folder else ([path], [])
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{escape_id(file.relative_to(path).as_posix())}\0{_content_digest(file)}\n".encode())
    formats = [FORMATS.get(file.suffix.lower()) for file in files]
    if any(format_ and format_.holds_files for format_ in formats):
        formats = list(FORMATS.values())
    versions = {name: v for f in formats if f for name, v in f.versions().items()}
    return {"files": digest.hexdigest(), "skipped": [[s.file, s.reason] for s in skipped], "versions": versions}


def _content_digest(file: Path) -> str:
    try:
        return sha256_tree(file)
    except OSError as error:  # what cannot be read is skipped when it is read, too
        return f"cannot be opened: {error.errno}"


def _source(
    source: str | Path, exclude: Path | None, settings: ReadingSettings, log: ReadingLog, progress: ProgressBar
) -> Iterator[Document]:
    if str(source) == PYTHON_DOCS:
        yield from (Document(d["_id"], d["text"], d["title"], d["metadata"]) for d in read_python_docs())
        return
    path = locate_source(str(source))
    if path.name.endswith(CORPUS_SUFFIXES):
        for document in read_corpus(path).values():
            if document.content:
                yield document
            else:
                log.skipped.append(Skipped(document.id, "empty"))
        return
    if path.is_dir() and not is_dataset(path):
        files, log.skipped[:] = find_files(path, settings, exclude)
        folder = path
    else:
        files, folder = [path], path.parent
    seen: set[str] = set()
    with progress("reading", len(files)) as advance:
        for file in files:
            doc_id = "" if file == path else escape_id(file.relative_to(folder).as_posix())
            yield from _read_one(InputFile.of(file, doc_id), settings, log, seen)
            advance()


def _read_one(file: InputFile, settings: ReadingSettings, log: ReadingLog, seen: set[str]) -> Iterator[Document]:
    """The documents of a file, with their IDs told apart and everything else told to the log."""
    number, encodings = 0, set()
    for item in read_file(file, settings):
        if isinstance(item, Document) and item.id in seen:
            item = Skipped(item.id, "same ID", "as an earlier document")
        if isinstance(item, Skipped):
            log.skipped.append(item)
            continue
        seen.add(item.id)
        number += 1
        encodings |= {item.metadata["encoding"]} if "encoding" in item.metadata else set()
        yield item
    log.files += number > 0
    log.encodings.update(encodings)


def read_file(file: InputFile, settings: ReadingSettings | None = None) -> Iterator[Document | Skipped]:
    """What a file holds: documents and what is skipped of it. Never raises for what the file is."""
    name = file.id or file.name
    is_folder = file.path is not None and file.path.is_dir()
    format_ = DATASET if is_folder else _format(file, settings or ReadingSettings())
    if isinstance(format_, str):
        yield Skipped(name, format_)
        return
    found = 0
    try:
        if not is_folder:
            _refuse_placeholders(file)
        for item in _items(file, format_, settings):
            found += 1
            yield item
        if not found:
            yield Skipped(name, "no text")
    except BaseException as error:  # parsers of other people's formats raise whatever they like
        reason, detail = _failure(error)
        yield Skipped(name, reason, f"after {found:,} documents: {detail}" if found and detail else detail)


def _items(file: InputFile, format_: Format, settings: ReadingSettings | None) -> Iterator[Document | Skipped]:
    for item in format_.read(file):
        if isinstance(item, Skipped):
            yield item
        elif isinstance(item, InputFile):
            if item.depth > DEPTH_LIMIT:
                yield Skipped(item.id, "too large", f"archives within archives, more than {DEPTH_LIMIT} deep")
            else:
                yield from read_file(item, settings)
        elif (document := _document(file, item, format_)).text:
            yield document


def _failure(error: BaseException) -> tuple[str, str]:
    """Reason and detail; raises again what is no fault of a file."""
    if isinstance(error, Unreadable):
        return error.reason, error.detail
    # what libraries in Rust raise is no Exception
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    is_system = isinstance(error, OSError) and error.errno is not None
    name = type(error).__name__
    return "cannot be opened" if is_system else "broken", f"{name}: {text}" if text else name


def _format(file: InputFile, settings: ReadingSettings) -> Format | str:
    """A file's format, or why it has none."""
    format_ = FORMATS.get(file.suffix) or (TEXT if settings.has_extension(file.suffix) else None)
    if format_ is None:
        return no_reader(file.suffix)
    return format_ if format_.is_installed() else not_installed(file.suffix)


def _refuse_placeholders(file: InputFile) -> None:
    with file.open() as stream:
        head = stream.read(len(_LFS))
    if not head:
        raise Unreadable("empty")
    if head == _LFS:
        raise Unreadable("git-lfs pointer", "the file itself is not here; git lfs pull fetches it")


def _document(file: InputFile, entry: Entry, format_: Format) -> Document:
    doc_id = escape_id("/".join(part for part in (file.id, entry.name) if part) or file.name)
    title = file.stem if entry.title is None else " ".join(entry.title.split())
    metadata = {"source": file.id or file.name, "format": format_.name, **entry.metadata}
    text = _NO_CHARACTER.sub("\ufffd", entry.text).strip("\n").rstrip()
    return Document(
        doc_id,
        text if text.strip() else "",
        _NO_CHARACTER.sub("\ufffd", unicodedata.normalize("NFC", title)),
        {key: _json(value) for key, value in metadata.items()},
    )


def _long_enough(documents: Iterator[Document], settings: ReadingSettings, log: ReadingLog) -> Iterator[Document]:
    for document in documents:
        if len(document.text) < settings.min_text_length:
            log.skipped.append(Skipped(document.id, "shorter than min_text_length", by_choice=True))
        else:
            yield document


def escape_id(name: str) -> str:
    r"""In NFC, with control characters as ``%09``: an ID stands in files whose columns tabs and line breaks part.

    >>> escape_id("a\tb.md")
    'a%09b.md'
    """
    name = _NO_CHARACTER.sub("\ufffd", unicodedata.normalize("NFC", name))
    return _BREAKING.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), name)


def _json(value: Any) -> Any:
    if isinstance(value, str):
        return _NO_CHARACTER.sub("\ufffd", value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    return value.isoformat() if isinstance(value, date) else str(value)
