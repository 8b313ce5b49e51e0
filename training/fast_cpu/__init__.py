"""Training on CPUs, faster: replicas of a model, one a core; attention, dropout, linear layers and lookups for them.

Optional: everything trains without this folder, too. Its compiled kernels need numba (``pip install
'sharpen[fast-cpu]'``); without it, dropout, and attention with dropout, are torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from sharpen.training.fast_cpu.attention import NAME
from sharpen.training.fast_cpu.dropout import CPUDropout
from sharpen.training.fast_cpu.replicas import Replicas

__all__ = ["Replicas", "prepared"]


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """``model`` with attention and dropout that are fast in training on a CPU, and with its own again at the end.

    Only the model in memory changes, and within the block it evaluates as before. On a GPU nothing is changed.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    encoders = [
        m
        for m in model.modules()
        if on_cpu and isinstance(m, PreTrainedModel) and m.config._attn_implementation == "sdpa"
    ]
    dropouts = [
        (parent, name, module)
        for parent in list(model.modules())
        for name, module in parent.named_children()
        if on_cpu and type(module) is nn.Dropout
    ]
    try:
        for encoder in encoders:
            encoder.set_attn_implementation(NAME)
        for parent, name, module in dropouts:
            setattr(parent, name, CPUDropout(module.p).train(module.training))
        yield
    finally:
        for parent, name, module in dropouts:
            setattr(parent, name, module.train(getattr(parent, name).training))
        for encoder in encoders:
            encoder.set_attn_implementation("sdpa")
