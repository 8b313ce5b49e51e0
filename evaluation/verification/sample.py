"""Texts by which an encoder that is served or exported is known: short, long, and with unusual characters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sentence_transformers import SentenceTransformer

from sharpen.evaluation.encoders.routes import Side

UNUSUAL = (
    "CAFÉ Ünïcode — naïve façade, “quoted”",
    "日本語のテキスト",
    "한국어 문서",
    "русский текст ещё",
    "نص بالعربية",
    "  two  spaces,\n\ta line and a tab  ",
    "thumbs up 😀👍🏽",
    "½ of x² in the ﬁrst ﬁle",
)
"""Each by itself, so that it can be named."""
LONG_TEXTS = 2
LONGER = 2
"""Times as long as the model reads: a server that reads more of it gives another vector."""
LONGEST_TRIED = 8192
"""Tokens; for models that read more, no long text is made."""


@dataclass(frozen=True)
class SampleText:
    """``long``: of more tokens than the model reads. ``unusual``: with characters that tokenizers differ in."""

    text: str
    side: Side
    kind: Literal["plain", "unusual", "long"] = "plain"


def draw_sample(
    model: SentenceTransformer, queries: Sequence[str], documents: Sequence[str], each: int = 10, seed: int = 13
) -> list[SampleText]:
    """``each`` queries and documents that the model reads whole, texts with unusual characters, and two that are longer
    than it reads, put together of the others.

    Where all documents are longer than the model reads, their beginnings stand for them."""
    rng = random.Random(seed)
    queries, documents = ([t for t in dict.fromkeys(texts) if t.strip()] for texts in (queries, documents))
    rng.shuffle(queries)
    rng.shuffle(documents)
    limit = int(model.max_seq_length or LONGEST_TRIED + 1)
    sample = [SampleText(text, "query") for text in _whole(model, queries, limit)[:each]]
    whole = _whole(model, documents, limit) or [_beginning(model, text, limit) for text in documents[:each]]
    sample += [SampleText(text, "document") for text in whole[:each]]
    sample += [SampleText(text, "document", "unusual") for text in UNUSUAL]
    if limit <= LONGEST_TRIED:
        parts = [*documents, *queries, *UNUSUAL]
        sample += [SampleText(_joined(model, rng, parts, limit), "document", "long") for _ in range(LONG_TEXTS)]
    return list(dict.fromkeys(sample))


def _whole(model: SentenceTransformer, texts: Sequence[str], limit: int, of: int = 200) -> list[str]:
    """Those that are read whole, with room for a prompt."""
    return [text for text in texts[:of] if _tokens(model, text) <= 0.8 * limit]


def _beginning(model: SentenceTransformer, text: str, limit: int) -> str:
    words = text.split()
    while len(words) > 1 and _tokens(model, " ".join(words)) > 0.8 * limit:
        words = words[: len(words) // 2]
    return " ".join(words)


def _joined(model: SentenceTransformer, rng: random.Random, texts: Sequence[str], limit: int) -> str:
    chosen: list[str] = []
    length = 0
    while length <= LONGER * limit:
        chosen.append(rng.choice(texts))
        length += max(1, _tokens(model, chosen[-1]) - 2)
    return " ".join(chosen)


def _tokens(model: SentenceTransformer, text: str) -> int:
    return len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"])
