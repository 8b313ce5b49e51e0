"""Bytes to text: byte order marks, declared encodings, UTF-8, and a guess where it is none of these."""

from __future__ import annotations

import codecs
import io
import re
from typing import BinaryIO
from unicodedata import category

from sharpen.sdg.documents.files import InputFile
from sharpen.sdg.documents.skipping import Unreadable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_SAMPLE = 2**20
WESTERN = "cp1252"
_IN_USE = [
    *(f"cp125{n}" for n in range(9)),
    *("iso8859_2", "iso8859_5", "iso8859_7", "iso8859_9", "mac_roman", "cp866", "koi8_r", "koi8_u", "cp874"),
    *("cp932", "euc_jp", "iso2022_jp", "gb18030", "big5", "cp949"),
]
"""What files are written in; among all that Python knows a guess would find rarer ones."""
_LATIN = {"cp1250", "cp1252", "cp1254", "cp1257", "cp1258", "iso8859_2", "iso8859_9", "mac_roman"}


def decode(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Text and the encoding's name (``utf-8`` with or without a mark). ``declared``: tried first.

    Raises ``Unreadable`` for what is no text.

    >>> decode("Übung".encode("utf-16"))
    ('Übung', 'utf-16-le')
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _checked(_strictly(data[len(mark) :], name)), name
    if declared and (text := _declared(data, declared)) is not None:
        return _checked(text), codecs.lookup(declared).name
    try:
        if b"\0" not in data[:_SAMPLE]:
            return _checked(data.decode()), "utf-8"
        name = _wide(data)
    except UnicodeDecodeError:
        name = _guess(data)
    return _checked(data.decode(name, errors="replace")), name


def open_text(file: InputFile) -> tuple[io.TextIOWrapper, str]:
    """A stream of text, with line breaks as they are, and its encoding, found in a first walk through all of it."""
    with file.open() as stream:
        name, mark = _encoding_of(stream)
    stream = file.open()
    stream.read(mark)
    return io.TextIOWrapper(stream, name, errors="strict" if name == "utf-8" else "replace", newline=""), name


def _encoding_of(stream: BinaryIO) -> tuple[str, int]:
    """Of a stream: encoding and length of the byte order mark."""
    sample = stream.read(_SAMPLE)
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name, len(mark)
    if b"\0" in sample:
        return _wide(sample), 0
    decoder, block = codecs.getincrementaldecoder("utf-8")(), sample
    try:
        while block:
            decoder.decode(block)
            block = stream.read(_SAMPLE)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        guessed = _guess(sample if not sample.isascii() else sample + block)
        return guessed, 0
    return "utf-8", 0


def _strictly(data: bytes, name: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise Unreadable("broken", f"not {name}, as its byte order mark says ({error.reason})") from None


def _declared(data: bytes, name: str) -> str | None:
    try:
        # what web pages call Latin-1 is Windows-1252, as browsers read it
        return data.decode(WESTERN if codecs.lookup(name).name in ("iso8859-1", "ascii") else name)
    except (LookupError, UnicodeDecodeError, ValueError):
        return None


def _checked(text: str) -> str:
    """The text, if it is one: bytes that happen to be characters have control characters among them."""
    if "\0" in text[:_SAMPLE] or len(_CONTROL.findall(text[:_SAMPLE])) > len(text[:_SAMPLE]) / 100:
        raise Unreadable("binary data")
    return text


def _guess(data: bytes) -> str:
    """The encoding of what is not UTF-8."""
    sample = data[:_SAMPLE]
    lenient = sample.decode(errors="replace")
    bad = lenient.count("\ufffd")
    if sum(not c.isascii() for c in lenient) > 20 * bad:
        return "utf-8"  # with a few bytes that are broken
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample, cp_isolation=_IN_USE))
    matches = [m for m in matches if m.encoding not in _LATIN or not _has_signs_in_words(sample, m.encoding)] or matches
    if not matches:
        raise Unreadable("binary data")
    best = matches[0]
    for other in matches:  # short texts of the West may be anything Latin, and this is what they are
        if (
            WESTERN in other.could_be_from_charset
            and other.chaos <= best.chaos
            and other.coherence > best.coherence - 0.1
        ):
            return WESTERN
    return best.encoding


def _has_signs_in_words(data: bytes, name: str) -> bool:
    """Whether letters come out as signs, as those of Latin-2 do when they are read as Latin-1 ("ko¹ile")."""
    text = data[: 2**16].decode(name, errors="replace")
    signs = sum(
        a.isalpha() and b.isalpha() and not c.isascii() and (category(c)[0] in "SN" or c in "»«")
        for a, c, b in zip(text, text[1:], text[2:], strict=False)
    )
    return signs > sum(not c.isascii() for c in text) / 20


def _wide(data: bytes) -> str:
    """UTF-16 without a mark: of most of its characters one byte of the two is zero."""
    sample = data[: _SAMPLE & ~1]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    for name, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if len(data) % 2 == 0 and many > len(sample) / 5 and few <= len(sample) / 100:
            return name
    raise Unreadable("binary data")
