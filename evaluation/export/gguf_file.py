"""A BERT encoder as a GGUF file, as llama.cpp, Ollama and LM Studio serve it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from sharpen.evaluation.export.graphs import need_packages
from sharpen.evaluation.files import InputError

GGUF_FILE = "model.gguf"
CONTINUES = "##"
"""Before a piece of a word that does not begin it, in WordPiece's vocabularies."""
BEGINS = "\u2581"
"""Before one that does, in GGUF files."""
POOLINGS = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST"}
ELSEWHERE = "export it to onnx or openvino, or convert the model's folder by llama.cpp's convert_hf_to_gguf.py"


def write_gguf(model: SentenceTransformer, folder: Path) -> None:
    """``model.gguf``: matrices in float16, all else in float32.

    It has positions for as many tokens as the model reads of a text and no more, so that a server never reads more of a
    long text than was measured: it refuses the text, or cuts it there. Raises ``InputError`` for other architectures
    than BERT, tokenizers that llama.cpp reads otherwise, and layers behind the pooling that it has not.
    """
    need_packages("gguf", "gguf")
    import gguf

    bert, pooling = _bert(model), _pooling(model)
    config, arch = bert.config, gguf.MODEL_ARCH.BERT
    positions = min(model.max_seq_length or config.max_position_embeddings, config.max_position_embeddings)
    writer = gguf.GGUFWriter(folder / GGUF_FILE, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(folder.name.strip(".").removesuffix(".partial"))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling])
    _add_vocabulary(writer, model, config)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in bert.state_dict().items():
        if name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InputError(f"--to gguf: llama.cpp's BERT has no place for the weight {name}; {ELSEWHERE}")
        values = tensor.detach().cpu().float().numpy()
        if name.startswith("embeddings.position_embeddings"):
            values = values[:positions]
        whole = values.ndim == 1 or "position_embeddings" in name or "token_type_embeddings" in name
        writer.add_tensor(target, np.ascontiguousarray(values if whole else values.astype(np.float16)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bert(model: SentenceTransformer) -> Any:
    inner, tokenizer = model[0].auto_model, model[0].tokenizer
    if type(inner).__name__ != "BertModel":
        raise InputError(f"--to gguf: the model is a {type(inner).__name__}, and BERT alone is written; {ELSEWHERE}")
    if inner.config.hidden_act != "gelu" or getattr(inner.config, "is_decoder", False):
        raise InputError(f"--to gguf: llama.cpp's BERT is an encoder with GELU, and this one is not; {ELSEWHERE}")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend else {"model": {"type": type(tokenizer).__name__}}
    kind = described["model"].get("type")
    if kind != "WordPiece" or described["model"].get("continuing_subword_prefix", CONTINUES) != CONTINUES:
        raise InputError(f"--to gguf: its tokenizer is {kind}, and BERT's WordPiece alone is written; {ELSEWHERE}")
    normalizer = described.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("lowercase"):
        raise InputError(f"--to gguf: llama.cpp lower-cases what it reads, and this tokenizer does not; {ELSEWHERE}")
    return inner


def _pooling(model: SentenceTransformer) -> str:
    modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise InputError(f"--to gguf: llama.cpp has no pooling like {modes}; {ELSEWHERE}")
    others = [type(m).__name__ for m in list(model)[1:] if not isinstance(m, Pooling | Normalize)]
    if others:
        raise InputError(f"--to gguf: {', '.join(others)} behind the pooling is not written; {ELSEWHERE}")
    return POOLINGS[modes[0]]


def _add_vocabulary(writer: Any, model: SentenceTransformer, config: Any) -> None:
    import gguf

    tokenizer = model[0].tokenizer
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    tokens, types = [], []
    for number in range(config.vocab_size):
        token = by_id.get(number)
        if token is None:
            tokens.append(f"[PAD{number}]")
            types.append(gguf.TokenType.UNUSED)
        elif number in special:
            tokens.append(token)
            types.append(gguf.TokenType.CONTROL)
        else:
            tokens.append(token.removeprefix(CONTINUES) if token.startswith(CONTINUES) else BEGINS + token)
            types.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_vocab_size(config.vocab_size)
    ends = {
        "add_bos_token_id": tokenizer.cls_token_id,
        "add_eos_token_id": tokenizer.sep_token_id,
        "add_sep_token_id": tokenizer.sep_token_id,
        "add_unk_token_id": tokenizer.unk_token_id,
        "add_pad_token_id": tokenizer.pad_token_id,
        "add_mask_token_id": tokenizer.mask_token_id,
    }
    for add, number in ends.items():
        if number is not None:
            getattr(writer, add)(number)
