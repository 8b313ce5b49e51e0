"""``export_model``: a model's folder in another format, with all that belongs to it, and the measured loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder, model_digest
from sharpen.evaluation.encoders.routes import ONE_SIDE, has_routes, prompt_of
from sharpen.evaluation.export.gguf_file import GGUF_FILE, write_gguf
from sharpen.evaluation.export.graphs import ONNX_FILE, OPENVINO_FILE, write_int8, write_onnx, write_openvino
from sharpen.evaluation.export.pages import readme
from sharpen.evaluation.export.reading import EXPORT_FILE, CosineCheck, ExportInfo, Format, open_export
from sharpen.evaluation.files import InputError, atomic_folder, check_new_folder, write_text


@dataclass(frozen=True)
class _Writing:
    """``file``: what is loaded. ``min_cosine``: below it in the mean, the export is refused."""

    write: Callable[[SentenceTransformer, Path], None]
    file: str
    min_cosine: float


FORMATS: dict[Format, _Writing] = {
    "onnx": _Writing(write_onnx, ONNX_FILE, 0.999),
    "openvino": _Writing(write_openvino, OPENVINO_FILE, 0.999),
    "int8": _Writing(write_int8, ONNX_FILE, 0.9),
    "gguf": _Writing(write_gguf, GGUF_FILE, 0.999),
}


def export_model(name: str, to: Format, target: Path, queries: Sequence[str], documents: Sequence[str]) -> ExportInfo:
    """Write the encoder ``name`` (a folder, a hub name or ``packaged:<name>``) in another format into ``target``.

    ``queries`` and ``documents``: a sample of texts, of which the exported model, read from what was written, must give
    the vectors of the model in float32. The folder holds the weights, tokenizer, pooling and prompts, a README of how
    to load it, and ``export.json`` with the result of this check; it is written whole or not at all.

    Raises ``InputError`` for a model that the format cannot hold, packages that are not installed, a target that is
    there already, and vectors that are not those of the model.
    """
    check_new_folder(target)
    if not queries and not documents:
        raise InputError("there are no texts to check the exported model by; give some queries or documents")
    model = load_encoder(name, device="cpu")
    _check_exportable(model, name)
    with atomic_folder(target) as folder:
        model.save_pretrained(str(folder), safe_serialization=True, create_model_card=False)
        for weights in folder.glob("model*.safetensors*"):
            weights.unlink()
        FORMATS[to].write(model, folder)
        info = _describe(model, name, to, folder)
        _write_info(folder, info)
        info = info.model_copy(update={"check": _check(folder, model, queries, documents)})
        _refuse_other_vectors(info, name)
        _write_info(folder, info)
        write_text(folder / "README.md", readme(info))
    return info


def cosine_check(texts: Sequence[str], vectors: np.ndarray, expected: np.ndarray) -> CosineCheck:
    """Of unit vectors, a row for each text.

    >>> cosine_check(["a"], np.eye(1), np.eye(1)).mean_cosine
    1.0
    """
    cosines = (vectors * expected).sum(axis=1)
    least = int(cosines.argmin())
    return CosineCheck(
        texts=len(texts),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines[least]),
        least_text=texts[least][:200],
    )


def _check(folder: Path, model: SentenceTransformer, queries: Sequence[str], documents: Sequence[str]) -> CosineCheck:
    sides = {"query": list(queries), "document": list(documents)}
    with open_export(folder) as exported:
        vectors = np.concatenate([exported.encode(texts, side) for side, texts in sides.items()])
    expected = [
        encode(model, texts, prompt=prompt_of(model, side), precision="float32") for side, texts in sides.items()
    ]
    return cosine_check([*queries, *documents], vectors, np.concatenate(expected))


def _describe(model: SentenceTransformer, name: str, to: Format, folder: Path) -> ExportInfo:
    modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    files = [folder / FORMATS[to].file, *(folder / FORMATS[to].file).parent.glob("*.bin")]
    files += [*(folder / FORMATS[to].file).parent.glob("*.data")]
    return ExportInfo(
        format=to,
        model=model_digest(name),
        dimension=model.get_embedding_dimension(),
        max_seq_length=int(model.max_seq_length),
        pooling=str(modes[0]),
        normalized=any(isinstance(module, Normalize) for module in model),
        query_prompt=prompt_of(model, "query"),
        document_prompt=prompt_of(model, "document"),
        bytes=sum(path.stat().st_size for path in files),
    )


def _write_info(folder: Path, info: ExportInfo) -> None:
    write_text(folder / EXPORT_FILE, info.model_dump_json(indent=2) + "\n")


def _check_exportable(model: SentenceTransformer, name: str) -> None:
    if has_routes(model):
        raise InputError(
            f"{name}: it has an encoder for queries and one for documents, and an export has one; {ONE_SIDE}"
        )
    pooling = next((module for module in model if isinstance(module, Pooling)), None)
    if not isinstance(model[0], Transformer) or pooling is None or not pooling.include_prompt:
        raise InputError(
            f"{name}: of {', '.join(type(m).__name__ for m in model)}; a Transformer with pooling over prompt and text"
            " can be exported"
        )
    if not model.max_seq_length:
        raise InputError(f"{name}: it says nothing of how many tokens it reads; set max_seq_length")


def _refuse_other_vectors(info: ExportInfo, name: str) -> None:
    check, limit = info.check, FORMATS[info.format].min_cosine
    if not check.mean_cosine >= limit:
        raise InputError(
            f"{name}: exported to {info.format}, its vectors are not those of the model (a mean cosine of"
            f" {check.mean_cosine:.4f}, and {limit} is asked for; the least, {check.least_cosine:.4f}, of"
            f" {check.least_text[:60]!r}), so nothing is written; export it to another format"
        )
