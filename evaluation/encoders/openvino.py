"""Encoding on CPUs by OpenVINO, where it is installed: the numbers of torch, in less time.

It takes SentenceTransformers of a text Transformer, mean or CLS pooling and maybe Normalize, with weights in float32.
All others, and a few texts, for which compiling would take longer than it saves, go through torch.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import PreTrainedModel

from sharpen.evaluation.encoders.batching import CHARACTERS_PER_TOKEN
from sharpen.evaluation.encoders.precision import resolve_precision
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.encoders.tokens import is_right_padded_text

# OpenVINO tells its makers of every import and every conversion where this package is at hand; with None in its place
# the stand-in that it has for such cases is used
sys.modules.setdefault("openvino_telemetry", None)
try:
    import openvino
except ImportError:  # the extra sharpen[openvino]
    openvino = None

MIN_PRODUCTS = 8e12
"""Multiplications (tokens times weights of linear layers) from which on a model is compiled, which takes 5 to 8
seconds: about 3,000 abstracts with all-MiniLM-L6-v2. On two AVX2 cores torch is as fast within a few percent."""
MIN_COSINE = 0.999
"""Of a compiled model's vectors of two texts to torch's; else torch is used."""

Forward = Callable[[dict[str, Any]], torch.Tensor]
"""Features of a batch to embeddings of shape (rows, dimension)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Compiled:
    """A compiled model (None: it cannot be compiled) and what it was compiled for."""

    key: tuple[Any, ...]
    model: Any


_cache: WeakKeyDictionary[SentenceTransformer, _Compiled] = WeakKeyDictionary()


def openvino_version() -> str | None:
    """The release, as ``2026.4``; None where OpenVINO is not installed."""
    return ".".join(version("openvino").split(".")[:2]) if openvino else None


def openvino_forward(
    model: SentenceTransformer, texts: Sequence[str], prompt: str = "", precision: Precision = "auto"
) -> Forward | None:
    """What computes embeddings in place of the model, or None where torch is to do it.

    The compiled model is kept as long as the model is, and compiled anew when a weight has changed.
    """
    if openvino is None or model.device.type != "cpu" or not _is_plain(model) or _products(model, texts) < MIN_PRODUCTS:
        return None
    by_length = sorted(texts, key=len)
    sample = model.preprocess([by_length[0], by_length[-1]], **({"prompt": prompt} if prompt else {}))
    if not is_right_padded_text(sample):
        return None
    settings = (resolve_precision(precision, "cpu"), torch.get_num_threads(), *sorted(_tensors(sample)))
    kept = _cache.get(model)
    if kept and kept.model is None and kept.key == settings:  # whatever the weights are
        return None
    key = (*settings, _checksum(model))
    if kept is None or kept.key != key:
        try:
            compiled = _compile(model, sample, *settings[:2])
            key = key if _agrees(model, compiled, sample) else settings
        except Exception as error:  # whatever the tracer and the converter raise for a model that they do not know
            _log.info("OpenVINO cannot compile the encoder, torch is used: %s", error)
            key = settings
        kept = _cache[model] = _Compiled(key, compiled if key != settings else None)
    return _forward(kept.model) if kept.model else None


def _is_plain(model: SentenceTransformer) -> bool:
    transformer, pooling, *rest = [*model, None, None][: max(2, len(model))]
    return (
        type(transformer) is Transformer
        and isinstance(transformer.auto_model, PreTrainedModel)
        and type(pooling) is Pooling
        and pooling.pooling_mode in ("mean", "cls")
        and pooling.include_prompt
        and all(type(module) is Normalize for module in rest)
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    )


def _products(model: SentenceTransformer, texts: Sequence[str]) -> float:
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    longest = CHARACTERS_PER_TOKEN * (model.max_seq_length or float("inf"))
    return weights * sum(min(len(text), longest) for text in texts) / CHARACTERS_PER_TOKEN


class _Traced(torch.nn.Module):
    """The model with tensors as arguments and as its result, which is what a tracer can follow."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        return self.model(features)["sentence_embedding"]


def _compile(model: SentenceTransformer, sample: dict[str, Any], precision: str, threads: int) -> Any:
    """For batches of any shape, as many at once as there are threads, each batch on a core of its own."""
    with _quiet(), torch.no_grad():
        converted = openvino.convert_model(_Traced(model), example_input=_tensors(sample))
    options = {
        # explicitly: OpenVINO would choose bf16 by itself where the hardware has it
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": str(threads),
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",  # the processes of accelerate launch would all be pinned to the first cores
    }
    return openvino.Core().compile_model(converted, "CPU", options)


def _forward(compiled: Any) -> Forward:
    """Each thread that calls it has an inference request of its own."""
    local = threading.local()

    def forward(features: dict[str, Any]) -> torch.Tensor:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        inputs = {name: tensor.numpy() for name, tensor in _tensors(features).items()}
        return torch.from_numpy(local.request.infer(inputs, share_inputs=True)[0])

    return forward


def _agrees(model: SentenceTransformer, compiled: Any, sample: dict[str, Any]) -> bool:
    with torch.inference_mode():
        expected = model(dict(sample))["sentence_embedding"]
        cosine = torch.nn.functional.cosine_similarity(_forward(compiled)(sample), expected).min().item()
    if not cosine >= MIN_COSINE:
        _log.warning("OpenVINO's embeddings differ from torch's (cosine %.5f), so torch is used", cosine)
    return cosine >= MIN_COSINE


def _tensors(features: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in features.items() if torch.is_tensor(value)}


def _checksum(model: SentenceTransformer) -> int:
    """Of all weights: a model in training is changed in place, and not always in ways that tensors keep a count of."""
    result = 0
    for tensor in model.state_dict().values():
        result = zlib.crc32(np.ascontiguousarray(tensor.detach().numpy()).data.cast("B"), result)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracing says of every model."""
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
