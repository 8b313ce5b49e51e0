"""Frozen layers in 4 bits beneath low-rank adapters (QLoRA; Dettmers et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class NF4Linear(nn.Linear):
    """A frozen linear layer whose weight is kept as 4-bit NormalFloat, in blocks whose scales are quantised, too:
    0.52 bytes a weight in place of 4.

    The weight is no part of ``state_dict``: a checkpoint has what is
    trained, and the base gives the rest. bitsandbytes' own layer has it there, in a form that it alone loads, and on
    CPUs looks for kernels on a hub.
    """

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        from bitsandbytes.functional import quantize_4bit

        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        packed, self._state = quantize_4bit(
            layer.weight.detach().to(device), quant_type="nf4", compress_statistics=True
        )
        self.register_buffer("weight", packed, persistent=False)
        bias = None if layer.bias is None else layer.bias.detach().to(device)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def dequantized(self) -> Tensor:
        """The weight as it is computed with, (out_features, in_features), in the precision it was given in."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.weight, self._state)

    def to_linear(self) -> nn.Linear:
        """An ordinary layer in float32 that computes the same."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.dequantized().float())
        layer.bias = self.bias
        return layer

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        return _Product.apply(input.to(dtype), self)

    def _apply(self, fn: Any, recurse: bool = True) -> NF4Linear:
        super()._apply(fn, recurse)
        self._state.to(self.weight.device)
        return self


class _Product(torch.autograd.Function):
    """Keeps the layer for the gradients, and not its weight in full, as torch's own product would."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(input.dtype)
        return nn.functional.linear(input, layer.dequantized().to(input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized().to(gradient.dtype), None


def is_quantized(model: nn.Module) -> bool:
    """Whether it has a layer of 4 bits."""
    return any(isinstance(layer, NF4Linear) for layer in model.modules())


def quantize_layers(model: nn.Module, device: torch.device, but: nn.Module | None = None) -> int:
    """Replace every linear layer of ``model`` by one of 4 bits on ``device``, in place, one after the other, and return
    how many weights they have. ``but``: a layer that stays, as the output layer of a language model."""
    return _replace(
        model,
        lambda layer: type(layer) is nn.Linear and layer is not but,
        lambda layer: NF4Linear(layer, device),
    )


def dequantize_layers(model: nn.Module) -> None:
    """Replace every layer of 4 bits by an ordinary one that computes the same, in place."""
    _replace(model, lambda layer: isinstance(layer, NF4Linear), NF4Linear.to_linear)


def _replace(model: nn.Module, is_meant: Callable[[nn.Module], bool], other: Callable[[Any], nn.Linear]) -> int:
    """Layer by layer, so that no two models are ever in memory. Returns how many weights the layers have."""
    weights = 0
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if is_meant(layer):
                setattr(parent, name, other(layer))
                weights += layer.in_features * layer.out_features
    return weights
