"""Linear layers in int8, for encoding much text on CPUs, which multiply int8 twice as fast as bf16 (AVX512-VNNI, AMX).

Inputs are scaled per channel and weights per output, each sharing the other's large values (SmoothQuant, Xiao et al. 2023; with
the weights' norms in place of their largest, which took the mean cosine to float32 of texts of 250 characters from 0.9941 to
0.9983 while few tokens were left to bf16), by what the layers are given for a sample of the texts. A few tokens of each text
have inputs several times as large as all others: the range does not stretch to them, they are multiplied in bf16 besides. What
rounding adds on average over the sample is taken off by the bias (Nagel et al. 2019). What a layer with GELU gives to the next is
rounded as it comes out of the product, by one scale for all channels, which costs nothing: 0.9994 with one, 0.9993 with one each;
what LayerNorm gives, as it is normalised. Then a second sample tells whether the vectors are near enough; if not, all stays in bf16.
"""

from __future__ import annotations

import inspect
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor, nn

from evaluation.cpu import FusedLinear, is_plain
from evaluation.kernels import COMPILED, normalise_rows, round_rows

LEAST_COSINE = 0.999
"""Mean cosine, on the sample, between vectors by int8 and by bf16, below which bf16 is kept."""
RANGE = 1.75
"""How far inputs reach, as a multiple of what half of all tokens stay within: wider is less exact, narrower takes more tokens
twice. Of abstracts, with 1.75, 2 and 2.5: mean cosine 0.99943, 0.99938, 0.99908, and 7.4, 6.2 and 5.7 % of tokens twice. For 220
questions on Python's documentation 2 took 0.0083 (0.0002 to 0.0172) of nDCG@10, and 1.75 nothing (+0.0003)."""
BEYOND = 0.1
"""Share of tokens that may be taken twice whatever their range, as far as the sample tells: the first and the last of a text are
unlike all others, and in texts of 100 characters one of twelve (there the mean cosine is 0.9992, and with half of this 0.9970)."""
NARROWEST = 256
"""Channels from which on a product takes so long that rounding its inputs pays: with 128, encoding took as long as in bf16."""
KEPT = 3
"""Of the sample, the inputs of one token in so many are kept; odd, so that not all are the first of their texts."""
LEAST_GELU = 0.17
"""No output of GELU is below minus this."""
ROWS_STEP = 32
"""Numbers of tokens that are taken twice are multiples of this: for each shape, the matrix library keeps some 0.4 MiB."""


def has_int8() -> bool:
    """Whether this CPU multiplies int8 with one instruction, this build of torch has the operator, numba compiles, and nobody
    said ``SHARPEN_INT8=0``."""
    multiplies = any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_vnni_supported", "_is_amx_tile_supported"))
    return os.environ.get("SHARPEN_INT8") != "0" and multiplies and COMPILED and hasattr(torch.ops.onednn, "qlinear_pointwise")


@contextmanager
def int8_linears(model: nn.Module, layers: dict[nn.Linear, FusedLinear], encode: Callable[[Sequence[str]], Tensor], sample: Sequence[str]) -> Iterator[bool]:
    """Let ``layers`` of ``model``, as ``fused_linears`` gives them, multiply in int8, where that changes the vectors little.

    ``encode``: texts to vectors of shape (texts, dimension), by the model. ``sample``: texts like those to be encoded, a dozen
    or more; two thirds of them set the ranges, by the others the vectors are compared. Yields whether int8 is used. For
    inference only. What gives to these layers changes with them; at the end the model is as it was.
    """
    layers = {layer: forward for layer, forward in layers.items() if layer.in_features >= NARROWEST}
    if not layers:
        yield False
        return
    compared = sample[::3]
    observed = _Observed(model, layers)
    try:
        with observed.watching():
            encode([text for i, text in enumerate(sample) if i % 3])
        expected = encode(compared)
        _multiply_in_int8(layers, observed)
        near = bool(nn.functional.cosine_similarity(encode(compared), expected).mean() >= LEAST_COSINE)
        if not near:
            _restore(layers, observed.makers)
        del expected
        observed.forget()
        yield near
    finally:
        _restore(layers, observed.makers)


@torch.inference_mode()
def _multiply_in_int8(layers: dict[nn.Linear, FusedLinear], observed: _Observed) -> None:
    threads = local()
    for inputs, group, maker in observed.groups():
        if isinstance(maker, nn.Linear) and isinstance(maker.forward, _Int8Linear):  # one that is given now this, now that, stays in bf16
            rounding = maker.forward.hands_on = _Rounding.of_gelu(inputs.float(), threads)
        else:
            rounding = _Rounding.smooth(inputs.float(), torch.cat([layer.weight for layer in group]).float(), threads)
        if isinstance(maker, nn.LayerNorm):
            maker.forward = _Normalised(maker, rounding)
            for block in observed.residual_blocks(maker):
                block.forward = _Residual(block)
        for layer in group:
            layer.forward = _Int8Linear(layers[layer], rounding, inputs)


def _restore(layers: dict[nn.Linear, FusedLinear], others: Iterable[nn.Module]) -> None:
    for module in others:
        vars(module).pop("forward", None)
    for layer, forward in layers.items():
        layer.forward = forward


class _Observed:
    """What linear layers are given, and what makes it."""

    def __init__(self, model: nn.Module, layers: dict[nn.Linear, FusedLinear]) -> None:
        self._layers = layers
        self._norms = [m for m in model.modules() if is_plain(m, nn.LayerNorm) and m.weight is not None and len(m.normalized_shape) == 1]
        self._blocks = [m for m in model.modules() if _is_residual(m)]
        self._inputs: dict[nn.Linear, list[Tensor]] = defaultdict(list)
        self._sources: dict[nn.Linear, set[tuple[nn.Linear, nn.Module | None]]] = defaultdict(set)
        self._last: tuple[Tensor, nn.Linear] | None = None
        self._made: tuple[Tensor, nn.Module] | None = None

    @property
    def makers(self) -> list[nn.Module]:
        return [*self._norms, *self._blocks]

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [layer.register_forward_pre_hook(self._keep) for layer in self._layers]
        hooks += [maker.register_forward_hook(self._make) for maker in (*self._norms, *(layer for layer, f in self._layers.items() if f.gelu))]
        hooks += [block.register_forward_hook(self._leave) for block in self._blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._last = self._made = None

    def forget(self) -> None:
        """What was given; it is large."""
        self._inputs.clear()

    def _keep(self, layer: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs = arguments[0]
        if inputs.dim() != 3:  # what comes after pooling is little
            return
        if self._last is None or self._last[0] is not inputs:
            self._last = (inputs, layer)
            self._inputs[layer].append(inputs.flatten(0, 1)[::KEPT].clone())
        if self._made and self._made[0] is not inputs:
            self._made = None  # what comes between may take its place
        self._sources[layer].add((self._last[1], self._made and self._made[1]))

    def _make(self, maker: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        if output.dtype == arguments[0].dtype == torch.bfloat16:  # some models normalise in float32
            self._made = (output, maker)

    def _leave(self, block: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if block in self._blocks and not (self._made and self._made[0] is output and self._made[1] is block.LayerNorm):
            self._blocks.remove(block)  # XMOD's has the norm, and leaves it to others

    def residual_blocks(self, norm: nn.LayerNorm) -> list[nn.Module]:
        return [block for block in self._blocks if block.LayerNorm is norm]

    def groups(self) -> Iterator[tuple[Tensor, list[nn.Linear], nn.Module | None]]:
        """Inputs, of shape (tokens, channels), and the layers that are given them: query, key and value share theirs. At
        last, the LayerNorm, or the layer with GELU, whose output they are, if they are one's. In the order in which the model
        calls them."""
        for first, inputs in self._inputs.items():
            group = [layer for layer, sources in self._sources.items() if {source for source, _ in sources} == {first}]
            makers = {maker for layer in group for _, maker in self._sources[layer]}
            elsewhere = {maker for layer, sources in self._sources.items() if layer not in group for _, maker in sources}
            if group:
                yield torch.cat(inputs), group, makers.pop() if len(makers) == 1 and not makers & elsewhere else None


def _is_residual(module: nn.Module) -> bool:
    """Whether it looks like the blocks of BERT, and of those made after it, that add what they are given second to what their
    layer makes of the first, and normalise the sum."""
    if {name for name, _ in module.named_children()} != {"dense", "LayerNorm", "dropout"} or "forward" in vars(module):
        return False
    return list(inspect.signature(module.forward).parameters) == ["hidden_states", "input_tensor"]


class _Rounding:
    """What is common to layers that are given the same: how it is rounded to 8 bits without sign."""

    def __init__(self, step: Tensor, zero: int, threads: local) -> None:
        """``step``: of each channel, what one of the 255 steps stands for. ``zero``: what stands for 0. ``threads``: where
        each thread keeps what it rounded last."""
        self.step, self.zero, self.inverse = step, zero, 1 / step
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
            rounded, beyond = round_rows(rows, self.inverse, self.zero)
            beyond = some(beyond)
            last = self.keep(inputs, rounded, beyond, rows[beyond])
        return last[2]

    def keep(self, inputs: Tensor, rounded: Tensor, beyond: Tensor, rows: Tensor) -> tuple[_Rounding, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Let a call with ``inputs`` give the others."""
        self._threads.last = (self, inputs, (rounded, beyond, rows))
        return self._threads.last


def some(rows: Tensor) -> Tensor:
    """The numbers of those rows that are true, the last one repeated as often as ``ROWS_STEP`` asks."""
    numbers = rows.nonzero().squeeze(1)
    return torch.cat([numbers, numbers[-1:].expand(-len(numbers) % ROWS_STEP)]) if len(numbers) else numbers


def _reach(largest: Tensor, beyond: float) -> Tensor:
    """The end of the range, from each token's largest input in its direction, that a share of ``beyond`` may exceed."""
    largest = largest.clamp(min=0).sort().values
    common = torch.maximum(RANGE * largest[len(largest) // 2], largest[int((1 - beyond) * len(largest))])
    return torch.minimum(common, 1.05 * largest[-1])  # what is never reached makes the steps wide for nothing


class _Normalised:
    """A LayerNorm that rounds what it gives to layers in int8."""

    def __init__(self, norm: nn.LayerNorm, rounding: _Rounding) -> None:
        self._weight = norm.weight.float()
        self._bias = torch.zeros_like(self._weight) if norm.bias is None else norm.bias.float()
        self._epsilon, self._rounding = norm.eps, rounding

    def __call__(self, inputs: Tensor, added: Tensor | None = None) -> Tensor:
        """Of shape (texts, tokens, channels), and what else is to be added before."""
        other = None if added is None else added.flatten(0, -2)
        rows, rounded, beyond = normalise_rows(inputs.flatten(0, -2), other, self._weight, self._bias, self._epsilon, self._rounding.inverse, self._rounding.zero)
        output, beyond = rows.view(inputs.shape), some(beyond)
        self._rounding.keep(output, rounded, beyond, rows[beyond])
        return output


class _Residual:
    def __init__(self, block: nn.Module) -> None:
        self._layer, self._normalised = block.dense, block.LayerNorm.forward

    def __call__(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self._normalised(self._layer(hidden_states), input_tensor)


class _Int8Linear:
    def __init__(self, exact: FusedLinear, rounding: _Rounding, inputs: Tensor) -> None:
        """``inputs``: some, of shape (tokens, channels)."""
        self._exact, self._rounding = exact, rounding
        self.hands_on: _Rounding | None = None
        """How to round what comes out, if the next layer takes it so."""
        weights = exact.layer.weight.float() * rounding.step
        self._scales = weights.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        whole = (weights / self._scales[:, None]).round()
        self._weights = torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), None)
        self._zeros = torch.zeros(len(whole), dtype=torch.int64)
        rounded, beyond = round_rows(inputs, rounding.inverse, rounding.zero)
        fit = ~beyond
        lost = exact.layer.weight.float() @ inputs[fit].float().mean(0) - whole @ (rounded[fit].float().mean(0) - rounding.zero) * self._scales
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
        self.hands_on.keep(whole, output, beyond, self._exact(inputs.flatten(0, 1)[beyond]))
        return whole

    def _product(self, rounded: Tensor, scale: float, zero: int, dtype: torch.dtype) -> Tensor:
        rounding = (self._weights, self._scales, self._zeros, self._bias)
        return torch.ops.onednn.qlinear_pointwise.default(rounded, 1.0, self._rounding.zero, *rounding, scale, zero, dtype, *self._exact.after)
