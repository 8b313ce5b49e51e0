"""Identifiers of documents: what a generative retriever writes for a query, as text and as tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from sharpen.evaluation.files import InputError, write_text

IDENTIFIERS = "identifiers.jsonl"
PROMPT_END = "\n=>"
"""Stands between a query and the identifier; it is tokenised by itself, and so is the identifier, so that no token
reaches over their borders."""
Source = Literal["keywords", "title", "text", "atomic", "given"]


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    eos_token_id: int | None
    bos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Identifier:
    """The identifier of a document. ``id``: the document's (a chunk's, where chunks are found one by one).
    ``text``: what the model writes. ``source``: what it was made from; ``added``: the part of ``text`` that was put
    behind it, to tell it from those of other documents ("": none)."""

    id: str
    text: str
    source: Source
    added: str = ""


Identifiers = Mapping[str, Identifier]
"""By document ID, in the order of the corpus."""


def read_identifiers(path: Path) -> dict[str, Identifier]:
    """The rows of ``identifiers.jsonl``. Raises ``InputError`` with file and line for a row that is none, an ID or an
    identifier that is there twice, and a file without any."""
    rows: dict[str, Identifier] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:  # behind the last one
            continue
        try:
            row = Identifier(**json.loads(line))
        except (ValueError, TypeError):
            raise InputError(f"{path}, line {number}: expected id, text and source of an identifier") from None
        if not (isinstance(row.id, str) and isinstance(row.text, str) and row.text.strip()):
            raise InputError(f"{path}, line {number}: id and text must be texts that are not empty")
        if row.id in rows:
            raise InputError(f"{path}, line {number}: the document {row.id!r} has an identifier already")
        if row.text in lines:
            raise InputError(f"{path}, line {number}: {row.text!r} stands in line {lines[row.text]}, too")
        rows[row.id], lines[row.text] = row, number
    if not rows:
        raise InputError(f"{path}: there is no identifier in it")
    return rows


def write_identifiers(path: Path, identifiers: Iterable[Identifier]) -> None:
    """One JSON row for each."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in identifiers))


def identifier_tokens(identifiers: Identifiers, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The tokens that the model writes for each identifier, in their order: those of the text and the end token, so
    that none is the beginning of another; of an atomic one its own token alone.

    Raises ``InputError`` where two identifiers have the same tokens, or one has none or only unknown ones.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError("the model's tokenizer has no end token, which tells where an identifier ends")
    found: dict[tuple[int, ...], str] = {}
    for row in identifiers.values():
        tokens = tuple(tokenizer.encode(f"{'' if row.source == 'atomic' else ' '}{row.text}", add_special_tokens=False))
        if row.source == "atomic" and len(tokens) != 1:
            raise InputError(f"{row.text}: an atomic identifier must be one token; the tokenizer is not the model's")
        if not tokens or end in tokens or set(tokens) == {getattr(tokenizer, "unk_token_id", None)}:
            raise InputError(f"identifier {row.text!r} of {row.id!r}: the tokenizer has no tokens for it")
        tokens += () if row.source == "atomic" else (end,)
        if (other := found.setdefault(tokens, row.id)) != row.id:
            raise InputError(
                f"the identifiers of {other!r} ({identifiers[other].text!r}) and {row.id!r} ({row.text!r}) are the same"
                " tokens; change one of them"
            )
    return list(found)


def prompt_tokens(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[int]:
    """What the model reads before it writes an identifier: the query's tokens, at most ``max_tokens`` with the rest,
    and those of ``PROMPT_END``."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = tokenizer.encode(PROMPT_END, add_special_tokens=False)
    room = max(1, max_tokens - len(start) - len(end))
    return [*start, *tokenizer.encode(text, add_special_tokens=False)[:room], *end]
