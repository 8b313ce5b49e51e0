"""What a configuration of ``accelerate launch`` asks for and training cannot do, found before anything is paid for."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from sharpen.evaluation.files import InputError

ACCELERATE = "recipes/accelerate"
"""Configurations that are known to do."""


def check_launch(parts: Iterable[str]) -> None:
    """``parts``: of a recipe, that will be trained: ``training`` is the retriever's. Raises ``InputError`` for FSDP 1,
    for FSDP with other trainings, and for what DeepSpeed cannot do; warns that DeepSpeed is not tested.

    >>> check_launch(["training", "reranker"])  # one process, or DistributedDataParallel
    """
    if is_set("ACCELERATE_USE_FSDP"):
        _check_fsdp(parts)
    if is_set("ACCELERATE_USE_DEEPSPEED"):
        _check_deepspeed()


def _check_fsdp(parts: Iterable[str]) -> None:
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(
            f"accelerate launch: fsdp_version is {version}, and weights are shared out by FSDP2 only; take"
            f" fsdp_version: 2, as in {ACCELERATE}/eight_gpus_fsdp.yaml"
        )
    if others := [part for part in parts if part != "training"]:
        raise InputError(
            f"{others[0]}: FSDP is for the retriever's training, and this is another; launch with"
            f" {ACCELERATE}/eight_gpus.yaml (each process has all weights)"
        )


def _check_deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            "accelerate launch: DeepSpeed is asked for and not installed; pip install deepspeed, or launch with"
            f" {ACCELERATE}/eight_gpus_fsdp.yaml"
        )
    if _zero_stage() > 2:
        raise InputError(
            "accelerate launch: with DeepSpeed's ZeRO 3 no process has the weights that are to be validated and"
            f" written; take ZeRO 2, or FSDP2, which does the same ({ACCELERATE}/eight_gpus_fsdp.yaml)"
        )
    warnings.warn("DeepSpeed is passed on to accelerate and is not tested here; FSDP2 is", stacklevel=3)


def _zero_stage() -> int:
    """As accelerate has it: of DeepSpeed's own file, if there is one."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if file.lower() != "none":
        try:
            settings = json.loads(Path(file).read_text(encoding="utf-8"))
            stage = settings.get("zero_optimization", {}).get("stage", 0)
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"accelerate launch: deepspeed_config_file {file}: cannot be read ({error})") from None
    return int(stage) if str(stage).isdigit() else 2  # "auto" is accelerate's default


def is_set(name: str) -> bool:
    """Of a switch that ``accelerate launch`` puts into the environment."""
    return os.environ.get(name, "false").lower() in ("true", "1")
