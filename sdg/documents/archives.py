"""Archives and mailboxes: what is in them is read as if it lay in a folder of that name."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from io import BufferedReader, BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO

from sharpen.sdg.documents.files import READ_LIMIT, Bounded, Entry, InputFile
from sharpen.sdg.documents.skipping import Skipped, Unreadable
from sharpen.sdg.documents.web_pages import html_entry

ENTRIES_LIMIT = 100_000
_TAR = (".tar",)


def open_zip(file: InputFile) -> zipfile.ZipFile:
    """An archive of which no entry, as it says, is larger than ``READ_LIMIT``; ``zipfile`` reads no more than that."""
    try:
        archive = zipfile.ZipFile(file.path or BytesIO(file.read()))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Unreadable("broken", str(error)) from None
    if len(archive.infolist()) > ENTRIES_LIMIT:
        raise Unreadable("too large", f"more than {ENTRIES_LIMIT:,} entries")
    return archive


def check_package(file: InputFile) -> zipfile.ZipFile:
    """The archive that an office file or book is, with all entries found whole and together within ``READ_LIMIT``."""
    with file.open() as stream:
        if stream.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":  # what encrypted ones are wrapped in
            raise Unreadable("password", "or a file of an older format with the ending of a newer one")
    archive = open_zip(file)
    if sum(info.file_size for info in archive.infolist()) > READ_LIMIT:
        raise Unreadable("too large", f"unpacks to more than {READ_LIMIT >> 20} MiB")
    try:
        broken = archive.testzip()
    except RuntimeError:
        raise Unreadable("password") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise Unreadable("broken", str(error)) from None
    if broken:
        raise Unreadable("broken", f"{broken}: wrong checksum")
    return archive


def read_zip(file: InputFile) -> Iterator[InputFile | Skipped]:
    with open_zip(file) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            name = file.place(info.filename)
            if info.is_dir():
                continue
            if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(info.filename).parts):
                yield Skipped(name, "hidden", by_choice=True)
            elif info.file_size > READ_LIMIT:
                yield Skipped(name, "too large", f"unpacks to {info.file_size >> 20:,} MiB")
            elif info.flag_bits & 1:
                yield Skipped(name, "password")
            else:
                yield file.inner(info.filename, lambda info=info: archive.open(info))


def read_gzip(file: InputFile) -> Iterator[InputFile]:
    """What was compressed, under the ID of the file itself."""
    name = file.name[: -len(".gz")] if file.suffix == ".gz" else file.name

    def opener() -> BinaryIO:
        return BufferedReader(Bounded(gzip.GzipFile(fileobj=file.open())))

    if PurePosixPath(name).suffix.lower() in _TAR:
        raise Unreadable(".tar.gz (no reader)", "pack it as .zip, or unpack it")
    yield file.inner(name, opener, doc_id=file.id)


def read_mail(file: InputFile) -> Iterator[Entry | InputFile]:
    yield from _letter(file, file.read(), "")


def read_mbox(file: InputFile) -> Iterator[Entry | InputFile | Skipped]:
    """A letter a document, numbered from 1."""
    with file.open() as stream:
        for number, data in enumerate(_letters(stream), 1):
            try:
                yield from _letter(file, data, str(number))
            except Exception as error:  # one letter that the standard library stumbles over is one letter
                yield Skipped(file.place(str(number)), "broken", f"{type(error).__name__}: {error}")


def _letters(stream: BinaryIO) -> Iterator[bytes]:
    letter: list[bytes] = []
    size, is_first, after_blank = 0, True, True
    while line := stream.readline(READ_LIMIT):
        if after_blank and line.startswith(b"From "):
            if letter:
                yield b"".join(letter)
            letter, size, is_first = [], 0, False
        elif is_first and line.strip():
            raise Unreadable("broken", 'no mailbox: it does not begin with "From "')
        elif not is_first:
            size += len(line)
            if size > READ_LIMIT:
                raise Unreadable("too large", f"a letter of more than {READ_LIMIT >> 20} MiB")
            letter.append(line[1:] if line.lstrip(b">").startswith(b"From ") and line.startswith(b">") else line)
        after_blank = not line.strip()
    if letter:
        yield b"".join(letter)


def _letter(file: InputFile, data: bytes, name: str) -> Iterator[Entry | InputFile]:
    message = message_from_bytes(data, policy=policy.default)
    if not message.keys():
        raise Unreadable("broken", "no letter: it has no headers")
    metadata = {key: str(value) for key in ("author", "date") if (value := _header(message, key))}
    title = str(message["subject"] or "").strip()
    yield Entry(_body(message), title or None, name, metadata)
    for number, part in enumerate(message.iter_attachments(), 1):
        content = part.get_payload(decode=True)
        attached = part.get_filename() or f"attachment {number}"
        if part.get_content_type() == "message/rfc822":
            content, attached = part.get_content().as_bytes(), f"attachment {number}.eml"
        place = f"{name}/{attached}".lstrip("/")
        yield file.inner(place, lambda content=content: BytesIO(content or b""))


def _header(message: EmailMessage, key: str) -> object:
    if key == "author":
        return message["from"]
    date = message["date"]
    moment = getattr(date, "datetime", None)
    return moment.isoformat() if moment else date


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    try:
        text = part.get_content()
    except LookupError:  # a charset that nobody knows
        text = (part.get_payload(decode=True) or b"").decode("utf-8", "replace")
    return html_entry(text).text if part.get_content_subtype() == "html" else text.replace("\r\n", "\n").strip()
