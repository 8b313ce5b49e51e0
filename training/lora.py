"""Low-rank adapters (PEFT)."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharpen.evaluation.files import InputError
from sharpen.training.settings import LoraSettings


def add_adapters(
    model: nn.Module, settings: LoraSettings, task: str = "FEATURE_EXTRACTION", part: str = "training"
) -> Any:
    """Put adapters into a model of transformers, in place, and return PEFT's view of it, which can merge them.

    ``task``: of PEFT's ``TaskType``. Raises ``InputError`` by the recipe's ``part`` if PEFT is not installed, and for
    targets that the model has not.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise InputError(f"{part}.lora: needs PEFT; pip install 'sharpen[lora]'") from None
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
