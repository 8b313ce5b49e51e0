"""Token IDs of texts: kept of each text alone, and put together to batches with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

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
