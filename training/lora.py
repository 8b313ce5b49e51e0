"""Low-rank adapters (PEFT)."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.training.optimization import LoraSettings
from sharpen.training.quantized import dequantize_layers, is_quantized, quantize_layers
from sharpen.training.sharding import will_shard


def add_adapters(
    model: nn.Module, settings: LoraSettings, task: str = "FEATURE_EXTRACTION", part: str = "training"
) -> Any:
    """Put adapters into a model of transformers, in place, and return PEFT's view of it for ``merge_adapters``.

    ``task``: of PEFT's ``TaskType``. With ``settings.quantized`` the linear layers beneath are quantised, and the model
    goes to this process's device. Raises ``InputError`` by the recipe's ``part`` if a package is not installed, for
    targets that the model has not, and for quantised layers that would be sharded (FSDP).
    """
    settings.check_installed(part)
    from peft import LoraConfig, TaskType, get_peft_model

    if settings.quantized:
        _quantize(model, part)
    config = LoraConfig(
        task_type=TaskType[task],
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets if isinstance(settings.targets, str) else list(settings.targets),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # target_modules that the model has not
        raise InputError(f"{part}.lora: {error}") from None


def device_of_base(settings: LoraSettings | None) -> str | None:
    """Where the base is loaded, None as torch sees fit: what is quantised layer by layer must not be on a GPU in full
    before."""
    return "cpu" if settings and settings.quantized else None


def merge_adapters(adapters: Any) -> None:
    """Make an ordinary model of what ``add_adapters`` returned, in place: adapters are added to the weights that they
    were trained on."""
    if is_quantized(adapters):
        adapters.to("cpu")  # a GPU that has room for 4 bits a weight may have none for 32
        dequantize_layers(adapters)
    adapters.merge_and_unload()


def _quantize(model: nn.Module, part: str) -> None:
    if will_shard():
        raise InputError(f"{part}.lora.quantized: layers of 4 bits cannot be sharded (FSDP); leave one of the two out")
    device = process_state().device
    weights = sum(weight.numel() for weight in model.parameters())
    quantized = quantize_layers(model, device, but=getattr(model, "get_output_embeddings", lambda: None)())
    if not quantized:
        raise InputError(f"{part}.lora.quantized: the base has no linear layer that could be quantised; leave it out")
    if quantized < weights / 2:
        warnings.warn(
            f"{part}.lora.quantized: {quantized / weights:.0%} of the base's weights are of linear layers, and in 4"
            " bits; the others are as they were",
            stacklevel=3,
        )
    model.to(device)
