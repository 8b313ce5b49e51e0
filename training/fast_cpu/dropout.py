"""Dropout whose random numbers are drawn many at a time, and again in backward instead of being kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sharpen.training.fast_cpu.kernels import COMPILED, drop_


class CPUDropout(nn.Dropout):
    """As ``nn.Dropout``, which draws its random numbers one by one on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or not COMPILED:
            return super().forward(input)
        return _Dropout.apply(input, self.p, draw_seed())


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return dropped(input, p, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return dropped(gradient, ctx.p, ctx.seed), None, None


def dropped(input: Tensor, p: float, seed: int, first: int = 0) -> Tensor:
    """Dropout of ``input``, of shape (..., columns), drawn by ``seed`` and, for each row, its number from ``first``
    on."""
    return drop_((input * (1 / (1 - p))).contiguous(), p, seed, first) if p else input


class _Thread(threading.local):
    generator: torch.Generator | None = None


_THREAD = _Thread()


@contextmanager
def seeded_dropout(seed: int | None) -> Iterator[None]:
    """Draw dropout in this thread by ``seed``, below 2^32, and not by torch's generator, which all threads share.

    None: by torch's.
    """
    _THREAD.generator = None if seed is None else torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _THREAD.generator = None


def draw_seed() -> int:
    """A seed for one call of dropout."""
    return int(torch.randint(2**62, (), generator=_THREAD.generator))
