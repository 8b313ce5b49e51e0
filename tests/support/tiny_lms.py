"""Random language models of a few thousand weights, in folders as people have them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from sharpen.evaluation.generative.identifiers import Identifier
from tests.support.tiny_models import WORDS, tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
KINDS = {
    "Llama": ("LlamaConfig", "LlamaForCausalLM", SIZES | {"num_key_value_heads": 1}),
    "Gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        # every second layer sees 4 tokens only
        SIZES
        | {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "GPT2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
}


def language_model(
    folder: Path, kind: str = "Llama", seed: int = 0, pad: bool = True, words: str = WORDS, **options
) -> Path:
    """``kind``: Llama, Gemma3 (with a sliding window) or GPT2. ``options``: of the configuration."""
    torch.manual_seed(seed)
    words = tokenizer(special=False, pad=pad, words=words)
    config_class, model_class, sizes = KINDS[kind]
    sizes = sizes | {"vocab_size": len(words), "max_position_embeddings": 128, "tie_word_embeddings": True}
    tokens = {"bos_token_id": 0, "pad_token_id": 1 if pad else None, "eos_token_id": 2}
    config = getattr(transformers, config_class)(**(sizes | tokens | options))
    config.initializer_range = 0.2
    getattr(transformers, model_class)(config).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def identifiers(number: int) -> dict[str, Identifier]:
    """Of documents d0, d1, ...: two or three words each, all different."""
    words = WORDS.split()
    texts = [f"{a} {b} {a}" if n % 3 else f"{a} {b}" for n, (a, b) in enumerate((a, b) for a in words for b in words)]
    return {f"d{n}": Identifier(f"d{n}", text, "keywords") for n, text in enumerate(texts[:number])}
