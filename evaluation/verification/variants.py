"""What a server may do otherwise than the model that was measured, done here, so that its vectors are recognised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.routes import Side, prompt_of, route_of
from sharpen.evaluation.encoders.soundness import positions_of
from sharpen.evaluation.verification.sample import UNUSUAL, SampleText

POOLINGS = ("mean", "cls", "lasttoken", "max")
LENGTHS = (32, 64, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)
"""Tokens at which servers cut texts, beside what there are positions for."""
KNOWN_PROMPTS = (
    ("query: ", "passage: "),
    ("query: ", "query: "),
    ("search_query: ", "search_document: "),
    ("Represent this sentence for searching relevant passages: ", ""),
)
"""Of queries and documents, of models that many people serve."""


@dataclass(frozen=True)
class Prompts:
    """What is read before a text of each side. ``name``: how it is told."""

    query: str
    document: str
    name: str = ""

    def of(self, side: Side) -> str:
        return self.query if side == "query" else self.document


@dataclass(frozen=True)
class Variant:
    """How texts become vectors. ``pooling``: None where the model has none, or several. ``max_seq_length``: tokens."""

    prompts: Prompts
    pooling: str | None
    max_seq_length: int | None
    lower: bool = False

    def changes(self, other: Variant) -> int:
        """In how many things the two differ."""
        return sum(
            (
                self.prompts != other.prompts,
                self.pooling != other.pooling,
                self.max_seq_length != other.max_seq_length,
                self.lower != other.lower,
            )
        )


def own_variant(model: SentenceTransformer) -> Variant:
    """How the model itself does it, as it was measured."""
    prompts = Prompts(prompt_of(model, "query"), prompt_of(model, "document"))
    mode = next((m.pooling_mode for m in model.modules() if isinstance(m, Pooling)), None)
    return Variant(prompts, mode if isinstance(mode, str) else None, model.max_seq_length)


def vectors_by(model: SentenceTransformer, sample: Sequence[SampleText], variant: Variant) -> np.ndarray:
    """Unit vectors: float32 of shape (len(sample), dimension)."""
    texts = [variant.prompts.of(each.side) + each.text for each in sample]
    if variant.lower:
        texts = [text.lower() for text in texts]
    vectors = np.zeros((len(sample), model.get_embedding_dimension()), dtype=np.float32)
    for side in ("query", "document"):
        rows = [row for row, each in enumerate(sample) if each.side == side]
        if rows:
            routed = route_of(model, side)
            with _as(routed, variant):
                vectors[rows] = encode(routed, [texts[row] for row in rows], precision="float32")
    return vectors


def other_prompts(own: Prompts) -> list[Prompts]:
    """Prompts that a server may read in place of the model's own: none, one of two, the other side's, each twice, and
    those that many models have, alone or before the model's own."""
    q, d = own.query, own.document
    found = [Prompts("", "", "no prompt")]
    if q and d:
        found += [Prompts("", d, "no prompt before queries"), Prompts(q, "", "no prompt before documents")]
    if q != d:
        found += [
            Prompts(d, q, "the documents' prompt before queries and the queries' before documents"),
            Prompts(q, q, f"{q!r} before documents, too"),
            Prompts(d, d, f"{d!r} before queries, too"),
        ]
    if q or d:
        found.append(Prompts(q + q, d + d, "each prompt twice: the server puts it before texts itself"))
    for known_q, known_d in KNOWN_PROMPTS:
        name = f"{known_q!r} before queries and {known_d!r} before documents"
        found.append(Prompts(known_q, known_d, name))
        if q or d:
            found.append(Prompts(known_q + q, known_d + d, f"{name}, and then the model's own"))
    unique = {(p.query, p.document): p for p in reversed(found)}
    unique.pop((q, d), None)
    return [p for p in found if unique.get((p.query, p.document)) is p]


def variants_of_short_texts(model: SentenceTransformer, own: Variant) -> list[Variant]:
    """All that differ in prompts, pooling or case, those with the fewest differences first."""
    prompts = [own.prompts, *other_prompts(own.prompts)]
    poolings = [own.pooling, *(p for p in POOLINGS if own.pooling and p != own.pooling)]
    found = [
        replace(own, prompts=each, pooling=pooling, lower=lower)
        for each in prompts
        for pooling in poolings
        for lower in ((False, True) if _tells_case(model) else (False,))
    ]
    return sorted(found, key=own.changes)[1:]


def other_lengths(model: SentenceTransformer, own: Variant) -> list[Variant]:
    """The same with texts cut elsewhere."""
    most = positions_of(model)
    lengths = {n for n in (*LENGTHS, most) if n and n <= (most or LENGTHS[-1])} - {own.max_seq_length}
    return [replace(own, max_seq_length=n) for n in sorted(lengths)]


def _tells_case(model: SentenceTransformer) -> bool:
    tokenizer = model.tokenizer
    return any(tokenizer(text)["input_ids"] != tokenizer(text.lower())["input_ids"] for text in (*UNUSUAL, "The CAT"))


@contextmanager
def _as(model: SentenceTransformer, variant: Variant) -> Iterator[None]:
    """The model with another pooling and length, and as it was at the end."""
    poolings = [module for module in model.modules() if isinstance(module, Pooling)]
    modes, length = [module.pooling_mode for module in poolings], model.max_seq_length
    try:
        if variant.pooling:
            for module in poolings:
                module.pooling_mode = variant.pooling
        model.max_seq_length = variant.max_seq_length
        yield
    finally:
        for module, mode in zip(poolings, modes, strict=True):
            module.pooling_mode = mode
        model.max_seq_length = length
