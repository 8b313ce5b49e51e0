"""Which settings a family of encoders has. Nothing here loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpen.training.settings import RetrieverSettings

LOSSES = ("mnrl", "cached_mnrl", "margin_mse", "kl")
"""Of sparse and multi-vector encoders."""
DENSE_ONLY: dict[str, Any] = {
    "in_batch": True,
    "guide": None,
    "contrastive": 0.0,
    "anchor": 0.0,
    "order": "random",
    "candidates": None,
    "documents": "trained",
    "matryoshka": (),
    "lora": None,
    "weights": "float32",
    "gradient_checkpointing": False,
}
"""Settings that only dense encoders have, with what stands for not having them."""
REGULARIZERS = {"query_regularizer_weight": 5e-5, "document_regularizer_weight": 3e-5}
"""Settings that only sparse encoders have, with sentence-transformers' defaults."""


def family_misfit(settings: RetrieverSettings) -> str | None:
    """The first setting that the family has not, and what to do; None if there is none.

    >>> from sharpen.training.settings import RetrieverSettings
    >>> family_misfit(RetrieverSettings(base="m", family="sparse")) is None
    True
    """
    family = settings.family
    if family != "sparse":
        for key, default in REGULARIZERS.items():
            if getattr(settings, key) != default:
                return f"{key}: only sparse encoders have one, and family is {family}; leave it out"
    if family == "dense":
        return None
    if settings.loss not in LOSSES:
        return f"loss: {settings.loss} is of dense vectors, and family is {family}; take one of {', '.join(LOSSES)}"
    for key, none in DENSE_ONLY.items():
        if getattr(settings, key) != none:
            return f"{key}: only dense encoders have it, and family is {family}; leave it out"
    return None
