"""Token IDs of texts: kept of each text alone, and put together to batches with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from operator import mul
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from sharpen.evaluation.truncation import What, report_text

TOKENS_OF_A_CHARACTER = 4
"""At most, where a tokenizer falls back to bytes."""

Tokens = dict[str, Any]
"""Of one text: token IDs and what goes with them, of shape (length,), and the settings of its prompt."""


def is_right_padded_text(features: dict[str, Any]) -> bool:
    """Whether ``features``, as a model's ``preprocess`` gives them, are token IDs of shape (texts, length) with all
    padding on the right, and nothing else that a model reads."""
    mask = features.get("attention_mask")
    tensors = {key: value for key, value in features.items() if isinstance(value, Tensor)}
    return (
        set(tensors) <= {"input_ids", "attention_mask", "token_type_ids"}
        and isinstance(mask, Tensor)
        and all(value.shape == mask.shape for value in tensors.values())
        and bool((mask[:, 1:] <= mask[:, :-1]).all())
    )


def split(features: dict[str, Any]) -> list[Tokens]:
    """Of ``features`` that are right-padded text, each text's own without its padding, in int32, which takes half the
    memory."""
    lengths = features["attention_mask"].sum(dim=1).tolist()
    return [
        {key: value[row, :length].int() if isinstance(value, Tensor) else value for key, value in features.items()}
        for row, length in enumerate(lengths)
    ]


def join(rows: Sequence[Tokens], padding_id: int, step: int = 1) -> dict[str, Any]:
    """What a model reads of several texts: int64 of shape (len(rows), width), the width a multiple of ``step``.
    ``padding_id``: the tokenizer's, which is masked."""
    joined: dict[str, Any] = {}
    for key, value in rows[0].items():
        if isinstance(value, Tensor):
            filler = padding_id if key == "input_ids" else 0
            padded = pad_sequence([row[key] for row in rows], batch_first=True, padding_value=filler).long()
            value = pad(padded, (0, -padded.shape[1] % step), value=filler)
        joined[key] = value
    return joined


def lengths_before_truncation(
    features: Any, tokenizer: Any, inputs: Sequence[Any], prompt: str, limit: float | None
) -> dict[int, int]:
    """Of ``inputs`` that were cut when they became ``features``: row to tokens, with special ones and ``prompt``.

    ``inputs``: texts, or pairs of texts. ``limit``: tokens that they are cut to. What a fast tokenizer cuts off, it
    hands on, so nothing is tokenised again; otherwise the texts that may be longer are.
    """
    if not limit or limit == inf or tokenizer is None:
        return {}
    encodings = getattr(features, "encodings", None)
    if encodings and len(encodings) == len(inputs):
        return {row: _full_length(encoding) for row, encoding in enumerate(encodings) if encoding.overflowing}
    lengths = {}
    for row, given in enumerate(inputs):
        texts = (given,) if isinstance(given, str) else tuple(given)
        if len(prompt) + sum(map(len, texts)) >= limit / TOKENS_OF_A_CHARACTER:
            tokens = len(tokenizer(prompt + texts[0], *texts[1:], truncation=False, verbose=False)["input_ids"])
            lengths |= {row: tokens} if tokens > limit else {}
    return lengths


def report_inputs(what: What, model: Any, inputs: Sequence[Any], features: Any, prompt: str = "") -> None:
    """Tell who collects truncations of ``inputs`` that a ``model`` is trained on; each counts once, however often it is
    in a batch. ``features``: what the model's ``preprocess`` made of them."""
    limit = model.max_seq_length
    if not limit or limit == inf:
        return
    lengths = lengths_before_truncation(features, getattr(model, "tokenizer", None), inputs, prompt, limit)
    for row, given in enumerate(inputs):
        report_text(what, int(limit), given if isinstance(given, str) else tuple(given), lengths.get(row, 0))


def _full_length(encoding: Any) -> int:
    special = sum(map(mul, encoding.special_tokens_mask, encoding.attention_mask))
    if encoding.n_sequences == 1:
        rest = sum(sum(piece.attention_mask) - special for piece in encoding.overflowing)
        return sum(encoding.attention_mask) + rest
    pieces = {}  # where both texts were cut, each piece of one comes with each of the other
    for piece in (encoding, *encoding.overflowing):
        sequences, offsets = piece.sequence_ids, piece.offsets
        for side in (0, 1):
            rows = [row for row, sequence in enumerate(sequences) if sequence == side]
            if rows:
                pieces[side, offsets[rows[0]]] = len(rows)
    return special + sum(pieces.values())
