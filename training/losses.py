"""The ranking loss: sentence-transformers' own, fed without padding and computed in float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn

from evaluation.models import WIDTH_STEP, autocast

# Rows of one forward pass on a CPU. A batch of documents padded to its longest is mostly padding; passes of few rows of
# like length are not, and a CPU is as busy with 8 rows as with 64. A GPU is not, so there a quarter of the rows go at once.
CPU_ROWS = 8


class RankingLoss(MultipleNegativesRankingLoss):
    """Multiple Negatives Ranking Loss over all columns.

    The similarities and the softmax are in float32 whatever the encoder computes in: bf16 keeps 8 bits, too few to tell a
    hard negative from the positive.
    """

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        embeddings = embed_by_length(self.model, list(sentence_features))
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        with torch.autocast(embeddings[0].device.type, enabled=False):
            return super().compute_loss_from_embeddings([e.float() for e in embeddings], labels)


def embed_by_length(model: nn.Module, columns: list[dict[str, Any]]) -> list[Tensor]:
    """One embedding tensor of shape (rows, dimension) a column, as ``model`` gives it for each column alone.

    The rows of all columns are sorted by length and go through the model in passes of few rows, each cut to its longest
    (see ``WIDTH_STEP``). Which rows are each other's negatives is not touched. Columns with different prompts are not
    mixed, and columns that hold more than right-padded token IDs go through as they are.
    """
    groups: dict[Any, list[int]] = {}
    for i, column in enumerate(columns):
        groups.setdefault(_settings(column) if _is_right_padded_text(column) else i, []).append(i)
    result: dict[int, Tensor] = {}
    with autocast(columns[0]["input_ids"].device):  # one context: the bf16 copies of the weights serve every pass
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


def _is_right_padded_text(column: dict[str, Any]) -> bool:
    mask = column.get("attention_mask")
    tensors = {key: value for key, value in column.items() if isinstance(value, Tensor)}
    return (
        set(tensors) <= {"input_ids", "attention_mask", "token_type_ids"}
        and isinstance(mask, Tensor)
        and all(value.shape == mask.shape for value in tensors.values())
        and bool((mask[:, 1:] <= mask[:, :-1]).all())
    )


def _stack(tensors: list[Tensor]) -> Tensor:
    """Rows of all, widened with 0; what is widened is masked, and cut off again before the model sees it."""
    width = -(-max(t.shape[1] for t in tensors) // WIDTH_STEP) * WIDTH_STEP
    return torch.cat([nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors])
