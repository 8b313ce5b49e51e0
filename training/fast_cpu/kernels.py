"""What lies between an encoder's matrix products, on one core of a CPU: all of it for tensors in bf16, dropout for any.

It does little with much: takes exponentials of scores, normalises, rounds. torch goes through memory for each step of
that; numba compiles the steps together, for the machine's own instructions, and they run without Python's lock.
Compiled when first called, within some three seconds, and kept beside this file, or in the user's cache where nothing
may be written there. bf16, which numba does not know, is the upper half of a float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

COMPILED = not numba.config.DISABLE_JIT
"""Whether these can be called: ``NUMBA_DISABLE_JIT=1`` in the environment keeps numba from compiling."""
LOG2_E = math.log2(math.e)
WHOLE = np.float32(1.5 * 2**23)
"""Added to a float32, it leaves no room for what is behind the point: the last bits are the whole number it was added
to."""
LOWEST = WHOLE.view(np.int32)
"""The bits of 0, so added, and 255 more are those of 255."""


def exponentials_(scores: Tensor, factor: float, seen: Tensor | None = None) -> Tensor:
    """What a softmax of ``scores`` times ``factor`` is before it is divided: in their place, exponentials of what lies
    between the largest of a row and each, and 0 for tokens that are not seen. Returns their sums, float32 of shape
    (texts, heads, tokens). ``scores``: of shape (texts, heads, tokens, tokens). ``seen``: int16 of shape (texts,
    tokens), -1 or 0; None for all."""
    texts, _, _, tokens = scores.shape
    sums = torch.empty(scores.shape[:-1], dtype=torch.float32)
    mask = np.empty((texts, 0), np.int16) if seen is None else seen.contiguous().numpy()
    _exponentials(
        _array(scores.view(texts, -1, tokens)), np.float32(factor * LOG2_E), mask, sums.view(texts, -1).numpy()
    )
    return sums


def divide(summed: Tensor, sums: Tensor, output: Tensor) -> None:
    """Write ``summed``, of shape (texts, heads, tokens, dimension), divided by ``sums``, float32 of (texts, heads,
    tokens), into ``output``, of (texts, tokens, heads, dimension)."""
    _divide(_array(summed.contiguous()), sums.numpy(), _array(output))


def drop_(values: Tensor, share: float, seed: int, first: int = 0) -> Tensor:
    """Put zeros in place of a ``share`` of ``values``, which are contiguous, of any type and of shape (..., columns).
    Each row is drawn by ``seed``, below 2^62, and by its number, from ``first`` on. The others are not scaled. Returns
    ``values``."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]  # the bits of 0 are those of 0
    _drop(values.view(-1, values.shape[-1]).view(whole).numpy(), _threshold(share), np.uint64(seed), first)
    return values


def softmax_backward_(
    scores: Tensor,
    gradients: Tensor,
    factor: float,
    seen: Tensor | None = None,
    share: float = 0.0,
    seed: int = 0,
    first: int = 0,
) -> None:
    """The way back through a softmax of ``scores`` times ``factor`` of which ``drop_``, by ``share``, ``seed`` and
    ``first``, leaves a part. ``gradients``, those of what is left, times 1 - ``share``, become those of ``scores``, and
    ``scores`` what is left, divided by 1 - ``share``. Shapes as ``exponentials_`` has them; ``gradients`` as
    ``scores``."""
    texts, _, _, tokens = scores.shape
    mask = np.empty((texts, 0), np.int16) if seen is None else seen.contiguous().numpy()
    arrays = (_array(t.view(texts, -1, tokens)) for t in (scores, gradients))
    _softmax_backward(
        *arrays, np.float32(factor), mask, _threshold(share), np.float32(1 / (1 - share)), np.uint64(seed), first
    )


def _threshold(share: float) -> np.uint32:
    return np.uint32(min(2**32 - 1, round(share * 2**32)))


def round_rows(rows: Tensor, inverse: Tensor, zero: int) -> tuple[Tensor, Tensor]:
    """``rows``, of shape (tokens, channels), times ``inverse``, float32 of shape (channels,), plus ``zero``: rounded,
    in uint8, and which of the rows reach 0, 255 or beyond, booleans of shape (tokens,); what the others hold is
    true."""
    rounded, beyond = torch.empty(rows.shape, dtype=torch.uint8), torch.empty(len(rows), dtype=torch.bool)
    _round(_array(rows.contiguous()), inverse.numpy(), WHOLE + np.float32(zero), rounded.numpy(), beyond.numpy())
    return rounded, beyond


def normalise_rows(
    rows: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float, inverse: Tensor, zero: int
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of ``rows``, of shape (tokens, channels), and of ``added``, if any, on top, by ``weight`` and ``bias``,
    float32 of shape (channels,); and what ``round_rows`` makes of it, but from before it is in bf16."""
    output, rounded, beyond = (
        torch.empty(rows.shape, dtype=rows.dtype),
        torch.empty(rows.shape, dtype=torch.uint8),
        torch.empty(len(rows), dtype=torch.bool),
    )
    other = rows[:0] if added is None else added  # of the same type, so that there is one version of what is compiled
    given = (_array(rows.contiguous()), _array(other.contiguous()), weight.numpy(), bias.numpy(), np.float32(epsilon))
    _normalise(*given, _array(output), inverse.numpy(), WHOLE + np.float32(zero), rounded.numpy(), beyond.numpy())
    return output, rounded, beyond


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy()


def _compiled(function: Callable) -> Callable:
    # sums may be taken in any order, so by many numbers at once; what is no number stays none
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        return numba.njit(**options)(function)

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal compiled
        try:
            compiled(*arguments)
        except (
            Exception
        ):  # it could not be read or kept: a full disk, a file cut short, somebody else's; nothing is computed yet
            compiled = numba.njit(**options)(function)
            compiled(*arguments)

    return call


@intrinsic
def _float_of(typing, bits):
    return types.float32(types.int32), lambda context, builder, _, given: builder.bitcast(
        given[0], context.get_value_type(types.float32)
    )


@intrinsic
def _bits_of(typing, number):
    return types.int32(types.float32), lambda context, builder, _, given: builder.bitcast(
        given[0], context.get_value_type(types.int32)
    )


@intrinsic
def _rounded(typing, number):
    def generate(context, builder, _, given):
        kind = context.get_value_type(types.float32)
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), given)

    return types.float32(types.float32), generate


@numba.njit(inline="always")
def _wide(half):
    return _float_of(np.int32(half) << np.int32(16))


@numba.njit(inline="always")
def _half(number):
    """To the nearest; of two that are as near, the one farther from 0."""
    return np.int16((_bits_of(number) + np.int32(0x8000)) >> np.int32(16))


@numba.njit(inline="always")
def _turned(half):
    """bf16 as a whole number that is in the same order, and back: the lower bits of negative ones are turned over."""
    return np.int16(half ^ ((half >> np.int16(15)) & np.int16(0x7FFF)))


@numba.njit(inline="always")
def _exp2(number):
    """For numbers up to 0, right to 1e-4 of it, where bf16 keeps 4e-3; 0 is something below 1e-37."""
    number = max(number, np.float32(-126))
    whole = _rounded(number)
    rest = number - whole
    series = np.float32(0.99992807) + rest * (
        np.float32(0.69326099) + rest * (np.float32(0.24261112) + rest * np.float32(0.05517166))
    )
    return _float_of(_bits_of(series) + (np.int32(whole) << np.int32(23)))


@numba.njit(inline="always")
def _key(seed, row):
    """64 bits for each row that have nothing to do with those of others: one step of SplitMix64."""
    bits = seed + np.uint64(row) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@numba.njit(inline="always")
def _drawn(key, column):
    """32 random bits of a row's ``key`` and the number of a column. They depend on nothing before, so many are made at
    once."""
    bits = np.uint32(np.uint32(column) * np.uint32(0x9E3779B1) + np.uint32(key))
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D) + np.uint32(key >> np.uint64(32)))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@_compiled
def _drop(values, threshold, seed, first):
    """``values`` (rows, columns), whole numbers."""
    for row in range(values.shape[0]):
        key = _key(seed, first + row)
        for i in range(values.shape[1]):
            values[row, i] = 0 if _drawn(key, i) < threshold else values[row, i]


@_compiled
def _softmax_backward(scores, gradients, factor, seen, threshold, scale, seed, first):
    """``scores`` and ``gradients`` (texts, rows, columns) bf16, ``seen`` as ``_exponentials`` has it."""
    texts, rows, columns = scores.shape
    masked = seen.shape[1] > 0
    to_exp2 = factor * np.float32(LOG2_E)
    weights, passed = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for text in range(texts):
        for row in range(rows):
            most = _largest(scores[text, row], seen[text]) * to_exp2
            total = np.float32(0)
            for i in range(columns):
                value = _exp2(_wide(scores[text, row, i]) * to_exp2 - most)
                if masked:
                    value = _float_of(_bits_of(value) & np.int32(seen[text, i]))
                total += value
                weights[i] = value
            share = np.float32(0 if total == 0 else 1 / total)
            key = _key(seed, first + text * rows + row)
            mean = np.float32(0)
            for i in range(columns):
                weight = weights[i] * share
                kept = np.float32(0) if _drawn(key, i) < threshold else scale
                gradient = _wide(gradients[text, row, i]) * kept
                scores[text, row, i] = _half(weight * kept)
                mean += weight * gradient
                weights[i], passed[i] = weight, gradient
            for i in range(columns):
                gradients[text, row, i] = _half(weights[i] * (passed[i] - mean) * factor)


@numba.njit(inline="always")
def _largest(scores, seen):
    """The largest of bf16 ``scores`` (columns,), of those that are seen."""
    largest = np.int16(-0x8000)
    for i in range(len(scores)):
        score = _turned(scores[i])
        if len(seen) > 0:
            score = np.int16(score & seen[i] | ~seen[i] & np.int16(-0x8000))
        largest = max(largest, score)
    return _wide(_turned(largest))


@_compiled
def _exponentials(scores, factor, seen, sums):
    """``scores`` (texts, rows, columns) bf16, ``seen`` (texts, columns) or, for all, (texts, 0), ``sums`` (texts,
    rows)."""
    texts, rows, columns = scores.shape
    masked = seen.shape[1] > 0
    for text in range(texts):
        for row in range(rows):
            most = _largest(scores[text, row], seen[text]) * factor
            total = np.float32(0)
            for i in range(columns):
                value = _exp2(_wide(scores[text, row, i]) * factor - most)  # of what is not seen, anything
                if masked:
                    value = _float_of(_bits_of(value) & np.int32(seen[text, i]))
                total += value
                scores[text, row, i] = _half(value)
            sums[text, row] = total


@_compiled
def _divide(summed, sums, output):
    """``summed`` (texts, heads, tokens, dimension) bf16, ``sums`` (texts, heads, tokens), ``output`` (texts, tokens,
    heads, dimension)."""
    texts, heads, rows, dimension = summed.shape
    for text in range(texts):
        for row in range(rows):
            for head in range(heads):
                share = np.float32(
                    0 if sums[text, head, row] == 0 else 1 / sums[text, head, row]
                )  # 0 where nothing is seen
                for i in range(dimension):
                    output[text, row, head, i] = _half(_wide(summed[text, head, row, i]) * share)


@_compiled
def _round(rows, inverse, shift, rounded, beyond):
    """``rows`` (tokens, channels) bf16, ``inverse`` (channels,), ``rounded`` (tokens, channels) uint8, ``beyond``
    (tokens,)."""
    for row in range(rows.shape[0]):
        least, most = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for i in range(rows.shape[1]):
            bits = _bits_of(_wide(rows[row, i]) * inverse[i] + shift)
            least, most = min(least, bits), max(most, bits)
            rounded[row, i] = np.uint8(bits)
        beyond[row] = least <= LOWEST or most >= LOWEST + 255


@_compiled
def _normalise(rows, added, weight, bias, epsilon, output, inverse, shift, rounded, beyond):
    """``rows`` and ``output`` (tokens, channels) bf16, ``added`` the same or nothing; the others as ``_round`` has
    them."""
    channels = rows.shape[1]
    residual = len(added) > 0
    share = np.float32(1) / np.float32(channels)
    values = np.empty(channels, np.float32)
    for row in range(rows.shape[0]):
        total = np.float32(0)
        for i in range(channels):
            value = _wide(rows[row, i])
            if residual:
                value += _wide(added[row, i])
            values[i] = value
            total += value
        mean = total * share
        squares = np.float32(0)
        for i in range(channels):
            apart = values[i] - mean
            squares += apart * apart
        scale = np.float32(1) / np.sqrt(squares * share + epsilon)
        least, most = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for i in range(channels):
            value = (values[i] - mean) * (scale * weight[i]) + bias[i]
            output[row, i] = _half(value)
            bits = _bits_of(value * inverse[i] + shift)
            least, most = min(least, bits), max(most, bits)
            rounded[row, i] = np.uint8(bits)
        beyond[row] = least <= LOWEST or most >= LOWEST + 255
