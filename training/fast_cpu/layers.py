"""Attention, dropout and linear layers on CPUs.

torch's own attention is made for GPUs first. On a CPU it is half again as slow in bf16 as its few matrix products,
taken of one text at a time so that what lies between them stays in the cache; with dropout, whose random numbers torch
draws one by one, it is three times as slow. Of a linear layer in bf16, torch writes the bias, the product and GELU to
memory one after the other, which oneDNN does in one. Of embeddings, it makes a gradient as large as the vocabulary for
each call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sharpen.training.fast_cpu.kernels import COMPILED, divide, drop_, exponentials_, softmax_backward_
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sharpen_cpu"
AT_ONCE = 2**20
"""Weights that are computed together: what fits a cache."""
LARGEST = 2**26
"""Weights of one text from which on torch's own, which never holds all of them, is taken where there is no dropout."""
LARGE = 4096
"""Rows of an embedding from which on its gradients are gathered."""
FOLLOWED = {"dense": "intermediate_act_fn", "lin1": "activation"}
"""The wide linear layer of an encoder's block and what comes next, as transformers names them: in BERT and those made
after it (RoBERTa, MPNet, ELECTRA, ...), and in DistilBERT."""


def use_cpu_attention(model: nn.Module) -> None:
    """Let the encoders in ``model`` that are on a CPU attend as here, where they would by torch's own.

    Only the model in memory changes: what is saved loads anywhere.
    """
    for module in model.modules():
        if (
            isinstance(module, PreTrainedModel)
            and module.device.type == "cpu"
            and module.config._attn_implementation == "sdpa"
        ):
            module.set_attn_implementation(NAME)


class CPUDropout(nn.Dropout):
    """Dropout whose random numbers are drawn many at a time, and again on the way back instead of being kept."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or not COMPILED:
            return super().forward(input)
        return _Dropout.apply(input, self.p, _seed())


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, share: float, seed: int) -> Tensor:
        ctx.share, ctx.seed = share, seed
        return _dropped(input, share, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _dropped(gradient, ctx.share, ctx.seed), None, None


def _dropped(input: Tensor, share: float, seed: int, first: int = 0) -> Tensor:
    return drop_((input * (1 / (1 - share))).contiguous(), share, seed, first) if share else input


class _Thread(threading.local):
    generator: torch.Generator | None = None


_THREAD = _Thread()


@contextmanager
def drawing(seed: int | None) -> Iterator[None]:
    """Let dropout in this thread be drawn by ``seed``, below 2^32, and not by torch's random numbers, which all threads
    share. None: by those."""
    _THREAD.generator = None if seed is None else torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _THREAD.generator = None


def _seed() -> int:
    return int(torch.randint(2**62, (), generator=_THREAD.generator))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: ``query``, ``key``, ``value`` of shape (texts, heads, tokens, dimension),
    ``attention_mask`` boolean, of (texts, 1, tokens, tokens), True for what is seen. Returns (texts, tokens, heads,
    dimension). What is more than plain attention among the tokens of a text, and what torch does faster, is left to
    torch."""
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    plain = (
        not causal
        and kwargs.get("position_bias") is None
        and kwargs.get("softcap") is None
        and (attention_mask is None or attention_mask.dtype == torch.bool)
    )
    alike = len({(t.dtype, t.shape, t.device.type) for t in (query, key, value)}) == 1 and query.device.type == "cpu"
    slower = not dropout and (query.dtype == torch.float32 or query[0, ..., 0].numel() * query.shape[2] > LARGEST)
    if slower or not plain or not alike or dropout == 1 or (dropout and not COMPILED):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = _of_padding(attention_mask)
    with torch.autocast("cpu", enabled=False):  # which would take the softmax in float32
        if not dropout and not torch.is_grad_enabled():
            return _attend_forward(query, key, value, mask, scaling), None
        return _Attention.apply(query, key, value, mask, scaling, dropout), None


@contextmanager
def fused_linears(model: nn.Module) -> Iterator[dict[nn.Linear, FusedLinear]]:
    """Let linear layers in ``model`` that are in bf16 on a CPU add their bias, and take the GELU that follows, within
    the product. For inference only: nothing of it can be differentiated. Yields those layers, and what they now compute
    by.

    The operator is the one that ``torch.compile`` uses for this; where a build of torch lacks it, nothing is changed.
    """
    layers: dict[nn.Linear, FusedLinear] = {}
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for module in model.modules() if _has_linear() else ():
        for name, layer in module.named_children():
            if not is_plain(layer, nn.Linear) or (layer.weight.device.type, layer.weight.dtype) != (
                "cpu",
                torch.bfloat16,
            ):
                continue
            activation = getattr(module, FOLLOWED.get(name, ""), None)
            fused = isinstance(activation, GELUActivation) and "forward" not in vars(activation)
            layers[layer] = forwards[layer] = FusedLinear(layer, fused)
            if fused:
                forwards[activation] = nn.Identity().forward
    with _forwards(forwards):
        yield layers


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let modules compute by these, and by their own again at the end."""
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            vars(module).pop("forward", None)


def _has_linear() -> bool:
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_plain(module: nn.Module, kind: type) -> bool:
    """What is of a subclass, or was changed by others, may do more."""
    return type(module) is kind and "forward" not in vars(module)


@dataclass(frozen=True)
class FusedLinear:
    """A linear layer, and whether GELU follows."""

    layer: nn.Linear
    gelu: bool

    @property
    def after(self) -> tuple[str, list[None], str]:
        """What follows, as oneDNN's operators name it."""
        return ("gelu", [], "none") if self.gelu else ("none", [], "")

    def __call__(self, input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(input, self.layer.weight, self.layer.bias, *self.after)


@contextmanager
def gathered_lookups(model: nn.Module) -> Iterator[None]:
    """Let the large embeddings in ``model`` that are trained on a CPU have one gradient for all calls within.

    torch makes one as large as the vocabulary for each call, and adds them up: measured with DistilBERT, of whose
    training step of 96 texts in passes of 8 this was a fifteenth.
    """
    lookups = [
        m
        for m in model.modules()
        if is_plain(m, nn.Embedding) and m.max_norm is None and not (m.scale_grad_by_freq or m.sparse)
    ]
    able = torch.is_grad_enabled() and not computes_again(model)
    trained = [
        m
        for m in lookups
        if able and m.weight.device.type == "cpu" and m.weight.requires_grad and m.num_embeddings >= LARGE
    ]
    with _forwards({module: _Gathered(module) for module in trained}):
        yield


@contextmanager
def trained_linears(model: nn.Module) -> Iterator[None]:
    """Let linear layers in ``model`` on a CPU, under autocast to bf16, add their bias within the product, and what
    several of them are given, as query, key and value are, be taken in bf16 once. Their weights are taken in it once
    for all calls."""
    able = (
        _has_linear()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not computes_again(model)
    )
    layers = [
        m
        for m in model.modules()
        if able and is_plain(m, nn.Linear) and (m.weight.device.type, m.weight.dtype) == ("cpu", torch.float32)
    ]
    narrow = _Narrow()
    with _forwards({layer: _TrainedLinear(layer, narrow) for layer in layers}):
        yield


def computes_again(model: nn.Module) -> bool:
    """Whether parts of it will be computed anew on the way back, when none of this is in place any more."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


class _Gathered:
    """What an embedding gives; the gradients of all calls are kept until the last, and summed at once."""

    def __init__(self, embedding: nn.Embedding) -> None:
        self._padding = -1 if embedding.padding_idx is None else embedding.padding_idx
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._weight = _Summed.apply(embedding.weight, self._kept, self._padding)

    def __call__(self, ids: Tensor) -> Tensor:
        return _Lookup.apply(self._weight, ids, self._kept)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, kept: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.kept, ctx.shape = kept, weight.shape
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        ctx.kept.append((gradient.flatten(0, -2), ids.flatten()))
        # says that there is one, and adds nothing
        return torch.sparse_coo_tensor(size=ctx.shape, dtype=gradient.dtype, check_invariants=False), None, None


class _Summed(torch.autograd.Function):
    """The weights as they are; their gradient is made of what the lookups kept."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: list[tuple[Tensor, Tensor]], padding: int) -> Tensor:
        ctx.kept, ctx.padding = kept, padding
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ids = (torch.cat(each) for each in zip(*ctx.kept, strict=True))
        ctx.kept.clear()
        return torch.ops.aten.embedding_dense_backward(gradients, ids, len(gradient), ctx.padding, False), None, None


class _Narrow:
    """Tensors in bf16; the same one asked for again is not computed again."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not tensor or self._last[1] != tensor._version:
            self._last = (tensor, tensor._version, tensor.to(torch.bfloat16))
        return self._last[2]


class _TrainedLinear:
    """What a linear layer computes, with its weights in bf16 once for all calls."""

    def __init__(self, layer: nn.Linear, narrow: _Narrow) -> None:
        self._layer, self._narrow = layer, narrow
        self._weight, self._bias = (None if t is None else t.to(torch.bfloat16) for t in (layer.weight, layer.bias))

    def __call__(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):  # where a model wants it exact
            return nn.functional.linear(input, self._layer.weight, self._layer.bias)
        return _Linear.apply(self._narrow(input), self._weight, self._bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return torch.ops.mkldnn._linear_pointwise.default(input, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        rows, (of_input, of_weight, of_bias) = gradient.flatten(0, -2), ctx.needs_input_grad
        return (
            (rows @ weight).view(input.shape) if of_input else None,
            rows.T @ input.flatten(0, -2) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


class _Attention(torch.autograd.Function):
    """Nothing of the size of tokens by tokens is kept for the way back: it is computed again, random numbers too."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float
    ) -> Tensor:
        ctx.scaling, ctx.dropout, ctx.seed = scaling, dropout, _seed() if dropout else 0
        ctx.save_for_backward(query, key, value, mask)
        return _attend_forward(query, key, value, mask, scaling, dropout, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        dropout, scaling = ctx.dropout, ctx.scaling
        gradients = [torch.empty_like(t) for t in (query, key, value)]
        fused, seen = _fused(query, mask)
        with torch.autocast("cpu", enabled=False):
            for part, first in _parts(query):
                ours, theirs, given = query[part].contiguous(), key[part].contiguous(), value[part].contiguous()
                outer = gradient[part].transpose(1, 2).contiguous()
                d_scores = outer @ given.transpose(2, 3)
                if fused:
                    left = ours @ theirs.transpose(2, 3)
                    softmax_backward_(
                        left, d_scores, scaling, None if seen is None else seen[part], dropout, ctx.seed, first
                    )
                else:
                    weights = _weights(ours, theirs, mask, scaling, part)
                    left, d_scores = (_dropped(t, dropout, ctx.seed, first) for t in (weights, d_scores))
                    d_scores = torch._softmax_backward_data(d_scores, weights, -1, weights.dtype).mul_(scaling)
                gradients[0][part] = d_scores @ theirs
                gradients[1][part] = d_scores.transpose(2, 3) @ ours
                gradients[2][part] = left.transpose(2, 3) @ outer
        return *gradients, None, None, None


def _attend_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0, seed: int = 0
) -> Tensor:
    """Attention. Where what lies between the products is compiled, what comes out is divided in place of the
    weights."""
    output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    fused, seen = _fused(query, mask)
    for part, first in _parts(query):
        if fused:
            ours, theirs = (
                query[part].contiguous(),
                key[part].contiguous(),
            )  # a product turns over what is not, one by one
            weights = ours @ theirs.transpose(2, 3)
            sums = exponentials_(weights, scaling, None if seen is None else seen[part])
            if dropout:  # in place, and what comes out is divided anyway
                drop_(weights, dropout, seed, first)
                sums *= 1 - dropout
            divide(weights @ value[part], sums, output[part])
        else:
            weights = _dropped(_weights(query[part], key[part], mask, scaling, part), dropout, seed, first)
            output[part] = (weights @ value[part]).transpose(1, 2)
    return output


def _fused(query: Tensor, mask: Tensor | None) -> tuple[bool, Tensor | None]:
    """Whether what lies between the products is compiled, which is for one core, and what is seen, as the kernels take
    it."""
    one_core = (
        torch.is_inference_mode_enabled() or torch.get_num_threads() == 1
    )  # texts are encoded so, each batch on a core
    fused = COMPILED and one_core and query.dtype == torch.bfloat16 and (mask is None or mask.shape[1:3] == (1, 1))
    masked = fused and mask is not None and not mask.all()
    return fused, -mask[:, 0, 0].to(torch.int16).expand(len(query), -1) if masked else None


def _parts(query: Tensor) -> Iterator[tuple[slice, int]]:
    """Texts that are taken together: one, or as many short ones as are worth the calls, about as many each time; and
    how many rows of weights were before."""
    texts, heads, tokens, _ = query.shape
    most = max(1, AT_ONCE // (heads * tokens**2))
    together = max(1, -(-texts // max(1, -(-texts // most))))
    return ((slice(start, start + together), start * heads * tokens) for start in range(0, texts, together))


def _of_padding(mask: Tensor | None) -> Tensor | None:
    """A mask that is the same for all tokens of a text, as one of padding only is, once for all of them."""
    same = mask is not None and (mask.stride(2) == 0 or bool((mask == mask[:, :, :1]).all()))
    return mask[:, :, :1] if same else mask


def _of(mask: Tensor, part: slice) -> Tensor:
    return mask if len(mask) == 1 else mask[part]


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, part: slice) -> Tensor:
    scores = (query * scaling) @ key.transpose(2, 3)
    if mask is not None:
        seen = _of(mask, part)
        scores += torch.zeros(seen.shape, dtype=scores.dtype).masked_fill_(~seen, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
