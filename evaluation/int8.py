"""Linear layers in int8, for encoding much text on CPUs, which multiply int8 twice as fast as bf16 (AVX512-VNNI, AMX).

Inputs are scaled per channel and weights per output, each sharing the other's large values (SmoothQuant, Xiao et al. 2023; with
the weights' norms in place of their largest, which took the mean cosine to float32 of texts of 250 characters from 0.9941 to
0.9983 while few tokens were left to bf16), by what the layers are given for a sample of the texts. A few tokens of each text
have inputs several times as large as all others: the range does not stretch to them, they are multiplied in bf16 besides. What
rounding adds on average over the sample is taken off by the bias (Nagel et al. 2019). Then a second sample tells whether the
vectors are near enough; if not, all stays in bf16.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor, nn

from evaluation.cpu import FusedLinear

LEAST_COSINE = 0.999
"""Mean cosine, on the sample, between vectors by int8 and by bf16, below which bf16 is kept."""
RANGE = 1.75
"""How far inputs reach, as a multiple of what half of all tokens stay within: wider is less exact, narrower takes more tokens
twice."""
BEYOND = 0.05
"""Share of tokens that may be taken twice whatever their range, as far as the sample tells."""
NARROWEST = 256
"""Channels from which on a product takes so long that rounding its inputs pays: with 128, encoding took as long as in bf16."""
AT_ONCE = 1024
"""Tokens whose inputs are rounded together."""
KEPT = 3
"""Of the sample, the inputs of one token in so many are kept; odd, so that not all are the first of their texts."""
ROWS_STEP = 8
"""Numbers of tokens that are taken twice are multiples of this: the matrix library prepares itself for each new shape."""


def has_int8() -> bool:
    """Whether this CPU multiplies int8 with one instruction, this build of torch has the operator, and nobody said
    ``SHARPEN_INT8=0``."""
    multiplies = any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_vnni_supported", "_is_amx_tile_supported"))
    return os.environ.get("SHARPEN_INT8") != "0" and multiplies and hasattr(torch.ops.onednn, "qlinear_pointwise")


@contextmanager
def int8_linears(layers: dict[nn.Linear, FusedLinear], encode: Callable[[Sequence[str]], Tensor], sample: Sequence[str]) -> Iterator[bool]:
    """Let ``layers``, as ``fused_linears`` gives them, multiply in int8, where that changes the vectors little.

    ``encode``: texts to vectors of shape (texts, dimension), by the model that the layers are in. ``sample``: texts like those
    to be encoded, a dozen or more; two thirds of them set the ranges, by the others the vectors are compared. Yields whether
    int8 is used. For inference only; the layers are as they were at the end.
    """
    layers = {layer: forward for layer, forward in layers.items() if layer.in_features >= NARROWEST}
    if not layers:
        yield False
        return
    observed = _Observed(layers)
    with observed.watching():
        encode([text for i, text in enumerate(sample) if i % 3])
    compared = sample[::3]
    expected = encode(compared)
    try:
        threads = local()
        with torch.inference_mode():
            for inputs, group in observed.groups():
                inputs = inputs.float()
                rounding = _Rounding(inputs, torch.cat([layer.weight for layer in group]).float(), threads)
                for layer in group:
                    layer.forward = _Int8Linear(layers[layer], rounding, inputs)
        near = bool(nn.functional.cosine_similarity(encode(compared), expected).mean() >= LEAST_COSINE)
        if not near:
            _restore(layers)
        yield near
    finally:
        _restore(layers)


def _restore(layers: dict[nn.Linear, FusedLinear]) -> None:
    for layer, forward in layers.items():
        layer.forward = forward


class _Observed:
    """What linear layers are given."""

    def __init__(self, layers: Iterable[nn.Linear]) -> None:
        self._layers = list(layers)
        self._inputs: dict[nn.Linear, list[Tensor]] = defaultdict(list)
        self._first: dict[nn.Linear, set[nn.Linear]] = defaultdict(set)
        self._last: tuple[Tensor, nn.Linear] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [layer.register_forward_pre_hook(self._keep) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._last = None

    def _keep(self, layer: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs = arguments[0]
        if inputs.dim() != 3:  # what comes after pooling is little
            return
        if self._last is None or self._last[0] is not inputs:
            self._last = (inputs, layer)
            self._inputs[layer].append(inputs.flatten(0, 1)[::KEPT].clone())
        self._first[layer].add(self._last[1])

    def groups(self) -> Iterator[tuple[Tensor, list[nn.Linear]]]:
        """Inputs, of shape (tokens, channels), and the layers that are given them: query, key and value share theirs."""
        for first, inputs in self._inputs.items():
            yield torch.cat(inputs), [layer for layer, firsts in self._first.items() if firsts == {first}]


class _Rounding:
    """What is common to layers that are given the same: how it is rounded to 8 bits without sign."""

    def __init__(self, inputs: Tensor, weights: Tensor, threads: local) -> None:
        """``inputs`` of shape (tokens, channels) and ``weights`` of (outputs, channels), both float32. ``threads``: where
        each thread keeps what it rounded last."""
        least = torch.finfo(torch.float32).eps
        channels = (inputs.abs().amax(0).clamp(min=least) / weights.norm(dim=0).clamp(min=least)).sqrt()
        scaled = inputs / channels
        low, high = _reach(-scaled.amin(1)), _reach(scaled.amax(1))
        step = ((low + high) / 255).clamp(min=least)
        self.zero = round(float(low / step))
        """What stands for 0."""
        self.step = channels * step
        """Of each channel: what one of the 255 steps stands for."""
        self._shift = torch.full_like(self.step, self.zero - 128)
        self._inverse = 1 / self.step
        self._threads = threads

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As ``round``, of inputs of shape (texts, tokens, channels), once for layers that are given the same."""
        last = getattr(self._threads, "last", None)
        if last is None or last[0] is not self or last[1] is not inputs:
            last = self._threads.last = (self, inputs, self.round(inputs.flatten(0, 1)))
        return last[2]

    def round(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``rows``, of shape (tokens, channels), in uint8, and which of them do not fit."""
        rounded = torch.empty(rows.shape, dtype=torch.int8)
        exact = torch.empty(min(AT_ONCE, len(rows)), rows.shape[1])
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            scaled = exact[: len(part)].copy_(part)
            rounded[start : start + AT_ONCE] = torch.addcmul(self._shift, scaled, self._inverse, out=scaled).clamp_(-128, 127).round_()
        rounded = rounded.view(torch.uint8).bitwise_xor_(128)
        beyond = ((rounded.amax(1) == 255) | (rounded.amin(1) == 0)).nonzero().squeeze(1)
        if len(beyond):
            beyond = torch.cat([beyond, beyond[-1:].expand(-len(beyond) % ROWS_STEP)])
        return rounded, beyond


def _reach(largest: Tensor) -> Tensor:
    """The end of the range, from each token's largest input in its direction."""
    largest = largest.clamp(min=0).sort().values
    common = torch.maximum(RANGE * largest[len(largest) // 2], largest[int((1 - BEYOND / 2) * len(largest))])
    return torch.minimum(common, 1.05 * largest[-1])  # what is never reached makes the steps wide for nothing


class _Int8Linear:
    def __init__(self, exact: FusedLinear, rounding: _Rounding, inputs: Tensor) -> None:
        """``inputs``: some, of shape (tokens, channels), in float32."""
        self._exact, self._rounding = exact, rounding
        weights = exact.layer.weight.float() * rounding.step
        self._scales = weights.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        whole = (weights / self._scales[:, None]).round()
        self._weights = torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), None)
        self._zeros = torch.zeros(len(whole), dtype=torch.int64)
        rounded, beyond = rounding.round(inputs)
        fit = torch.ones(len(inputs), dtype=torch.bool).index_fill_(0, beyond, False)
        lost = exact.layer.weight.float() @ inputs[fit].mean(0) - whole @ (rounded[fit].float().mean(0) - rounding.zero) * self._scales
        self._bias = lost if exact.layer.bias is None else lost + exact.layer.bias.float()

    def __call__(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 3:
            return self._exact(inputs)
        rounded, beyond = self._rounding(inputs)
        output = torch.ops.onednn.qlinear_pointwise.default(
            rounded, 1.0, self._rounding.zero, self._weights, self._scales, self._zeros, self._bias, 1.0, 0, torch.bfloat16, *self._exact.after
        )
        if len(beyond):
            output[beyond] = self._exact(inputs.flatten(0, 1)[beyond])
        return output.view(*inputs.shape[:-1], -1)
