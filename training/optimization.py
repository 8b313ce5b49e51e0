"""What every training may be told: rates, batches, adapters, trackers. Nothing here loads torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import UNHASHED, Count, Fraction, Settings

Dropout = Annotated[float, Field(ge=0, lt=1)]


class LoraSettings(Settings):
    """Low-rank adapters (PEFT) in place of all weights; merged into the model that is written.

    >>> LoraSettings(rank=8).targets
    'all-linear'
    """

    LATER: ClassVar[tuple[str, ...]] = ("quantized",)

    rank: Count = Field(16, description="Rank of the adapters.")
    alpha: Count = Field(32, description="What the adapters are scaled by, divided by the rank.")
    dropout: Dropout = Field(0.0, description="Of the adapters' inputs.")
    targets: str | tuple[str, ...] = Field("all-linear", description="Modules, as PEFT names them.")
    quantized: Literal["nf4"] | None = Field(
        None,
        description=(
            "nf4: the frozen linear layers in 4 bits, an eighth of their memory (QLoRA; needs bitsandbytes). The model"
            " that is written computes as the trained one did, in float32."
        ),
    )

    def check_installed(self, part: str) -> None:
        """Raise ``InputError`` by the recipe's ``part`` for a package that adapters need and that is not there."""
        if not find_spec("peft"):
            raise InputError(f"{part}.lora: needs PEFT; pip install 'sharpen[lora]'")
        if self.quantized and not find_spec("bitsandbytes"):
            raise InputError(f"{part}.lora.quantized: needs bitsandbytes; pip install 'sharpen[qlora]'")


class Optimization(Settings):
    """What every training has."""

    epochs: Count = Field(1, description="Times that every row is trained on.")
    batch_size: Annotated[int, Field(ge=2)] = Field(32, description="Rows of a batch, over all processes together.")
    accumulate: Count = Field(1, description="Batches of one step of the optimizer.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-5, description="The highest, after the warm-up.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the rate falls after the warm-up."
    )
    warmup: Fraction = Field(0.1, description="Fraction of the steps in which the rate rises to learning_rate.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Of AdamW.")
    dropout: Dropout | None = Field(None, description="null: the model's own (0.1 for BERT); 0 is faster.")
    checkpoint_steps: Annotated[Count, UNHASHED] = Field(
        200, description="Optimizer steps between two checkpoints, from which a killed training goes on."
    )
    trackers: Annotated[tuple[Literal["wandb", "mlflow", "trackio", "tensorboard"], ...], UNHASHED] = Field(
        (),
        description=(
            "Who else gets the learning curves, and at the end the settings, before and after, counts and a report"
            " without texts. They write below the run's folder, unless their own variables (WANDB_API_KEY,"
            " MLFLOW_TRACKING_URI, ...) say otherwise."
        ),
    )
