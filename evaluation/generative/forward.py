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
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from sharpen.evaluation.generative.ragged import rank_within

MAX_LOGITS = 2**24
"""Numbers of a block of logits: 64 MiB in float32, whatever the vocabulary."""
ATTENTION = "sharpen_shared"
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Of log-probabilities, in which shared passes may differ from plain ones, as sums are taken in another order. What a
model computes otherwise gives larger differences."""
OTHER_TOLERANCE = 0.2
"""The same of bfloat16 and float16."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fed:
    """The ``n`` tokens of one pass. ``row``: the buffer's row (a prompt with its beams); ``slot``: the place in it,
    each int64 of shape (n,). ``sees``: bool, shape (n, capacity): the slots of its own beginning and itself. ``last``:
    int64, shape (m,): the tokens behind which logits are wanted. ``tokens`` and ``positions``: int64, shape (rows,
    capacity): what is in each slot, and where in its own sequence that is, from 0."""

    row: torch.Tensor
    slot: torch.Tensor
    sees: torch.Tensor
    last: torch.Tensor
    tokens: torch.Tensor
    positions: torch.Tensor


class Forward(Protocol):
    """``logits``: blocks of (index of the first, float32 logits of shape (block, vocabulary)) that cover ``fed.last``,
    in order. ``wanted``: only these columns, in this order (int64, shape (columns,); None: all)."""

    def logits(self, fed: Fed, wanted: torch.Tensor | None = None) -> Iterator[tuple[int, torch.Tensor]]: ...


class PlainForward:
    """Whole sequences, without any cache: what every causal model can do."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def logits(self, fed: Fed, wanted: torch.Tensor | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        sees, rows = fed.sees[fed.last], fed.row[fed.last]
        # the tokens of each sequence in order, then those of others, which a causal model does not look at
        order = torch.where(sees, fed.positions[rows], sees.shape[1]).argsort(dim=1, stable=True)
        lengths = sees.sum(1)
        sequences = fed.tokens[rows].gather(1, order)[:, : int(lengths.max())]
        size = max(1, MAX_LOGITS // (sequences.shape[1] * self.model.get_input_embeddings().weight.shape[0]))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            logits = self.model(input_ids=sequences[block], use_cache=False).logits
            found = logits[torch.arange(len(logits), device=logits.device), lengths[block] - 1].float()
            yield start, found if wanted is None else found[:, wanted]


class SharedForward:
    """Passes over the tokens that are new, with keys and values of the others kept. ``rows``: prompts at once.

    Within ``shared_attention``, and for models that look at other tokens by transformers' attention interface alone.
    """

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model, self.rows = model, rows
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.step: _Step

    def logits(self, fed: Fed, wanted: torch.Tensor | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        hidden = self._hidden(fed)[fed.last]
        output = self.model.get_output_embeddings()
        weight, bias = output.weight, getattr(output, "bias", None)
        if wanted is not None and 2 * len(wanted) < len(weight):  # gathering more rows than this takes longer
            weight, bias = weight[wanted], None if bias is None else bias[wanted]
            wanted = None
        size = max(1, MAX_LOGITS // len(weight))
        for start in range(0, len(hidden), size):
            found = self._head(hidden[start : start + size], weight, bias)
            yield start, found if wanted is None else found[:, wanted]

    def _hidden(self, fed: Fed) -> torch.Tensor:
        """Of all tokens, shape (n, width)."""
        self.step = _Step(fed)
        current = _current.set(self)
        try:
            return self.model.get_decoder()(
                input_ids=fed.tokens[fed.row, fed.slot][None],
                position_ids=fed.positions[fed.row, fed.slot][None],
                use_cache=False,
            ).last_hidden_state[0]
        finally:
            _current.reset(current)

    def _head(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Logits in float32, with what models do behind the product: Granite divides, Cohere multiplies, Gemma 2
        caps."""
        logits = linear(hidden, weight, bias)
        config = self.model.config.get_text_config()
        if scaling := getattr(config, "logits_scaling", None):
            logits = logits / scaling
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits.float()

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **how: Any):
        """Attention of the step's tokens; ``query``: (1, heads, n, size), ``key`` and ``value``: (1, groups, n, size).
        Returns (1, n, heads, size)."""
        step, (_, heads, _, size) = self.step, query.shape
        keys, values = self._keep(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        groups, each = keys.shape[2], heads // keys.shape[2]
        # heads of a group read the same keys, so they stand below each other as more tokens would
        table = query.new_zeros(len(step.rows), step.width, heads, size)
        table[step.line, step.column] = query[0].transpose(0, 1)
        table = table.view(len(step.rows), step.width, groups, each, size).permute(0, 2, 3, 1, 4)
        out = scaled_dot_product_attention(
            table.reshape(len(step.rows), groups, each * step.width, size),
            step.of_rows(keys).transpose(1, 2),
            step.of_rows(values).transpose(1, 2),
            attn_mask=step.mask(query.dtype, each, how["sliding_window"]),
            scale=how["scaling"],
        )
        out = out.view(len(step.rows), groups, each, step.width, -1).permute(0, 3, 1, 2, 4)
        return out[step.line, step.column].reshape(1, len(step.line), heads, -1)

    def _keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The buffers of the layer, shape (rows, capacity, groups, size), with the tokens' keys and values in them."""
        step = self.step
        empty = (new.new_zeros(self.rows, 0, *new.shape[1:]) for new in (key, value))
        buffers = self.kept.get(layer) or tuple(empty)
        if (missing := step.capacity - buffers[0].shape[1]) > 0:
            buffers = tuple(pad(buffer, (0, 0, 0, 0, 0, missing)) for buffer in buffers)
        self.kept[layer] = buffers
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer.view(-1, *buffer.shape[2:]).index_copy_(0, step.place, new)
        return buffers


class _Step:
    """Where the tokens of a pass stand in tables of (row, token of the row), and what they see."""

    def __init__(self, fed: Fed) -> None:
        self.fed, self.capacity = fed, fed.sees.shape[1]
        self.place = fed.row * self.capacity + fed.slot
        self.rows, self.line = fed.row.unique(return_inverse=True)
        self.column = rank_within(self.line)
        self.width = int(self.column.max()) + 1
        self.used = int(torch.nonzero(fed.sees.any(0)).max()) + 1
        self.masks: dict[int | None, torch.Tensor] = {}

    def of_rows(self, buffer: torch.Tensor) -> torch.Tensor:
        """The rows that have tokens in this pass, without slots that nobody sees."""
        used = buffer[:, : self.used]
        return used if len(self.rows) == len(buffer) else used[self.rows]

    def mask(self, dtype: torch.dtype, each: int, window: int | None) -> torch.Tensor:
        """What is added to the scores: 0 where a token sees a slot, else minus infinity; all 0 where there is no token.
        Shape (rows, 1, each * width, used)."""
        if window not in self.masks:
            fed, sees = self.fed, self.fed.sees[:, : self.used]
            if window is not None:
                own = fed.positions[fed.row, fed.slot]
                sees = sees & (own[:, None] - fed.positions[fed.row, : self.used] < window)
            table = torch.zeros(len(self.rows), self.width, self.used, dtype=dtype, device=sees.device)
            table[self.line, self.column] = torch.where(sees, 0.0, -torch.inf).to(dtype)
            self.masks[window] = table.repeat(1, each, 1)[:, None]
        return self.masks[window]


_current: ContextVar[SharedForward] = ContextVar("shared forward")


def _attend(module: torch.nn.Module, query, key, value, attention_mask, scaling=None, sliding_window=None, **others):
    """In transformers' attention interface. Raises for what it does not know, such as sinks and caps."""
    if asked := sorted(name for name, given in others.items() if given is not None and name not in _WITHOUT_MEANING):
        raise NotImplementedError(f"attention with {', '.join(asked)}")
    how = {"scaling": scaling, "sliding_window": sliding_window}
    return _current.get().attend(module.layer_idx, query, key, value, **how), None


_WITHOUT_MEANING = {"dropout", "position_ids", "use_cache", "is_causal", "cache_position", "output_attentions"}
"""Here: nothing is dropped, and who sees whom is known."""
AttentionInterface.register(ATTENTION, _attend)


@contextmanager
def shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model with ``ATTENTION``, and as it was at the end."""
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}.values()
    before = [config._attn_implementation for config in configs]
    try:
        model.set_attn_implementation(ATTENTION)
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
