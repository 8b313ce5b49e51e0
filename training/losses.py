"""The losses: sentence-transformers' own, over embeddings made in micro-batches, and computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.sentence_transformer import losses as st
from torch import Tensor, nn

from sharpen.evaluation.encoders.precision import autocast
from sharpen.evaluation.files import InputError
from sharpen.training.anchor import Anchor
from sharpen.training.distributions import distribution_loss
from sharpen.training.micro_batches import MicroBatches
from sharpen.training.settings import RetrieverSettings, misfit


def make_loss(
    settings: RetrieverSettings,
    model: SentenceTransformer,
    guide: Callable[[], SentenceTransformer],
    negatives: int,
    gather: bool = False,
) -> nn.Module:
    """The loss for ``SentenceTransformerTrainer``; ``negatives`` is how many a row has.

    ``guide`` loads the guide when it is needed. ``gather``: the documents of all processes are each other's negatives,
    where the loss uses in-batch negatives; the queries, which gist contrasts too, are not. Raises ``InputError`` for
    settings that do not fit.
    """
    if reason := misfit(settings, negatives):
        raise InputError(reason)
    if too_long := [d for d in settings.matryoshka if d > (model.get_embedding_dimension() or 0)]:
        raise InputError(
            f"training.matryoshka: the model has {model.get_embedding_dimension()} dimensions, so {too_long[0]} of them"
            " cannot be taken"
        )
    cached = settings.loss.startswith("cached")
    # a cached loss embeds by itself; the others get what was embedded in micro-batches, in place of a model
    source: Any = model if cached else Embedded(model)
    loss = _bare_loss(settings, source, guide, gather)
    if settings.matryoshka:
        loss = st.MatryoshkaLoss(source, loss, list(settings.matryoshka))
    return loss if cached else MicroBatchedLoss(model, loss, settings)


def _bare_loss(
    settings: RetrieverSettings, model: Any, guide: Callable[[], SentenceTransformer], gather: bool
) -> nn.Module:
    similarity = _Scaled(settings.scale)
    match settings.loss:
        case "mnrl" if not settings.in_batch:
            return HardNegativesLoss(model, settings.scale)
        case "mnrl":
            return st.MultipleNegativesRankingLoss(model, scale=settings.scale, gather_across_devices=gather)
        case "cached_mnrl":
            return _CachedMNRL(
                model, scale=settings.scale, mini_batch_size=settings.mini_batch_size, gather_across_devices=gather
            )
        case "gist":
            return st.GISTEmbedLoss(model, guide(), temperature=1 / settings.scale, gather_across_devices=gather)
        case "cached_gist":
            return st.CachedGISTEmbedLoss(
                model,
                guide(),
                temperature=1 / settings.scale,
                mini_batch_size=settings.mini_batch_size,
                gather_across_devices=gather,
            )
        case "margin_mse":
            return st.MarginMSELoss(model, similarity_fct=similarity)
        case "kl":
            return ListwiseLoss(model, settings.scale, settings.contrastive)


class MicroBatchedLoss(nn.Module):
    """A loss of sentence-transformers over embeddings that were made in micro-batches.

    The similarities and the softmax are in float32 whatever the encoder computes in: bf16 keeps 8 bits, too few to tell
    a hard negative from the positive.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, settings: RetrieverSettings) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self._guided, self._precision = settings.loss == "gist", settings.precision
        # replicas are of dense encoders
        self._micro_batches = MicroBatches(settings.precision, replicas=settings.family == "dense")
        self._anchor = Anchor(model, settings.anchor, settings.precision) if settings.anchor else None

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None) -> Tensor:
        columns = list(sentence_features)
        embeddings = self._micro_batches.embed(self.model, columns)
        loss = self._of_embeddings(columns, embeddings, labels)
        return loss + self._anchor(columns, embeddings) if self._anchor else loss

    def _of_embeddings(self, columns: list[dict[str, Any]], embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        embedded = [c | {"sentence_embedding": e} for c, e in zip(columns, embeddings, strict=True)]
        device = embeddings[0].device
        # the guide is a model, too, and as slow as one; of what follows it nothing is computed in bf16
        with (
            autocast(device, self._precision) if self._guided else torch.autocast(device.type, enabled=False),
            column_merging_disabled(),
        ):
            return self.loss(embedded, labels)


class Embedded(nn.Module):
    """In place of a loss's model: returns the embeddings that are there already."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self._model = [model]  # in a list: its weights are no part of the loss

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_model"][0], name)

    def __getitem__(self, index: int) -> nn.Module:
        return self._model[0][index]

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return features


class HardNegativesLoss(nn.Module):
    """Cross-entropy over a row's positive and hard negatives; no in-batch negatives."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self._similarity = model, _Scaled(scale)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None) -> Tensor:
        query, *documents = [self.model(column)["sentence_embedding"] for column in sentence_features]
        scores = torch.stack([self._similarity(query, document) for document in documents], dim=1)
        return nn.functional.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long, device=scores.device))


class ListwiseLoss(nn.Module):
    """KL(softmax(labels) || softmax(``scale`` x cosine)) over a row's documents, ``labels`` being the teacher's logits,
    and a contrastive term of weight ``contrastive``."""

    def __init__(self, model: nn.Module, scale: float, contrastive: float = 0.0) -> None:
        super().__init__()
        self.model, self._similarity, self._contrastive = model, _Scaled(scale), contrastive

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        query, *documents = [self.model(column)["sentence_embedding"] for column in sentence_features]
        student = torch.stack([self._similarity(query, document) for document in documents], dim=1)
        return distribution_loss(student, labels, self._contrastive)


class _CachedMNRL(st.CachedMultipleNegativesRankingLoss):
    def calculate_loss(self, reps: list[list[Tensor]], *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(reps[0][0].device.type, enabled=False):
            return super().calculate_loss(reps, *args, **kwargs)


@dataclass(frozen=True)
class _Scaled:
    """Cosine of the rows of two matrices, times ``scale``."""

    scale: float

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale * util.pairwise_cos_sim(a, b)
