"""Linear layers in int8, for encoding much text on CPUs, which multiply int8 twice as fast as bf16 (AVX512-VNNI, AMX).

Inputs are scaled per channel and weights per output, each sharing the other's large values (SmoothQuant, Xiao et al. 2023; with
the weights' norms in place of their largest, which took the mean cosine to float32 of texts of 250 characters from 0.9941 to
0.9983 while few tokens were left to bf16), by what the layers are given for a sample of the texts. A few tokens of each text
have inputs several times as large as all others: the range does not stretch to them, they are multiplied in bf16 besides. What
rounding adds on average over the sample is taken off by the bias (Nagel et al. 2019). What a layer with GELU gives to the next is
rounded as it comes out of the product, by one scale for all channels, which costs nothing: 0.9994 with one, 0.9993 with one each.
Then a second sample tells whether the vectors are near enough; if not, all stays in bf16.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
BEYOND = 0.1
"""Share of tokens that may be taken twice whatever their range, as far as the sample tells: the first and the last of a text are
unlike all others, and in texts of 100 characters one of twelve (there the mean cosine is 0.9993, and with half of this 0.9987)."""
NARROWEST = 256
"""Channels from which on a product takes so long that rounding its inputs pays: with 128, encoding took as long as in bf16."""
AT_ONCE = 1024
"""Tokens whose inputs are rounded together."""
KEPT = 3
"""Of the sample, the inputs of one token in so many are kept; odd, so that not all are the first of their texts."""
LEAST_GELU = 0.17
"""No output of GELU is below minus this."""
ROWS_STEP = 32
"""Numbers of tokens that are taken twice are multiples of this: for each shape, the matrix library keeps some 0.4 MiB."""
WHOLE = 1.5 * 2**23
"""Added to a float32, it leaves no room for what is behind the point, and the lowest byte is the number that was added to it."""


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
            for inputs, group, maker in observed.groups():
                inputs = inputs.float()
                if maker and isinstance(maker.forward, _Int8Linear):  # one that is given now this, now that, stays in bf16
                    rounding = maker.forward.hands_on = _Rounding.of_gelu(inputs, threads)
                else:
                    rounding = _Rounding.smooth(inputs, torch.cat([layer.weight for layer in group]).float(), threads)
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

    def __init__(self, layers: dict[nn.Linear, FusedLinear]) -> None:
        self._layers = layers
        self._inputs: dict[nn.Linear, list[Tensor]] = defaultdict(list)
        self._sources: dict[nn.Linear, set[tuple[nn.Linear, nn.Linear | None]]] = defaultdict(set)
        self._last: tuple[Tensor, nn.Linear] | None = None
        self._made: tuple[Tensor, nn.Linear] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [hook for layer in self._layers for hook in (layer.register_forward_pre_hook(self._keep), layer.register_forward_hook(self._make))]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._last = self._made = None

    def _keep(self, layer: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs = arguments[0]
        if inputs.dim() != 3:  # what comes after pooling is little
            return
        if self._last is None or self._last[0] is not inputs:
            self._last = (inputs, layer)
            self._inputs[layer].append(inputs.flatten(0, 1)[::KEPT].clone())
        maker = self._made[1] if self._made and self._made[0] is inputs else None
        self._sources[layer].add((self._last[1], maker))

    def _make(self, layer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        if self._layers[layer].gelu:
            self._made = (output, layer)

    def groups(self) -> Iterator[tuple[Tensor, list[nn.Linear], nn.Linear | None]]:
        """Inputs, of shape (tokens, channels), and the layers that are given them: query, key and value share theirs. At
        last, the layer with GELU whose output they are, if they are one's. In the order in which the model calls them."""
        for first, inputs in self._inputs.items():
            group = [layer for layer, sources in self._sources.items() if {source for source, _ in sources} == {first}]
            makers = {maker for layer in group for _, maker in self._sources[layer]}
            if group:
                yield torch.cat(inputs), group, makers.pop() if len(makers) == 1 else None


class _Rounding:
    """What is common to layers that are given the same: how it is rounded to 8 bits without sign."""

    def __init__(self, step: Tensor, zero: int, threads: local) -> None:
        """``step``: of each channel, what one of the 255 steps stands for. ``zero``: what stands for 0. ``threads``: where
        each thread keeps what it rounded last."""
        self.step, self.zero = step, zero
        self._shift = torch.full_like(step, zero + WHOLE)
        self._inverse = 1 / step
        self._threads = threads

    @classmethod
    def smooth(cls, inputs: Tensor, weights: Tensor, threads: local) -> _Rounding:
        """For ``inputs`` of shape (tokens, channels) and ``weights`` of (outputs, channels), both float32."""
        least = torch.finfo(torch.float32).eps
        channels = (inputs.abs().amax(0).clamp(min=least) / weights.norm(dim=0).clamp(min=least)).sqrt()
        scaled = inputs / channels
        low, high = _reach(-scaled.amin(1), BEYOND / 2), _reach(scaled.amax(1), BEYOND / 2)
        step = ((low + high) / 255).clamp(min=least)
        return cls(channels * step, round(float(low / step)), threads)

    @classmethod
    def of_gelu(cls, inputs: Tensor, threads: local) -> _Rounding:
        """For ``inputs`` of shape (tokens, channels), float32, that come out of GELU: the same step for all channels."""
        step = float((LEAST_GELU + _reach(inputs.amax(1), BEYOND)) / 253)
        return cls(torch.full(inputs.shape[1:], step), math.ceil(LEAST_GELU / step) + 1, threads)  # so nothing becomes 0

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of shape (texts, tokens, channels) in uint8, of shape (texts * tokens, channels), which of these do not fit,
        and what they were. Once for layers that are given the same."""
        last = getattr(self._threads, "last", None)
        if last is None or last[0] is not self or last[1] is not inputs:
            rows = inputs.flatten(0, 1)
            rounded = self.round(rows)
            beyond = some(does_not_fit(rounded))
            last = self.keep(inputs, (rounded, beyond, rows[beyond]))
        return last[2]

    def keep(self, inputs: Tensor, rounded: tuple[Tensor, Tensor, Tensor]) -> tuple[_Rounding, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Let a call with ``inputs`` give ``rounded``."""
        self._threads.last = (self, inputs, rounded)
        return self._threads.last

    def round(self, rows: Tensor) -> Tensor:
        """``rows``, of shape (tokens, channels), in uint8."""
        rounded = torch.empty(rows.shape, dtype=torch.uint8)
        exact = torch.empty(min(AT_ONCE, len(rows)), rows.shape[1])
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            scaled = exact[: len(part)].copy_(part)
            torch.addcmul(self._shift, scaled, self._inverse, out=scaled).clamp_(WHOLE, WHOLE + 255)
            rounded[start : start + AT_ONCE] = scaled.view(torch.int32)
        return rounded


def does_not_fit(rounded: Tensor) -> Tensor:
    """Which of the rows, of shape (tokens, channels), reach the end of the range: booleans of shape (tokens,)."""
    return (rounded.amax(1) == 255) | (rounded.amin(1) == 0)


def some(rows: Tensor) -> Tensor:
    """The numbers of those rows that are true, the last one repeated as often as ``ROWS_STEP`` asks."""
    numbers = rows.nonzero().squeeze(1)
    return torch.cat([numbers, numbers[-1:].expand(-len(numbers) % ROWS_STEP)]) if len(numbers) else numbers


def _reach(largest: Tensor, beyond: float) -> Tensor:
    """The end of the range, from each token's largest input in its direction, that a share of ``beyond`` may exceed."""
    largest = largest.clamp(min=0).sort().values
    common = torch.maximum(RANGE * largest[len(largest) // 2], largest[int((1 - beyond) * len(largest))])
    return torch.minimum(common, 1.05 * largest[-1])  # what is never reached makes the steps wide for nothing


class _Int8Linear:
    def __init__(self, exact: FusedLinear, rounding: _Rounding, inputs: Tensor) -> None:
        """``inputs``: some, of shape (tokens, channels), in float32."""
        self._exact, self._rounding = exact, rounding
        self.hands_on: _Rounding | None = None
        """How to round what comes out, if the next layer takes it so."""
        weights = exact.layer.weight.float() * rounding.step
        self._scales = weights.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        whole = (weights / self._scales[:, None]).round()
        self._weights = torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), None)
        self._zeros = torch.zeros(len(whole), dtype=torch.int64)
        rounded = rounding.round(inputs)
        fit = ~does_not_fit(rounded)
        lost = exact.layer.weight.float() @ inputs[fit].mean(0) - whole @ (rounded[fit].float().mean(0) - rounding.zero) * self._scales
        self._bias = lost if exact.layer.bias is None else lost + exact.layer.bias.float()

    def __call__(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 3:
            return self._exact(inputs)
        rounded, beyond, rows = self._rounding(inputs)
        if self.hands_on is None:
            output = self._product(rounded, 1.0, 0, torch.bfloat16)
            if len(beyond):
                output[beyond] = self._exact(rows)
            return output.view(*inputs.shape[:-1], -1)
        output = self._product(rounded, float(self.hands_on.step[0]), self.hands_on.zero, torch.uint8)
        beyond = some((output.amax(1) == 255).index_fill_(0, beyond, True))
        whole = output.view(*inputs.shape[:-1], -1)
        self.hands_on.keep(whole, (output, beyond, self._exact(inputs.flatten(0, 1)[beyond])))
        return whole

    def _product(self, rounded: Tensor, scale: float, zero: int, dtype: torch.dtype) -> Tensor:
        rounding = (self._weights, self._scales, self._zeros, self._bias)
        return torch.ops.onednn.qlinear_pointwise.default(rounded, 1.0, self._rounding.zero, *rounding, scale, zero, dtype, *self._exact.after)
