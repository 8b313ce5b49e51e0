"""The element-wise ops between an encoder's matrix products, on one core of a CPU: for tensors in bf16, dropout for
any.

torch goes through memory for each step of a softmax or of dropout; numba compiles the steps together, and they run
without Python's lock. Compiled when first called, within about three seconds, and kept beside ``compiled.py``, or in
the user's cache where nothing may be written there. bf16, which numba does not know, is the upper half of a float32.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

try:
    from sharpen.training.fast_cpu import compiled
except ImportError:  # numba is an extra
    compiled = None

HAS_NUMBA = compiled is not None
COMPILED = HAS_NUMBA and not compiled.DISABLED
"""Whether these can be called: ``NUMBA_DISABLE_JIT=1`` in the environment keeps numba from compiling."""


def exponentials_(scores: Tensor, factor: float, mask: Tensor | None = None) -> Tensor:
    """The numerators of a softmax of ``scores`` times ``factor``, in place, and 0 for masked tokens.

    ``scores``: bf16 of shape (texts, heads, tokens, tokens). ``mask``: int16 of shape (texts, tokens), -1 for tokens
    that are attended to and 0 for others; None for no mask. Returns the denominators, float32 of shape (texts, heads,
    tokens).
    """
    texts, _, _, tokens = scores.shape
    sums = torch.empty(scores.shape[:-1], dtype=torch.float32)
    compiled.exponentials(
        _array(scores.view(texts, -1, tokens)),
        np.float32(factor * math.log2(math.e)),
        _mask_array(mask, texts),
        sums.view(texts, -1).numpy(),
    )
    return sums


def divide(products: Tensor, sums: Tensor, output: Tensor) -> None:
    """Write ``products``, of shape (texts, heads, tokens, dimension), divided by ``sums``, float32 of (texts, heads,
    tokens), into ``output``, of (texts, tokens, heads, dimension)."""
    compiled.divide(_array(products.contiguous()), sums.numpy(), _array(output))


def drop_(values: Tensor, p: float, seed: int, first: int = 0) -> Tensor:
    """Set each of ``values`` to 0 with probability ``p``, in place; the others are not scaled. Returns ``values``.

    ``values``: contiguous, of any type, of shape (..., columns). Each row is drawn by ``seed``, below 2^62, and by its
    number, from ``first`` on.
    """
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]  # the bits of 0 are those of 0
    compiled.drop(values.view(-1, values.shape[-1]).view(integer).numpy(), _threshold(p), np.uint64(seed), first)
    return values


def softmax_backward_(
    scores: Tensor,
    gradients: Tensor,
    factor: float,
    mask: Tensor | None = None,
    dropout: tuple[float, int, int] = (0.0, 0, 0),
) -> None:
    """Backward of a softmax of ``scores`` times ``factor`` followed by dropout, in place.

    ``dropout``: ``p``, ``seed`` and ``first``, as ``drop_`` took them. ``gradients``, those of the weights after
    dropout, become those of ``scores``; ``scores`` become these weights. Shapes as in ``exponentials_``; ``gradients``
    as ``scores``.
    """
    p, seed, first = dropout
    texts, _, _, tokens = scores.shape
    arrays = (_array(t.view(texts, -1, tokens)) for t in (scores, gradients))
    drawn = (_threshold(p), np.float32(1 / (1 - p)), np.uint64(seed), first)
    compiled.softmax_backward(*arrays, np.float32(factor), _mask_array(mask, texts), drawn)


def _threshold(p: float) -> np.uint32:
    return np.uint32(min(2**32 - 1, round(p * 2**32)))


def _mask_array(mask: Tensor | None, texts: int) -> np.ndarray:
    return np.empty((texts, 0), np.int16) if mask is None else mask.contiguous().numpy()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy()
