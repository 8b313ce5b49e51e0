"""Attention in training on CPUs, as an implementation that transformers calls by name.

torch's own is made for GPUs first. On a CPU it is half again as slow in bf16 as its few matrix products, taken of one
text at a time so that what is between them stays in the cache; with dropout, whose random numbers torch draws one by
one, it is three times as slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sharpen.training.fast_cpu.dropout import draw_seed, dropped
from sharpen.training.fast_cpu.kernels import COMPILED, divide, drop_, exponentials_, softmax_backward_

NAME = "sharpen_cpu"
CACHED_WEIGHTS = 2**20
"""Attention weights that are computed together: what fits a core's cache."""
LARGEST_TEXT = 2**26
"""Attention weights of one text from which on torch's own, which never holds all of them, is taken where there is no
dropout."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: ``query``, ``key``, ``value`` of shape (texts, heads, tokens, dimension),
    ``attention_mask`` boolean, of (texts, 1, tokens, tokens), True for what is attended to. Returns (texts, tokens,
    heads, dimension).

    Left to torch: all that is more than plain self-attention, inference, and what torch does faster.
    """
    tensors = (query, key, value)
    if _torch_is_better(module, tensors, dropout) or not _is_plain(module, tensors, attention_mask, options):
        return sdpa_attention_forward(module, *tensors, attention_mask, dropout=dropout, **options)
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):  # which would take the softmax in float32
        return _Attention.apply(*tensors, _padding_mask(attention_mask), scaling, dropout), None


def _torch_is_better(module: nn.Module, tensors: tuple[Tensor, ...], dropout: float) -> bool:
    query = tensors[0]
    if not module.training or dropout == 1:
        return True
    if dropout:
        return not COMPILED
    return query.dtype == torch.float32 or query[0, ..., 0].numel() * query.shape[2] > LARGEST_TEXT


def _is_plain(module: nn.Module, tensors: tuple[Tensor, ...], mask: Tensor | None, options: dict[str, Any]) -> bool:
    causal = getattr(module, "is_causal", True) if options.get("is_causal") is None else options["is_causal"]
    extras = options.get("position_bias") is not None or options.get("softcap") is not None
    same_shape = len({(t.dtype, t.shape, t.device.type) for t in tensors}) == 1
    return (
        not causal
        and not extras
        and same_shape
        and tensors[0].device.type == "cpu"
        and (mask is None or mask.dtype == torch.bool)
    )


class _Attention(torch.autograd.Function):
    """Nothing of the size of tokens by tokens is kept for backward: it is computed again, random numbers too."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float
    ) -> Tensor:
        ctx.scaling, ctx.dropout, ctx.seed = scaling, dropout, draw_seed() if dropout else 0
        ctx.save_for_backward(query, key, value, mask)
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        use_kernels, kernel_mask = _kernel_mask(query, mask)
        for part, first in _parts(query):
            if use_kernels:
                # a matrix product transposes what is not contiguous one by one
                weights = query[part].contiguous() @ key[part].contiguous().transpose(2, 3)
                sums = exponentials_(weights, scaling, None if kernel_mask is None else kernel_mask[part])
                if dropout:
                    drop_(weights, dropout, ctx.seed, first)
                    sums *= 1 - dropout
                divide(weights @ value[part], sums, output[part])  # the output in place of the larger weights
            else:
                weights = dropped(_weights(query[part], key[part], mask, scaling, part), dropout, ctx.seed, first)
                output[part] = (weights @ value[part]).transpose(1, 2)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        p, scaling = ctx.dropout, ctx.scaling
        gradients = [torch.empty_like(t) for t in (query, key, value)]
        use_kernels, kernel_mask = _kernel_mask(query, mask)
        with torch.autocast("cpu", enabled=False):
            for part, first in _parts(query):
                q, k, v = query[part].contiguous(), key[part].contiguous(), value[part].contiguous()
                d_output = gradient[part].transpose(1, 2).contiguous()
                d_scores = d_output @ v.transpose(2, 3)
                if use_kernels:
                    weights = q @ k.transpose(2, 3)
                    part_mask = None if kernel_mask is None else kernel_mask[part]
                    softmax_backward_(weights, d_scores, scaling, part_mask, (p, ctx.seed, first))
                else:
                    before = _weights(q, k, mask, scaling, part)
                    weights, d_scores = (dropped(t, p, ctx.seed, first) for t in (before, d_scores))
                    d_scores = torch._softmax_backward_data(d_scores, before, -1, before.dtype).mul_(scaling)
                gradients[0][part] = d_scores @ k
                gradients[1][part] = d_scores.transpose(2, 3) @ q
                gradients[2][part] = weights.transpose(2, 3) @ d_output
        return *gradients, None, None, None


def _kernel_mask(query: Tensor, mask: Tensor | None) -> tuple[bool, Tensor | None]:
    """Whether the compiled kernels are used, which is on one core, and the mask as they take it."""
    one_core = torch.get_num_threads() == 1
    able = COMPILED and one_core and query.dtype == torch.bfloat16 and (mask is None or mask.shape[1:3] == (1, 1))
    masked = able and mask is not None and not mask.all()
    return able, -mask[:, 0, 0].to(torch.int16).expand(len(query), -1) if masked else None


def _parts(query: Tensor) -> Iterator[tuple[slice, int]]:
    """Texts that are computed together: one, or several short ones; and how many rows of weights were before."""
    texts, heads, tokens, _ = query.shape
    most = max(1, CACHED_WEIGHTS // (heads * tokens**2))
    together = max(1, -(-texts // max(1, -(-texts // most))))
    return ((slice(start, start + together), start * heads * tokens) for start in range(0, texts, together))


def _padding_mask(mask: Tensor | None) -> Tensor | None:
    """A mask that is the same for all tokens of a text, as one of padding only is, with one row for all of them."""
    same = mask is not None and (mask.stride(2) == 0 or bool((mask == mask[:, :, :1]).all()))
    return mask[:, :, :1] if same else mask


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, part: slice) -> Tensor:
    scores = (query * scaling) @ key.transpose(2, 3)
    if mask is not None:
        part_mask = mask if len(mask) == 1 else mask[part]
        scores += torch.zeros(part_mask.shape, dtype=scores.dtype).masked_fill_(
            ~part_mask, torch.finfo(scores.dtype).min
        )
    return scores.softmax(-1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
