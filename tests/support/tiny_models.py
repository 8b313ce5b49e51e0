"""Random models of a few thousand weights, in folders as people have them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = "bread ice guitar tyre rises flows melts sounds the a of is made flour water and salt word query document"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def tokenizer(
    special: bool = True, pad: bool = True, max_length: int | None = None, words: str = WORDS
) -> PreTrainedTokenizerFast:
    """Of whole words. ``special``: it puts a token before and one behind a text."""
    vocabulary = {w: n for n, w in enumerate(dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *words.split()]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pad else {})
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **names,
        **({"model_max_length": max_length} if max_length else {}),
        model_input_names=["input_ids", "attention_mask"],
    )


def hugging_face(folder: Path, kind: str = "Bert", head: str = "Model", seed: int = 0, **options) -> Path:
    """``kind``: Bert, Roberta, Llama, ... ``head``: of its class, as in ``BertForSequenceClassification``. ``options``:
    those of ``tokenizer``, all others of the configuration."""
    torch.manual_seed(seed)
    of_tokenizer = {name: options.pop(name) for name in ("special", "pad", "max_length") if name in options}
    words = tokenizer(**of_tokenizer)
    options = SIZES | {"vocab_size": len(words), "pad_token_id": 1, "max_position_embeddings": 64} | options
    config = getattr(transformers, f"{kind}Config")(**options)
    # wide enough that the vectors of different texts differ
    config.initializer_range = 0.5
    getattr(transformers, kind + head)(config).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def encoder(folder: Path, kind: str = "Bert", prompts: dict | None = None, **options) -> Path:
    """In sentence-transformers' layout, with mean pooling."""
    transformer = Transformer(str(hugging_face(folder.parent / f"{folder.name}-plain", kind, **options)))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu", prompts=prompts)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder
