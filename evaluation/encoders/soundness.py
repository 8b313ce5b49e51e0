"""Whether a loaded model can be worked with: finite weights, room for its positions, vectors that tell texts apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from sharpen.evaluation.encoders.routes import ONE_SIDE, route_of
from sharpen.evaluation.files import InputError

POSITIONS = ("position_embeddings", "embed_positions", "wpe")
"""Names of the layers that have a vector for each position, as transformers has them for texts."""
SHORT_TEXTS = ("Bread is made of flour, water and salt.", "Ice flows downhill under its own weight.")
LONG_TEXT = "word " * 1200
"""Longer than the positions of most encoders, and no burden for those that read 8,192 tokens."""
SAME = 1e-6
"""Vectors of unit length that differ by less in every number are the same, but for rounding."""

Model = SentenceTransformer | CrossEncoder


def make_ready(model: Model, name: str, max_seq_length: int | None = None) -> None:
    """Cut texts to what the model has positions for, and give a tokenizer without a padding token its end token.

    ``max_seq_length``: tokens, where others than the model's own are wanted. What is not as asked for is said in a
    warning. Raises ``InputError`` for weights that are not finite and where nothing can be padded with.
    """
    check_weights(model, name)
    if max_seq_length:
        model.max_seq_length = max_seq_length
    for module in model.modules():
        if isinstance(module, Transformer) and module.tokenizer is not None:
            _fit_length(module, name, max_seq_length)
            _set_padding(module, name)


def check_weights(model: torch.nn.Module, name: str) -> None:
    """Raise ``InputError`` that names the file for weights that are not finite."""
    for weight_name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel():
            low, high = torch.aminmax(weight.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                files = sorted(Path(name).rglob("*.safetensors")) if Path(name).is_dir() else []
                place = f"{files[0]}" if len(files) == 1 else name
                raise InputError(
                    f"{place}: the weight {weight_name} has values that are not finite numbers (NaN or infinite);"
                    " the file is damaged, or its training diverged: take another checkpoint"
                )


def check_vectors(vectors: np.ndarray, texts: Sequence[str], name: str = "the encoder") -> None:
    """Raise ``InputError`` for unit vectors that say nothing of the texts, which are to differ: all of them zeros, or
    all the same."""
    if len(vectors) and not vectors.any():
        raise InputError(f"{name} gives vectors of zeros only, as of {texts[0][:60]!r}, so nothing can be ranked by it")
    if len(vectors) > 1 and np.abs(vectors - vectors[0]).max() < SAME:
        raise InputError(
            f"{name} gives the same vector for every text, as of {texts[0][:60]!r} and {texts[1][:60]!r}, so nothing"
            " can be ranked by it"
        )


def check_finite(vectors: np.ndarray, texts: Sequence[Any]) -> None:
    """Raise ``InputError`` for vectors or scores, a row for each of ``texts``, that are not finite."""
    if not len(texts):
        return
    finite = np.isfinite(vectors).reshape(len(texts), -1).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise InputError(
            f"the model gives numbers that are not finite for {len(finite) - int(finite.sum()):,} of"
            f" {len(finite):,} texts, as {str(texts[row])[:60]!r}; its weights are broken, or its precision is too low"
            " (precision: float32)"
        )


def probe(model: SentenceTransformer, name: str) -> None:
    """Encode a few texts, an empty and a very long one among them. Raises ``InputError`` for what would fail later, or
    give nothing to rank by. No process waits for another."""
    for side in ("query", "document"):
        routed = route_of(model, side)
        vectors = _embed(routed, SHORT_TEXTS, name, "short texts")
        check_vectors(vectors, SHORT_TEXTS, name)
        _embed(routed, [""], name, "an empty text")
        _embed(routed, [LONG_TEXT], name, "a text of 1,200 words")
        if routed is model:  # one encoder for both sides
            break


def probe_cross_encoder(model: CrossEncoder, name: str) -> None:
    """Score a few pairs, as ``probe`` does."""
    pairs = [(SHORT_TEXTS[0], SHORT_TEXTS[1]), (SHORT_TEXTS[0], ""), (SHORT_TEXTS[0], LONG_TEXT)]
    model.eval()
    for pair in pairs:
        with naming(name, "a pair of texts"), torch.inference_mode():
            features = model.preprocess([pair])
            scores = model(on_device(model, features))["scores"].float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise InputError(f"{name}: its scores are not finite numbers, as of {str(pair)[:60]}")


def check_trainable(model: SentenceTransformer, name: str) -> None:
    """Raise ``InputError`` for an encoder that is not one Transformer, or one table of tokens' vectors, for queries and
    documents alike."""
    first = model[0]
    if isinstance(first, Router):
        raise InputError(f"training.base: {name} has an encoder for queries and one for documents; {ONE_SIDE}")
    if not isinstance(first, Transformer | StaticEmbedding):
        raise InputError(
            f"training.base: {name} begins with a {type(first).__name__}, and only Transformers and static embeddings"
            " are trained; it can be evaluated, or be a teacher as encoder:<name>"
        )


def check_transformer(model: SentenceTransformer, name: str, key: str) -> None:
    """Raise ``InputError`` for an encoder that is no Transformer, by the setting ``key`` that works on layers, or on
    texts padded to one length."""
    if not isinstance(model[0], Transformer):
        instead = "take mnrl, which needs little memory there" if key == "loss" else "leave it out"
        raise InputError(
            f"training.{key}: {name} begins with a {type(model[0]).__name__}, which has no layers; {instead}"
        )


def check_recomputable(model: SentenceTransformer, name: str) -> None:
    """Raise ``InputError`` for an encoder whose layers cannot be computed a second time for their gradients."""
    check_transformer(model, name, "gradient_checkpointing")
    inner = model[0].auto_model
    if not inner.supports_gradient_checkpointing:
        raise InputError(
            f"training.gradient_checkpointing: {name}, a {type(inner).__name__}, has none in transformers; loss:"
            " cached_mnrl saves memory, too"
        )


def embed(forward: Any, features: dict[str, Any], dimension: int) -> torch.Tensor:
    """Embeddings of shape (texts, ``dimension``) by ``forward``. A text of which no token is left has zeros: most
    models cannot read nothing."""
    mask = features.get("attention_mask")
    if not torch.is_tensor(mask) or mask.ndim != 2 or (mask.shape[1] and bool(mask.any(dim=1).all())):
        return forward(features)
    rows = mask.any(dim=1)
    if not rows.any():
        return torch.zeros(len(mask), dimension, device=mask.device)
    kept = {k: v[rows] if torch.is_tensor(v) and v.ndim and len(v) == len(mask) else v for k, v in features.items()}
    values = forward(kept)
    result = values.new_zeros(len(mask), values.shape[1])
    result[rows] = values
    return result


def _embed(model: SentenceTransformer, texts: Sequence[str], name: str, what: str) -> np.ndarray:
    model.eval()
    with naming(name, what), torch.inference_mode():
        features = on_device(model, model.preprocess(list(texts)))
        vectors = embed(lambda f: model(f)["sentence_embedding"], features, model.get_embedding_dimension())
        vectors = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise InputError(f"{name}: its vectors of {what} are not finite numbers")
    return vectors


def on_device(model: Any, features: dict[str, Any]) -> dict[str, Any]:
    """What a model reads, where the model is."""
    return {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in features.items()}


class naming:
    """What a model raises becomes an ``InputError`` that names it."""

    def __init__(self, name: str, what: str) -> None:
        self._name, self._what = name, what

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise InputError(f"{self._name}: cannot read {self._what} ({type(error).__name__}: {error})") from error


def positions_of(module: torch.nn.Module) -> int | None:
    """Tokens that a model has positions for; None where it has no vector for each."""
    limits = [
        layer.num_embeddings
        # RoBERTa's positions begin behind the padding token's, BART's at an offset
        - (layer.padding_idx + 1 if layer.padding_idx is not None else getattr(layer, "offset", 0))
        for layer_name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Embedding) and layer_name.rpartition(".")[2] in POSITIONS
    ]
    return min(limits, default=None)


def _fit_length(module: Transformer, name: str, asked: int | None) -> None:
    limit = positions_of(module.auto_model)
    if limit is None or (module.max_seq_length is not None and module.max_seq_length <= limit):
        return
    if asked and asked > limit:
        warnings.warn(
            f"{name}: max_seq_length is {asked:,}, and the model has positions for {limit:,} tokens; texts are cut to"
            " these",
            stacklevel=4,
        )
    module.max_seq_length = limit


def _set_padding(module: Transformer, name: str) -> None:
    tokenizer = module.tokenizer
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"{name}: its tokenizer has neither a padding token nor an end token, so texts of different lengths"
                " cannot be read together; set pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
        warnings.warn(
            f"{name}: its tokenizer has no padding token; the end token {tokenizer.eos_token!r} pads", stacklevel=4
        )
    if getattr(module.auto_model.config, "pad_token_id", None) is None:
        module.auto_model.config.pad_token_id = tokenizer.pad_token_id
