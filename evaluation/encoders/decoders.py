"""Decoders as encoders: causal language models, whose last token alone has read all of a text."""

from __future__ import annotations

import warnings

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

SAME = 1e-5
"""Hidden states that differ by less, as a fraction of the largest number, are the same, but for rounding."""


def make_decoders_ready(model: SentenceTransformer, name: str, bare: bool) -> None:
    """Pool a causal model by its last token, if nothing else is said, and pad its texts on the right.

    ``bare``: the model's files say nothing of pooling; a warning says what was taken, and texts are not put into a chat
    template. On the right, no token of a text reads padding or has another position for it, and a text's tokens are the
    same in every batch, so that it is tokenised once. What is put before and behind a text (an end token, as of
    Qwen3-Embedding) is the tokenizer's.
    """
    for module in model.modules():
        is_text = isinstance(module, Transformer)
        if is_text and getattr(module.tokenizer, "padding_side", None) == "left" and is_causal(module):
            module.tokenizer.padding_side = module.tokenizer.init_kwargs["padding_side"] = "right"  # also when saved
    first, pooling = model[0], next((module for module in model if isinstance(module, Pooling)), None)
    if not bare or pooling is None or not isinstance(first, Transformer) or first.tokenizer is None:
        return
    _read_texts_as_they_are(first)
    if pooling.pooling_mode == "mean" and is_causal(first):
        pooling.pooling_mode = "lasttoken"
    if pooling.pooling_mode == "lasttoken":
        warnings.warn(
            f"{name}: a causal language model that says nothing of pooling; the hidden state of a text's last token is"
            " its vector. For another, give a folder of sentence-transformers",
            stacklevel=3,
        )


def _read_texts_as_they_are(module: Transformer) -> None:
    """Sentence-transformers puts a text into the tokenizer's chat template where there is one: each would begin with
    the same system prompt and end with the same token."""
    if "text" in module.modality_config and module.modality_config.pop("message", None):
        module.input_formatter.supported_modalities = list(module.modality_config)


def is_causal(module: Transformer) -> bool:
    """Whether what it makes of a token does not hang on those behind it. Tried, and not read from names: some models
    have decoders' names and read both ways."""
    size = module.auto_model.get_input_embeddings().num_embeddings
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=next(module.parameters()).device) % size
    training = module.training
    module.eval()
    with torch.inference_mode():
        states = module({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})["token_embeddings"]
    module.train(training)
    before = states[:, :3].float()
    return bool((before[0] - before[1]).abs().max() <= SAME * before.abs().max())
