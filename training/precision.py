"""Autocast by a setting's precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from sharpen.evaluation.encoders.precision import resolve_precision
from sharpen.evaluation.encoders.settings import Precision


def autocast(device: torch.device | str, precision: Precision = "auto") -> AbstractContextManager:
    """Autocast to bf16 where ``precision`` is, or stands for, bf16 on ``device``; else nothing.

    >>> with autocast("cpu", "float32"):
    ...     torch.is_autocast_enabled("cpu")
    False
    """
    device = torch.device(device)
    if resolve_precision(precision, device) != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
