"""The losses: sentence-transformers' own, fed without padding and computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.sentence_transformer import losses as st
from torch import Tensor, nn

from evaluation.cpu import gathered_lookups, trained_linears
from evaluation.files import InputError
from evaluation.models import autocast
from evaluation.tokens import is_right_padded_text
from training.settings import LossSettings, misfit

# Rows of one forward pass on a CPU. A batch of documents padded to its longest is mostly padding; passes of few rows of
# like length are not, and a CPU is as busy with 8 rows as with 64. A GPU is not, so there a quarter of the rows go at once.
CPU_ROWS = 8
# Widths of passes are multiples of this: the CPU's matrix library prepares itself for each new shape, and for the way back
# that takes as long as some ten passes (measured: training steps of 11 s instead of 3).
WIDTH_STEP = 16


def make_loss(settings: LossSettings, model: SentenceTransformer, guide: Callable[[], SentenceTransformer], negatives: int, gather: bool = False) -> nn.Module:
    """The loss for ``SentenceTransformerTrainer``; ``negatives`` is how many a row has.

    ``guide`` loads the guide when it is needed. ``gather``: the documents of all processes are each other's negatives,
    where the loss uses any but the row's own; the queries, which gist contrasts too, are not. Raises ``InputError`` for an
    unknown name and for settings that do not fit.
    """
    if reason := misfit(settings, negatives):
        raise InputError(reason)
    if too_long := [d for d in settings.matryoshka if d > (model.get_embedding_dimension() or 0)]:
        raise InputError(f"training.matryoshka: the model has {model.get_embedding_dimension()} dimensions, so {too_long[0]} of them cannot be taken")
    cached = settings.name.startswith("cached")
    # a cached loss embeds on its own; the others are given what was embedded by length, under the name of a model
    source: Any = model if cached else _Embedded(model)
    loss = _bare_loss(settings, source, guide, gather)
    if settings.matryoshka:
        loss = st.MatryoshkaLoss(source, loss, list(settings.matryoshka))
    return loss if cached else ByLength(model, loss, guided=settings.name == "gist")


def _bare_loss(settings: LossSettings, model: Any, guide: Callable[[], SentenceTransformer], gather: bool) -> nn.Module:
    similarity = _Scaled(settings.scale)
    match settings.name:
        case "mnrl" if not settings.in_batch:
            return OwnNegativesLoss(model, settings.scale)
        case "mnrl":
            return st.MultipleNegativesRankingLoss(model, scale=settings.scale, gather_across_devices=gather)
        case "cached_mnrl":
            return _CachedMNRL(model, scale=settings.scale, mini_batch_size=settings.mini_batch_size, gather_across_devices=gather)
        case "gist":
            return st.GISTEmbedLoss(model, guide(), temperature=1 / settings.scale, gather_across_devices=gather)
        case "cached_gist":
            return st.CachedGISTEmbedLoss(model, guide(), temperature=1 / settings.scale, mini_batch_size=settings.mini_batch_size, gather_across_devices=gather)
        case "margin_mse":
            return st.MarginMSELoss(model, similarity_fct=similarity)
        case "kl":
            return st.DistillKLDivLoss(model, similarity_fct=similarity, student_temperature=1.0, teacher_temperature=1.0)


class ByLength(nn.Module):
    """A loss of sentence-transformers over embeddings that were made without padding.

    The similarities and the softmax are in float32 whatever the encoder computes in: bf16 keeps 8 bits, too few to tell a
    hard negative from the positive.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, guided: bool = False) -> None:
        super().__init__()
        self.model, self.loss, self._guided = model, loss, guided

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None) -> Tensor:
        columns = list(sentence_features)
        embedded = [column | {"sentence_embedding": e} for column, e in zip(columns, embed_by_length(self.model, columns), strict=True)]
        device = embedded[0]["sentence_embedding"].device
        # the guide is a model, too, and as slow as one; of what follows it nothing is computed in bf16
        with autocast(device) if self._guided else torch.autocast(device.type, enabled=False), column_merging_disabled():
            return self.loss(embedded, labels)


class _Embedded(nn.Module):
    """Stands where a loss expects its model, and gives back the embeddings that are there already."""

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


class OwnNegativesLoss(nn.Module):
    """Cross-entropy over a row's own positive and negatives, and no other row's documents."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self._similarity = model, _Scaled(scale)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None) -> Tensor:
        query, *documents = [self.model(column)["sentence_embedding"] for column in sentence_features]
        scores = torch.stack([self._similarity(query, document) for document in documents], dim=1)
        return nn.functional.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long, device=scores.device))


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


def embed_by_length(model: nn.Module, columns: list[dict[str, Any]]) -> list[Tensor]:
    """One embedding tensor of shape (rows, dimension) a column, as ``model`` gives it for each column alone.

    The rows of all columns are sorted by length and go through the model in passes of few rows, each cut to its longest
    (see ``WIDTH_STEP``). Which rows are each other's negatives is not touched. Columns with different prompts are not
    mixed, and columns that hold more than right-padded token IDs go through as they are.
    """
    groups: dict[Any, list[int]] = {}
    for i, column in enumerate(columns):
        groups.setdefault(_settings(column) if is_right_padded_text(column) else i, []).append(i)
    result: dict[int, Tensor] = {}
    # one context for every pass: the bf16 copies of the weights serve them all
    with autocast(columns[0]["input_ids"].device), gathered_lookups(model), trained_linears(model):
        for key, members in groups.items():
            if isinstance(key, int):
                result[key] = model(columns[key])["sentence_embedding"]
            else:
                result |= zip(members, _embed_group(model, [columns[i] for i in members], dict(key)), strict=True)
    return [result[i].float() for i in range(len(columns))]


def _embed_group(model: nn.Module, columns: list[dict[str, Any]], settings: dict[str, Any]) -> list[Tensor]:
    merged = {key: _stack([column[key] for column in columns]) for key, value in columns[0].items() if isinstance(value, Tensor)}
    lengths = merged["attention_mask"].sum(dim=1)
    order = torch.argsort(lengths, descending=True, stable=True)
    per_pass = CPU_ROWS if lengths.device.type == "cpu" else max(CPU_ROWS, -(-len(order) // 4))
    parts = []
    for chosen in order.split(per_pass):
        width = -(-int(lengths[chosen[0]]) // WIDTH_STEP) * WIDTH_STEP
        parts.append(model({key: value[chosen, :width] for key, value in merged.items()} | settings)["sentence_embedding"])
    return list(torch.cat(parts)[torch.argsort(order)].split([len(column["input_ids"]) for column in columns]))


def _settings(column: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What goes with the token IDs: the modality, and the prompt's length where there is one."""
    return tuple(sorted((key, value) for key, value in column.items() if not isinstance(value, Tensor)))


def _stack(tensors: list[Tensor]) -> Tensor:
    """Rows of all, widened with 0; what is widened is masked, and cut off again before the model sees it."""
    width = -(-max(t.shape[1] for t in tensors) // WIDTH_STEP) * WIDTH_STEP
    return torch.cat([nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors])
