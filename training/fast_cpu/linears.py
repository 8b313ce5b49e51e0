"""Linear layers and embedding lookups in training on CPUs.

Of a linear layer in bf16, torch writes the bias and the product to memory one after the other, which oneDNN does in
one. Of embeddings, it makes a gradient as large as the vocabulary for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sharpen.evaluation.encoders.precision import has_bf16

LARGE_EMBEDDING = 4096
"""Rows of an embedding from which on its gradients are gathered."""


def recomputes(model: nn.Module) -> bool:
    """Whether parts of it will be computed again in backward, when none of this is in place any more."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@contextmanager
def gathered_lookups(model: nn.Module) -> Iterator[None]:
    """Give the large embeddings in ``model`` that are trained on a CPU one gradient for all calls within.

    torch makes one as large as the vocabulary for each call, and adds them up: measured with DistilBERT, this was a
    fifteenth of a training step of 96 texts in micro-batches of 8.
    """
    lookups = [
        m
        for m in model.modules()
        if _is_plain(m, nn.Embedding) and m.max_norm is None and not (m.scale_grad_by_freq or m.sparse)
    ]
    able = torch.is_grad_enabled() and not recomputes(model)
    trained = [
        m
        for m in lookups
        if able and m.weight.device.type == "cpu" and m.weight.requires_grad and m.num_embeddings >= LARGE_EMBEDDING
    ]
    with _forwards({module: _Gathered(module) for module in trained}):
        yield


@contextmanager
def fused_bias(model: nn.Module) -> Iterator[None]:
    """Let linear layers in ``model`` on a CPU, under autocast to bf16, add their bias within the product.

    An input that several of them have in common, as query, key and value have, is cast to bf16 once, and their weights
    once for all calls. The operator is the one that ``torch.compile`` uses; where a build of torch lacks it, nothing is
    changed.
    """
    able = (
        has_bf16("cpu")  # where autocast to bf16 is emulated, the operator is not
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not recomputes(model)
    )
    layers = [
        m
        for m in model.modules()
        if able and _is_plain(m, nn.Linear) and (m.weight.device.type, m.weight.dtype) == ("cpu", torch.float32)
    ]
    cast = _LastCast()
    with _forwards({layer: _FusedBias(layer, cast) for layer in layers}):
        yield


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let modules compute by these, and by their own ``forward`` again at the end."""
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            vars(module).pop("forward", None)


def _is_plain(module: nn.Module, kind: type) -> bool:
    """A subclass, or a module with a ``forward`` that others put there, may do more."""
    return type(module) is kind and "forward" not in vars(module)


class _Gathered:
    """An embedding whose gradients of all calls are kept until the last, and summed at once."""

    def __init__(self, embedding: nn.Embedding) -> None:
        padding = -1 if embedding.padding_idx is None else embedding.padding_idx
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._weight = _SumOfKept.apply(embedding.weight, self._kept, padding)

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
        # marks that there is a gradient, and adds nothing to it
        return torch.sparse_coo_tensor(size=ctx.shape, dtype=gradient.dtype, check_invariants=False), None, None


class _SumOfKept(torch.autograd.Function):
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


class _LastCast:
    """A tensor in bf16; the same one asked for again is not cast again."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not tensor or self._last[1] != tensor._version:
            self._last = (tensor, tensor._version, tensor.to(torch.bfloat16))
        return self._last[2]


class _FusedBias:
    """A linear layer with its weights in bf16 once for all calls."""

    def __init__(self, layer: nn.Linear, cast: _LastCast) -> None:
        self._layer, self._cast = layer, cast
        self._weight, self._bias = (None if t is None else t.to(torch.bfloat16) for t in (layer.weight, layer.bias))

    def __call__(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):  # where a model turns it off
            return nn.functional.linear(input, self._layer.weight, self._layer.bias)
        return _Linear.apply(self._cast(input), self._weight, self._bias)


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
