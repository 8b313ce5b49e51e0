"""Distributions over a query's documents: what a teacher's scores say, and how far a student is from it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from sharpen.training.settings import RetrieverSettings

NEAR = 1.0
"""Of the contrastive term: a document is spared whose logit by the teacher is at most so far below the first one's,
that is, with at least 1/e of its probability: it may well be relevant, too."""


def teacher_logits(scores: np.ndarray, settings: RetrieverSettings) -> np.ndarray:
    """The teacher's scores of each row, normalised as ``teacher_scores`` says, and divided by the temperature.

    ``scores``: shape (rows, documents); the result is float32 of the same shape.

    >>> settings = RetrieverSettings(base="m", loss="kl", teacher_scores="percentile", teacher_temperature=0.5)
    >>> teacher_logits(np.array([[0.1, 9.0, 0.3]]), settings).tolist()
    [[0.0, 2.0, 1.0]]
    """
    values = np.asarray(scores, dtype=np.float64)
    if settings.teacher_scores == "standardized":
        deviation = values.std(axis=1, keepdims=True)
        values = (values - values.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    elif settings.teacher_scores == "percentile":
        values = (rankdata(values, axis=1) - 1) / max(1, values.shape[1] - 1)
    return (values / settings.teacher_temperature).astype(np.float32)


def distribution_loss(student: Tensor, teacher: Tensor, contrastive: float = 0.0) -> Tensor:
    """Mean over the rows of KL(softmax(teacher) || softmax(student)); both of shape (queries, documents).

    ``contrastive``: weight of the cross-entropy of the teacher's first document against those that are clearly below it
    (see ``NEAR``), added to it.

    >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[2.0, 3.0, 1.0]])
    >>> distribution_loss(student, teacher).item()
    0.0
    >>> round(distribution_loss(student, teacher, contrastive=1.0).item(), 4)  # the third against the first
    0.1269
    """
    loss = nn.functional.kl_div(
        student.log_softmax(dim=1), teacher.log_softmax(dim=1), log_target=True, reduction="batchmean"
    )
    if not contrastive:
        return loss
    first = teacher.argmax(dim=1)
    spared = teacher >= teacher.amax(dim=1, keepdim=True) - NEAR
    spared = spared.scatter(1, first[:, None], False)
    return loss + contrastive * nn.functional.cross_entropy(student.masked_fill(spared, -torch.inf), first)
