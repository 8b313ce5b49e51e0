"""A batch goes through the encoder in micro-batches of few texts of similar length, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sharpen.evaluation.encoders.precision import autocast
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.encoders.tokens import is_right_padded_text
from sharpen.training.sharding import is_sharded

try:
    from sharpen.training.fast_cpu import Replicas, prepared
except ImportError:  # optional: training is the same without it, and slower on CPUs
    Replicas = prepared = None

CPU_ROWS = 8
"""Texts of a micro-batch on a CPU, which is as busy with 8 as with 64. A GPU is not: there a quarter of a batch goes at
once."""
WIDTH_STEP = 16
"""Widths of micro-batches are multiples of this: a CPU's matrix library prepares itself for each new shape, and for
backward that takes as long as ten micro-batches (measured: training steps of 11 s instead of 3)."""

Features = dict[str, Any]
"""What ``model.preprocess`` gives: token IDs and attention mask of shape (texts, tokens), and settings of the
prompt."""


def accelerated(model: nn.Module) -> AbstractContextManager[None]:
    """The model as it trains fastest on its device, and as it was at the end."""
    return prepared(model) if prepared else nullcontext()


class MicroBatches:
    """Embeds the batches of one training. ``precision``: what the encoder computes in. ``replicas``: on a CPU, each
    core has a copy of the model; not for a model that is not trained, as the copies carry gradients."""

    def __init__(self, precision: Precision = "auto", replicas: bool = True) -> None:
        self._in_turn = InTurn(precision)
        self._replicas = Replicas(precision) if Replicas and replicas else None

    def embed(self, model: nn.Module, columns: Sequence[Features]) -> list[Tensor]:
        """One float32 tensor of shape (texts, dimension) for each column, as ``model`` embeds each column alone.

        The texts of all columns are sorted by length and go through the model in micro-batches, each cut to its longest
        text (see ``WIDTH_STEP``). Which texts are each other's negatives does not change. Columns with different
        prompts are not mixed, and columns that are more than right-padded token IDs go through as they are.
        """
        on_cpu = next(model.parameters()).device.type == "cpu"
        runner = self._replicas if self._replicas and on_cpu and not is_sharded(model) else self._in_turn
        parallel = runner.start(model, columns)
        batches: list[Features] = []
        groups = [_Group(columns, members, batches, parallel if on_cpu else None) for members in _compatible(columns)]
        outputs = runner.embed(model, batches)
        embeddings = {column: e for group in groups for column, e in group.embeddings(outputs)}
        return [embeddings[i].float() for i in range(len(columns))]


class InTurn:
    """Micro-batches one after the other."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision

    def start(self, _model: nn.Module, _columns: Sequence[Features]) -> int:
        """How many micro-batches are computed at the same time."""
        return 1

    def embed(self, model: nn.Module, batches: Sequence[Features]) -> list[Tensor]:
        """The embeddings of each micro-batch. One autocast for all: the weights are cast once."""
        with autocast(batches[0]["input_ids"].device, self._precision):
            return [model(features)["sentence_embedding"] for features in batches]


def _compatible(columns: Sequence[Features]) -> list[list[int]]:
    """Numbers of the columns that may share a micro-batch."""
    groups: dict[Any, list[int]] = {}
    for i, column in enumerate(columns):
        groups.setdefault(_prompt_settings(column) if is_right_padded_text(column) else i, []).append(i)
    return list(groups.values())


class _Group:
    """Columns that share micro-batches, which are added to ``batches``."""

    def __init__(
        self, columns: Sequence[Features], members: list[int], batches: list[Features], parallel: int | None
    ) -> None:
        self._members, self._first = members, len(batches)
        chosen = [columns[i] for i in members]
        self._rows = [len(column["input_ids"]) for column in chosen] if is_right_padded_text(chosen[0]) else None
        if not self._rows:
            batches.append(chosen[0])
        else:
            merged = {
                key: _stack([column[key] for column in chosen])
                for key, value in chosen[0].items()
                if isinstance(value, Tensor)
            }
            lengths = merged["attention_mask"].sum(dim=1)
            order = torch.argsort(lengths, descending=True, stable=True)
            self._inverse = torch.argsort(order)
            for rows in order.split(_rows_of_a_micro_batch(len(order), parallel)):
                width = -(-int(lengths[rows[0]]) // WIDTH_STEP) * WIDTH_STEP
                tensors = {key: value[rows, :width] for key, value in merged.items()}
                batches.append(tensors | dict(_prompt_settings(chosen[0])))
        self._end = len(batches)

    def embeddings(self, outputs: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """Each column's number and its embeddings, of the outputs of all micro-batches."""
        outputs = outputs[self._first : self._end]
        columns = torch.cat(list(outputs))[self._inverse].split(self._rows) if self._rows else outputs
        return list(zip(self._members, columns, strict=True))


def _rows_of_a_micro_batch(rows: int, parallel: int | None) -> int:
    """``parallel``: micro-batches that are computed at the same time, each core having at least two; None on a GPU."""
    if parallel is None:
        return max(CPU_ROWS, -(-rows // 4))
    return CPU_ROWS if parallel == 1 else max(1, min(CPU_ROWS, rows // (2 * parallel)))


def _prompt_settings(column: Features) -> tuple[tuple[str, Any], ...]:
    """What goes with the token IDs: the modality, and the prompt's length where there is one."""
    return tuple(sorted((key, value) for key, value in column.items() if not isinstance(value, Tensor)))


def _stack(tensors: list[Tensor]) -> Tensor:
    """Rows of all, padded with 0; the padding is masked, and cut off again before the model gets it."""
    width = -(-max(t.shape[1] for t in tensors) // WIDTH_STEP) * WIDTH_STEP
    return torch.cat([nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors])
