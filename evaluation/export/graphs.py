"""Encoders as graphs: ONNX by torch's exporter, in 8 bits by ONNX Runtime, and OpenVINO by its converter."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.encoders.openvino import openvino
from sharpen.evaluation.files import InputError

ONNX_FILE, OPENVINO_FILE = "onnx/model.onnx", "openvino/openvino_model.xml"
"""Where sentence-transformers, text-embeddings-inference and optimum look for them."""
OUTPUTS = ("last_hidden_state", "sentence_embedding")
"""The first is what sentence-transformers pools, the second is the model's vector."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PROTOBUF_BYTES = 1_900_000_000
"""Larger weights lie beside an ONNX file, which is a protobuf of at most 2 GiB."""
_EXAMPLE = ("a short text", "a text that is a good deal longer than the other one, so that there is padding")

Forward = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Token IDs and masks of shape (texts, tokens) to vectors of shape (texts, dimension)."""


def need_packages(to: str, *names: str) -> None:
    """Raise ``InputError`` that says what to install, where one of the packages is not there."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"--to {to}: it needs {name}; run: pip install 'sharpen[export]'") from None


def write_onnx(model: SentenceTransformer, folder: Path) -> None:
    """``onnx/model.onnx``, in float32, for any number of texts of any length."""
    need_packages("onnx", "onnx", "onnxscript", "onnxruntime")
    path = folder / ONNX_FILE
    path.parent.mkdir(parents=True)
    names, example = _example(model)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            _Tensors(model),
            example,
            path,
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_shapes=tuple(sizes for _ in names),
            dynamo=True,
            external_data=weights > PROTOBUF_BYTES,
            verbose=False,
        )


def write_int8(model: SentenceTransformer, folder: Path) -> None:
    """``onnx/model.onnx`` with the weights of all products in 8 bits. Their other side is quantised text by text, so no
    sample of texts is needed. Unsigned, as the sums of signed weights overflow on CPUs without VNNI."""
    need_packages("int8", "onnx", "onnxscript", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-float32-") as whole:
        write_onnx(model, Path(whole))
        target = folder / ONNX_FILE
        target.parent.mkdir(parents=True)
        source = Path(whole) / ONNX_FILE
        with _quiet():
            quantize_dynamic(
                source,
                target,
                weight_type=QuantType.QUInt8,
                per_channel=True,
                use_external_data_format=source.stat().st_size > PROTOBUF_BYTES or any(source.parent.glob("*.data")),
                extra_options={"MatMulConstBOnly": True},
            )


def write_openvino(model: SentenceTransformer, folder: Path) -> None:
    """``openvino/openvino_model.xml`` and ``.bin``, in float32."""
    if openvino is None:
        raise InputError("--to openvino: it needs openvino; run: pip install 'sharpen[export]'")
    path = folder / OPENVINO_FILE
    path.parent.mkdir(parents=True)
    names, example = _example(model)
    with _quiet(), torch.no_grad():
        converted = openvino.convert_model(_Tensors(model), example_input=dict(zip(names, example, strict=True)))
    for output, name in zip(converted.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(converted, path, compress_to_fp16=False)


def onnx_forward(folder: Path) -> Forward:
    """What computes the vectors of an exported folder by ONNX Runtime, each call on the core that it is made on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda features: session.run([OUTPUTS[1]], {name: features[name] for name in names})[0]


def openvino_forward(folder: Path, threads: int) -> Forward:
    """The same by OpenVINO, in float32, for ``threads`` that call it at once."""
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": str(threads),
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",
    }
    compiled, local = openvino.Core().compile_model(folder / OPENVINO_FILE, "CPU", options), threading.local()
    names = [each.any_name for each in compiled.inputs]

    def forward(features: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        return np.array(local.request.infer({name: features[name] for name in names})[OUTPUTS[1]])

    return forward


class _Tensors(torch.nn.Module):
    """The model with tensors as arguments and as its results, which is what exporters can follow."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        features = self.model(features)
        return features["token_embeddings"], features["sentence_embedding"]


def _example(model: SentenceTransformer) -> tuple[list[str], tuple[torch.Tensor, ...]]:
    model.eval()
    features = model.preprocess(list(_EXAMPLE))
    names = [name for name in INPUTS if name in features]
    return names, tuple(features[name] for name in names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of every model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
