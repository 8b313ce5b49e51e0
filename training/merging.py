"""Weights between those of the base and those of the tuned model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor


def weights_of(model: SentenceTransformer) -> dict[str, Tensor]:
    """A copy of all weights, which stays as it is when the model changes."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def interpolate(
    model: SentenceTransformer, tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], base_share: float
) -> None:
    """Give ``model`` the weights (1 - ``base_share``) x tuned + ``base_share`` x base, as in WiSE-FT (Wortsman et al.
    2022).

    What is no floating-point number (position IDs) is the tuned model's. Raises ``ValueError`` if the two have not the
    same weights.
    """
    if tuned.keys() != base.keys():
        raise ValueError(f"not the same weights: {sorted(tuned.keys() ^ base.keys())[:3]}")
    model.load_state_dict(
        {name: torch.lerp(t, base[name], base_share) if t.is_floating_point() else t for name, t in tuned.items()}
    )
