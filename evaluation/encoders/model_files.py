"""What lies in a model's folder, looked at before anything is loaded of it: missing files, pointers, other kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpen.evaluation.files import InputError

LFS = b"version https://git-lfs"
"""How a pointer begins that git leaves in the place of a large file."""
LFS_BYTES = 1024
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*processor_config.json", "*.tiktoken")
TO_SAFETENSORS = "model.save_pretrained(folder, safe_serialization=True) writes safetensors"
SPARSE, LATE, CROSS = "SparseEncoder", "MultiVectorEncoder", "CrossEncoder"
_KINDS = {
    SPARSE: "a sparse encoder, whose vectors have a number for each word; as a dense one it would give other vectors"
    " than it was trained to",
    LATE: "a late-interaction encoder, which gives a vector for each token; as a dense one it would give other vectors"
    " than it was trained to",
    CROSS: "a cross-encoder, which scores pairs and gives no vectors; give it as a reranker",
}


def check_model_folder(folder: Path) -> None:
    """Raise ``InputError`` that names the file for what cannot be loaded from ``folder``: a git-lfs pointer in the
    place of a file, weights that are there as pickles only, and a missing config, tokenizer or list of modules."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size < LFS_BYTES and path.read_bytes().startswith(LFS):
            raise InputError(f"{path}: a git-lfs pointer in the place of the file; run git lfs pull in the repository")
    modules = _modules(folder)
    if modules is None:
        if pooling := next(folder.glob("*_Pooling"), None):
            raise InputError(
                f"{folder}: modules.json is missing, which says how {pooling.name} is used; copy the whole folder, as"
                " sentence-transformers wrote it"
            )
        modules = [(folder, "Transformer")]
    for path, kind in modules:
        if kind == "Transformer":
            _check_transformer(path)
        elif kind in ("Pooling", "Dense", "StaticEmbedding") and not path.is_dir():
            raise InputError(f"{path}: modules.json names this folder, and it is missing; copy the whole folder")


def kind_of_model(folder: Path) -> str:
    """``SentenceTransformer``, ``SparseEncoder``, ``MultiVectorEncoder`` or ``CrossEncoder``, by the files of a folder
    (of a hub model, those in the cache)."""
    given = _json(folder / "config_sentence_transformers.json")
    kind = given.get("model_type") if isinstance(given, dict) else None
    if kind in _KINDS:
        return kind
    modules = _json(folder / "modules.json")
    types = [str(module.get("type")) for module in modules if isinstance(module, dict)] if modules else []
    if any("sparse_encoder" in name or name.endswith((".SpladePooling", ".MLMTransformer")) for name in types):
        return SPARSE
    if any("multi_vector_encoder" in name or "pylate" in name.lower() for name in types):
        return LATE
    config = _json(folder / "config.json")
    architectures = (config.get("architectures") or []) if isinstance(config, dict) else []
    if not types and any(name.endswith("ForSequenceClassification") for name in architectures):
        return CROSS
    return "SentenceTransformer"


def check_kind(name: str, folder: Path, allowed: str) -> None:
    """Raise ``InputError`` for a model of another kind than ``allowed``, which would be converted without a word."""
    kind = kind_of_model(folder)
    if kind in _KINDS and kind != allowed:
        wanted = {CROSS: "a cross-encoder"}.get(allowed, "a dense encoder")
        raise InputError(f"{name}: {_KINDS[kind]}; {wanted} is expected here")


def _modules(folder: Path) -> list[tuple[Path, str]] | None:
    """Folder and kind of each module, those of routes among them; None where no file lists them."""
    path = folder / "modules.json"
    if not path.exists():
        return None
    listed = _read_json(path)
    try:
        modules = [(folder / module["path"], module["type"].rpartition(".")[2]) for module in listed]
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: expected a list of modules, each with type and path") from None
    return [each for module in modules for each in _with_routes(*module)]


def _with_routes(path: Path, kind: str) -> Iterator[tuple[Path, str]]:
    yield path, kind
    types = (_json(path / "router_config.json") or {}).get("types", {}) if kind in ("Router", "Asym") else {}
    for name, type_ in types.items():
        yield path / name, type_.rpartition(".")[2]


def _check_transformer(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: modules.json names this folder, and it is missing; copy the whole folder")
    is_adapter = (folder / "adapter_config.json").exists()
    if not is_adapter:
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}: config.json is missing, which says what they are; copy the whole folder")
        _read_json(folder / "config.json")
    if not any((folder / name).exists() for name in WEIGHTS):
        others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
        if not others:
            raise InputError(f"{folder}: model.safetensors is missing, so there are no weights; copy the whole folder")
        raise InputError(
            f"{folder}: the weights are there as {', '.join(others)} only, and only safetensors are read (a pickle can"
            f" run code); {TO_SAFETENSORS}"
        )
    index = folder / WEIGHTS[1]
    if index.exists() and not (folder / WEIGHTS[0]).exists():
        parts = set(_read_json(index).get("weight_map", {}).values())
        if missing := sorted(part for part in parts if not (folder / part).exists()):
            raise InputError(f"{folder / missing[0]}: {index.name} names this part of the weights, and it is missing")
    if not is_adapter and not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
        raise InputError(f"{folder}: the tokenizer is missing (tokenizer.json, tokenizer_config.json); copy it there")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _json(path: Path) -> Any:
    """The file's content; None where it is not there."""
    return _read_json(path) if path.is_file() else None
