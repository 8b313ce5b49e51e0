"""An anchor to the base: what keeps a training from forgetting what the base knew, in the space of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sharpen.evaluation.encoders.settings import Precision
from sharpen.training.micro_batches import MicroBatches


class Anchor:
    """``weight`` times the squared distance of the batch's unit vectors to those of the model as it was at first.

    The squared distance of unit vectors is 2 - 2 x cosine. The copy of the model costs its memory, and a third more
    time, as a guide does.
    """

    def __init__(self, model: nn.Module, weight: float, precision: Precision) -> None:
        self._base = deepcopy(model).eval().requires_grad_(False)
        self._weight = weight
        self._micro_batches = MicroBatches(precision, replicas=False)

    def __call__(self, columns: Sequence[dict[str, Any]], embeddings: Sequence[Tensor]) -> Tensor:
        """The term for the batch: ``columns`` are what ``model.preprocess`` gives, ``embeddings`` the student's."""
        with torch.no_grad():
            before = self._micro_batches.embed(self._base, list(columns))
        with torch.autocast(embeddings[0].device.type, enabled=False):
            distances = [
                (nn.functional.normalize(after.float(), dim=-1) - nn.functional.normalize(was.float(), dim=-1))
                .pow(2)
                .sum(dim=-1)
                .mean()
                for after, was in zip(embeddings, before, strict=True)
            ]
            return self._weight * torch.stack(distances).mean()
