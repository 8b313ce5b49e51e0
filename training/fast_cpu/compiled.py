"""The kernels themselves, compiled by numba. bf16 comes as int16 of the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

DISABLED = bool(numba.config.DISABLE_JIT)
LOG2_E = math.log2(math.e)


def _compiled(function: Callable) -> Callable:
    # sums may be reordered, and so vectorised; NaN stays NaN
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(**options)(function)

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal compiled
        try:
            compiled(*arguments)
        except Exception:
            # the cache could not be read or written: a full disk, a file cut short, somebody else's; nothing is
            # computed yet
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
def _to_float32(half):
    return _float_of(np.int32(half) << np.int32(16))


@numba.njit(inline="always")
def _to_bf16(number):
    """Rounded to the nearest, ties away from 0."""
    return np.int16((_bits_of(number) + np.int32(0x8000)) >> np.int32(16))


@numba.njit(inline="always")
def _sortable(half):
    """bf16 as an integer that sorts the same way, and back: the lower bits of negative numbers are flipped."""
    return np.int16(half ^ ((half >> np.int16(15)) & np.int16(0x7FFF)))


@numba.njit(inline="always")
def _exp2(number):
    """For numbers up to 0, with a relative error of 1e-4, where bf16 has 4e-3; below 1e-37 it is as good as 0."""
    number = max(number, np.float32(-126))
    whole = _rounded(number)
    rest = number - whole
    series = np.float32(0.99992807) + rest * (
        np.float32(0.69326099) + rest * (np.float32(0.24261112) + rest * np.float32(0.05517166))
    )
    return _float_of(_bits_of(series) + (np.int32(whole) << np.int32(23)))


@numba.njit(inline="always")
def _key(seed, row):
    """64 random bits of each row: one step of SplitMix64."""
    bits = seed + np.uint64(row) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@numba.njit(inline="always")
def _random_bits(key, column):
    """32 random bits of a row's ``key`` and a column. They depend on no state, so that the loop is vectorised."""
    bits = np.uint32(np.uint32(column) * np.uint32(0x9E3779B1) + np.uint32(key))
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D) + np.uint32(key >> np.uint64(32)))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@_compiled
def drop(values, threshold, seed, first):
    """``values`` (rows, columns), integers."""
    for row in range(values.shape[0]):
        key = _key(seed, first + row)
        for i in range(values.shape[1]):
            values[row, i] = 0 if _random_bits(key, i) < threshold else values[row, i]


@_compiled
def softmax_backward(scores, gradients, factor, mask, dropout):
    """``scores`` and ``gradients`` (texts, rows, columns) bf16, ``mask`` as ``exponentials`` has it, ``dropout`` a
    threshold of 32 random bits, what is kept times ``scale``, the seed and the number of the first row."""
    threshold, scale, seed, first = dropout
    texts, rows, columns = scores.shape
    masked = mask.shape[1] > 0
    to_exp2 = factor * np.float32(LOG2_E)
    weights, incoming = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for text in range(texts):
        for row in range(rows):
            largest = _largest(scores[text, row], mask[text]) * to_exp2
            total = np.float32(0)
            for i in range(columns):
                value = _exp2(_to_float32(scores[text, row, i]) * to_exp2 - largest)
                if masked:
                    value = _float_of(_bits_of(value) & np.int32(mask[text, i]))
                total += value
                weights[i] = value
            inverse = np.float32(0 if total == 0 else 1 / total)
            key = _key(seed, first + text * rows + row)
            mean = np.float32(0)
            for i in range(columns):
                weight = weights[i] * inverse
                kept = np.float32(0) if _random_bits(key, i) < threshold else scale
                gradient = _to_float32(gradients[text, row, i]) * kept
                scores[text, row, i] = _to_bf16(weight * kept)
                mean += weight * gradient
                weights[i], incoming[i] = weight, gradient
            for i in range(columns):
                gradients[text, row, i] = _to_bf16(weights[i] * (incoming[i] - mean) * factor)


@numba.njit(inline="always")
def _largest(scores, mask):
    """The largest of bf16 ``scores`` (columns,), of tokens that are not masked."""
    largest = np.int16(-0x8000)
    for i in range(len(scores)):
        score = _sortable(scores[i])
        if len(mask) > 0:
            score = np.int16(score & mask[i] | ~mask[i] & np.int16(-0x8000))
        largest = max(largest, score)
    return _to_float32(_sortable(largest))


@_compiled
def exponentials(scores, factor, mask, sums):
    """``scores`` (texts, rows, columns) bf16, ``mask`` (texts, columns) or, where nothing is masked, (texts, 0),
    ``sums`` (texts, rows)."""
    texts, rows, columns = scores.shape
    masked = mask.shape[1] > 0
    for text in range(texts):
        for row in range(rows):
            largest = _largest(scores[text, row], mask[text]) * factor
            total = np.float32(0)
            for i in range(columns):
                value = _exp2(_to_float32(scores[text, row, i]) * factor - largest)  # anything, where it is masked
                if masked:
                    value = _float_of(_bits_of(value) & np.int32(mask[text, i]))
                total += value
                scores[text, row, i] = _to_bf16(value)
            sums[text, row] = total


@_compiled
def divide(products, sums, output):
    """``products`` (texts, heads, tokens, dimension) bf16, ``sums`` (texts, heads, tokens), ``output`` (texts, tokens,
    heads, dimension)."""
    texts, heads, rows, dimension = products.shape
    for text in range(texts):
        for row in range(rows):
            for head in range(heads):
                total = sums[text, head, row]
                inverse = np.float32(0 if total == 0 else 1 / total)  # 0 where all is masked
                for i in range(dimension):
                    output[text, row, head, i] = _to_bf16(_to_float32(products[text, head, row, i]) * inverse)
