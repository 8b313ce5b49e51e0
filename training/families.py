"""Sparse and multi-vector encoders: sentence-transformers' own losses and trainers, in the loop that all trainings
have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import (
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.multi_vector_encoder import losses as multi_vector
from sentence_transformers.multi_vector_encoder import scoring
from sentence_transformers.sparse_encoder import losses as sparse
from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.util import dot_score, pairwise_dot_score
from torch import Tensor, nn
from transformers import TrainerCallback

from sharpen.evaluation.encoders.families import AnyEncoder
from sharpen.evaluation.encoders.settings import Family
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.training.losses import Embedded, MicroBatchedLoss
from sharpen.training.settings import RetrieverSettings, misfit
from sharpen.training.sharding import will_shard
from sharpen.training.trainer import CheckpointingTrainer


class _DenseTrainer(CheckpointingTrainer, SentenceTransformerTrainer):
    pass


class _SparseTrainer(CheckpointingTrainer, SparseEncoderTrainer):
    pass


class _MultiVectorTrainer(CheckpointingTrainer, MultiVectorEncoderTrainer):
    pass


TRAINERS: dict[Family, tuple[type, type]] = {
    "dense": (_DenseTrainer, SentenceTransformerTrainingArguments),
    "sparse": (_SparseTrainer, SparseEncoderTrainingArguments),
    "multi_vector": (_MultiVectorTrainer, MultiVectorEncoderTrainingArguments),
}
"""Trainer and arguments, as ``fit`` takes them."""


def check_one_process(family: Family) -> None:
    """Raise ``InputError`` for a sparse or multi-vector training that several processes would share."""
    if family != "dense" and (process_state().num_processes > 1 or will_shard()):
        raise InputError(
            f"training.family: {family} is trained by one process, and there are {process_state().num_processes}, or"
            " weights are to be shared out (FSDP); start it by sharpen run, without accelerate launch"
        )


def family_loss(
    settings: RetrieverSettings, model: AnyEncoder, negatives: int
) -> tuple[nn.Module, tuple[TrainerCallback, ...]]:
    """The loss of a sparse or multi-vector encoder, in float32 whatever it computes in, and what the trainer is to call
    beside. ``negatives``: of a row. Raises ``InputError`` for settings that do not fit."""
    if reason := misfit(settings, negatives):
        raise InputError(reason)
    return _sparse_loss(settings, model) if settings.family == "sparse" else (_multi_vector_loss(settings, model), ())


def _sparse_loss(settings: RetrieverSettings, model: AnyEncoder) -> tuple[nn.Module, tuple[TrainerCallback, ...]]:
    """SPLADE's: the ranking loss of inner products, and the regularizers, which rise over the first third."""
    cached = settings.loss == "cached_mnrl"
    # a cached loss embeds by itself; the others get what was embedded in micro-batches, in place of a model
    source: Any = model if cached else Embedded(model)
    pairwise = _Scaled(pairwise_dot_score, settings.scale)
    match settings.loss:
        case "margin_mse":
            ranking = sparse.SparseMarginMSELoss(source, similarity_fct=pairwise)
        case "kl":
            ranking = sparse.SparseDistillKLDivLoss(source, similarity_fct=pairwise, temperature=1.0)
        case _:
            ranking = sparse.SparseMultipleNegativesRankingLoss(source, scale=settings.scale, similarity_fct=dot_score)
    weights = (settings.document_regularizer_weight, settings.query_regularizer_weight)
    if cached:
        loss = _CachedSplade(source, ranking, *weights, mini_batch_size=settings.mini_batch_size)
    else:
        loss = sparse.SpladeLoss(source, ranking, *weights)
    rising = SpladeRegularizerWeightSchedulerCallback(loss)
    return (loss if cached else MicroBatchedLoss(model, loss, settings)), (rising,)


def _multi_vector_loss(settings: RetrieverSettings, model: AnyEncoder) -> nn.Module:
    size = settings.mini_batch_size
    match settings.loss:
        case "margin_mse":
            score = _Scaled(scoring.colbert_scores_pairwise, settings.scale)
            return multi_vector.MultiVectorMarginMSELoss(model, similarity_fct=score, mini_batch_size=size)
        case "kl":
            score = _Scaled(scoring.colbert_kd_scores, settings.scale)
            return multi_vector.MultiVectorDistillKLDivLoss(model, similarity_fct=score, mini_batch_size=size)
        case loss:
            kind = (
                multi_vector.CachedMultiVectorMultipleNegativesRankingLoss
                if loss == "cached_mnrl"
                else multi_vector.MultiVectorMultipleNegativesRankingLoss
            )
            score = _Scaled(scoring.colbert_scores)
            return kind(model, scale=settings.scale, similarity_fct=score, mini_batch_size=size)


class _CachedSplade(sparse.CachedSpladeLoss):
    def calculate_loss(self, reps: list[list[Tensor]], *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(reps[0][0].device.type, enabled=False):
            return super().calculate_loss([[part.float() for part in column] for column in reps], *args, **kwargs)


@dataclass(frozen=True)
class _Scaled:
    """A similarity of queries and documents in float32, times ``scale``."""

    similarity: Callable[..., Tensor]
    scale: float = 1.0

    def __call__(self, queries: Tensor, documents: Tensor, **masks: Any) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            return self.similarity(queries.float(), documents.float(), **masks) * self.scale
