"""Forward passes of a causal language model over the tokens of many beams at once, with shared keys and values.

The tokens of all prompts and beams of a step lie behind each other in one row, without padding: every linear layer sees
a matrix of exactly the tokens that are to be computed. Only attention looks at them by prompt: the keys and values of a
prompt and of all its beams are in one row of a buffer, and a mask tells each token its own beginning (tree attention,
as in SpecInfer, arXiv 2305.09781). A prompt is so computed and kept once, however many beams read it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, PreTrainedModel

MAX_LOGITS = 2**24
"""Numbers of a block of logits: 64 MiB in float32, whatever the vocabulary."""
TOLERANCE = 1e-3
"""Of log-probabilities, in which shared passes may differ from plain ones in float32. Orders of sums differ; a mask or
a position that is wrong gives differences of 0.01 and more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fed:
    """The ``n`` tokens of one pass. ``row``: the buffer's row (a prompt with its beams); ``slot``: the place in it;
    ``position``: in the token's own sequence, from 0; ``token``: int64, each of shape (n,). ``sees``: bool, shape
    (n, capacity): the slots of its own beginning and itself. ``last``: int64, shape (m,): the tokens behind which
    logits are wanted."""

    row: torch.Tensor
    slot: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor
    sees: torch.Tensor
    last: torch.Tensor


class Forward(Protocol):
    """``logits``: blocks of (index of the first, float32 logits of shape (block, vocabulary)) that cover ``fed.last``,
    in order. ``wanted``: only these columns, in this order (int64, shape (columns,); None: all)."""

    def logits(self, fed: Fed, wanted: torch.Tensor | None = None) -> Iterator[tuple[int, torch.Tensor]]: ...


class PlainForward:
    """Whole sequences, without any cache: what every causal model can do. ``rows``: prompts at once."""

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model = model
        self.tokens = torch.zeros(rows, 0, dtype=torch.int64, device=model.device)
        self.positions = torch.zeros_like(self.tokens)

    def logits(self, fed: Fed, wanted: torch.Tensor | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        capacity = fed.sees.shape[1]
        for name, values in (("tokens", fed.token), ("positions", fed.position)):
            grown = torch.nn.functional.pad(getattr(self, name), (0, capacity - getattr(self, name).shape[1]))
            grown[fed.row, fed.slot] = values
            setattr(self, name, grown)
        sees, rows = fed.sees[fed.last], fed.row[fed.last]
        # the tokens of each sequence in order, then those of others, which a causal model does not look at
        order = torch.where(sees, self.positions[rows], capacity).argsort(dim=1, stable=True)
        lengths = sees.sum(1)
        sequences = self.tokens[rows].gather(1, order)[:, : int(lengths.max())]
        size = max(1, MAX_LOGITS // (sequences.shape[1] * self.model.config.get_text_config().vocab_size))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            logits = self.model(input_ids=sequences[block], use_cache=False).logits
            found = logits[torch.arange(len(logits), device=logits.device), lengths[block] - 1].float()
            yield start, found if wanted is None else found[:, wanted]
