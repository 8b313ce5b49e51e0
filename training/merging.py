"""Weights between those of the base and those of the tuned model (WiSE-FT; Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights in the CPU's memory, which stays as it is when the model changes."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def interpolate(model: nn.Module, tuned: Weights, base: Weights, base_weight: float) -> None:
    """Give ``model`` the weights (1 - ``base_weight``) x tuned + ``base_weight`` x base.

    What is no floating-point number (position IDs) is the tuned model's. Raises ``ValueError`` if the two have not the
    same weights.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> interpolate(model, {"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)}, base_weight=0.25)
    >>> model.weight.item()
    0.75
    """
    if not tuned.keys() == base.keys() == model.state_dict().keys():
        raise ValueError(f"not the same weights: {sorted(tuned.keys() ^ base.keys())[:3]}")
    for name, target in model.state_dict().items():  # one at a time: a GPU need not have room for two models
        weight = tuned[name]
        target.copy_(torch.lerp(weight, base[name], base_weight) if weight.is_floating_point() else weight)


def choose_base_weight(
    model: nn.Module,
    tuned: Weights,
    base: Weights,
    base_weights: Sequence[float],
    score: Callable[[nn.Module], float] | None = None,
) -> tuple[float, dict[float, float]]:
    """Give ``model`` the best of the mixtures by ``base_weights``; without ``score``, the first.

    Of equally good ones the one that is nearest to the base is taken. Returns its ``base_weight``, and the scores by
    base weight, that of the base itself (1.0) among them; empty without ``score``.

    >>> tuned, base = {"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)}
    >>> choose_base_weight(nn.Linear(1, 1, bias=False), tuned, base, [0.0, 0.5], lambda m: -m.weight.item())
    (0.5, {0.0: -1.0, 0.5: -0.5, 1.0: -0.0})
    """
    scores: dict[float, float] = {}
    chosen = base_weights[0]
    if score:
        for base_weight in dict.fromkeys((*base_weights, 1.0)):
            interpolate(model, tuned, base, base_weight)
            scores[base_weight] = score(model)
        chosen = max(base_weights, key=lambda base_weight: (scores[base_weight], base_weight))
    interpolate(model, tuned, base, chosen)
    return chosen, scores
