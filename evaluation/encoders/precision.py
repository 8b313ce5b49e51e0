"""Which numbers a model computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.processes import process_state


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


@contextmanager
def in_precision(model: torch.nn.Module, precision: Precision = "auto") -> Iterator[None]:
    """The model's weights in the precision, and as they were at the end.

    For inference only. Autocast would keep activations between the layers in float32, and cast them for each product:
    measured 6 % slower on a CPU, for embeddings hardly nearer to those of float32 (cosine 0.99998 in place of 0.99995).
    """
    places = (
        [place for module in model.modules() for place in (module._parameters, module._buffers)]
        if resolve_precision(precision, next(model.parameters()).device) == "bf16"
        else []
    )
    kept = [
        (place, name, tensor)
        for place in places
        for name, tensor in place.items()
        # the angles of rotary positions stay as they are: in bf16 those of the 1,000th token are off by up to a radian
        if tensor is not None and tensor.is_floating_point() and "inv_freq" not in name
    ]
    # other tensors in their places, not other data in the same tensors: that would detach a parameter from its gradient
    # accumulator, and with it from the hooks by which DistributedDataParallel sends gradients to other processes
    narrow = {
        tensor: torch.nn.Parameter(tensor.detach().to(torch.bfloat16), requires_grad=False) for _, _, tensor in kept
    }
    try:
        for place, name, tensor in kept:
            place[name] = narrow[tensor]
        yield
    finally:
        for place, name, tensor in kept:
            place[name] = tensor


def has_bf16(device: torch.device | str) -> bool:
    """Whether the device has bf16 matrix instructions (AVX512_BF16 or AMX on a CPU; Ampere or newer of NVIDIA's)."""
    kind = torch.device(device).type
    if kind == "cpu":
        return any(
            getattr(torch.cpu, name, lambda: False)()
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_precision(precision: Precision, device: torch.device | str) -> Literal["float32", "bf16"]:
    """``auto`` as this device has it; the others as they are.

    >>> resolve_precision("float32", "cpu")
    'float32'
    """
    return ("bf16" if has_bf16(device) else "float32") if precision == "auto" else precision


def precision_digest(precision: Precision) -> str:
    """What stands for a precision in a fingerprint: what this machine computes in, and by what, as
    ``float32, openvino 2026.4``."""
    from sharpen.evaluation.encoders.openvino import openvino_version  # imports this module

    device = process_state().device
    backend = openvino_version() if device.type == "cpu" else None
    return resolve_precision(precision, device) + (f", openvino {backend}" if backend else "")
