"""What can be set about training. Nothing here loads torch, so that a recipe is checked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

LossName = Literal["mnrl", "cached_mnrl", "gist", "cached_gist", "margin_mse", "kl"]
DISTILLING: tuple[LossName, ...] = ("margin_mse", "kl")
"""Losses that learn a teacher's scores of each row's documents."""


@dataclass(frozen=True)
class LossSettings:
    """Which loss, and what it takes.

    ``mnrl``: Multiple Negatives Ranking Loss (InfoNCE) over the row's own documents and, with ``in_batch``, those of
    the other rows. ``gist``: the same without the documents that ``guide`` (None: the base model) puts above the
    positive (Solatorio 2024). The ``cached`` ones embed ``mini_batch_size`` rows at a time, so that memory does not
    grow with the batch (Gao et al. 2021). ``margin_mse``: the teacher's margins of positive over negative (Hofstätter
    et al. 2020, GPL). ``kl``: the teacher's distribution over the row's documents. ``scale``: inverse temperature of
    the cosine, by which all of them multiply it (20 as in sentence-transformers); ``teacher_temperature``: what the
    teacher's scores are divided by. ``matryoshka``: dimensions for which the loss is computed on the first so many of
    each embedding, and summed.
    """

    name: LossName = "mnrl"
    scale: float = 20.0
    in_batch: bool = True
    mini_batch_size: int = 32
    guide: str | None = None
    teacher_temperature: float = 1.0
    matryoshka: tuple[int, ...] = ()


def misfit(loss: LossSettings, negatives: int) -> str | None:
    """What keeps the loss from being trained with ``negatives`` of a query's own, and what to do; None if nothing
    does."""
    if loss.name not in get_args(LossName):
        return f"training.loss: no loss {loss.name!r}; there are {', '.join(get_args(LossName))}"
    if not loss.in_batch and loss.name != "mnrl":
        return (
            f"training.in_batch: only mnrl can do without the other rows' documents; {loss.name}"
            f" {'never uses them' if loss.name in DISTILLING else 'is made of them'}"
        )
    if negatives == 0 and (loss.name in DISTILLING or not loss.in_batch):
        return (
            f"training.loss: {loss.name}{'' if loss.in_batch else ' with in_batch: false'} compares with a query's own"
            " negatives, and there are none; raise negatives.per_query"
        )
    if loss.name == "gist" and negatives > 1:
        return (
            f"training.loss: gist takes one negative a query at most, and negatives.per_query is {negatives}; use"
            " cached_gist"
        )
    return None


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters in place of all weights, by PEFT; they are merged into the model that is written."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """What every training has.

    ``batch_size``: rows over all processes together. ``accumulate``: batches of one optimizer step. ``learning_rate``
    is the peak after ``warmup`` (share of all steps), then falling to 0 by ``schedule``. ``checkpoint_steps``:
    optimizer steps between two checkpoints. ``dropout``: of all layers (None: the model's own). ``trackers``:
    ``wandb``, ``tensorboard``.
    """

    epochs: int = 1
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 2e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    dropout: float | None = None
    checkpoint_steps: int = 200
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True)
class RetrieverSettings(Optimization):
    """How to train a bi-encoder.

    ``base``: folder, hub name or ``packaged:`` name. ``max_seq_length``: tokens (None: the model's own).
    ``query_prompt``, ``document_prompt``: put before the texts (None: the model's own). ``attention``: the
    implementation, as transformers names it (None: the model's own).
    """

    base: str
    loss: LossSettings = LossSettings()
    max_seq_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    attention: str | None = None
    lora: LoraSettings | None = None


RerankerLoss = Literal["bce", "listwise", "distillation"]


@dataclass(frozen=True)
class RerankerSettings(Optimization):
    """How to train a cross-encoder.

    ``base``: as of the retriever; a model without a head for one score gets one, its weights drawn by seed. ``loss``:
    ``bce`` (binary cross-entropy of each pair, positives weighted by the number of negatives), ``listwise`` (LambdaLoss
    over each query's documents; Wang et al. 2018), ``distillation`` (a teacher's margins). ``batch_size`` counts
    queries. ``max_seq_length``: tokens of query and document together.
    """

    base: str
    loss: RerankerLoss = "bce"
    max_seq_length: int = 256
