"""A trainable encoder from one that was exported to ONNX, where a package carries no other form of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from sharpen.evaluation.files import InputError

_ROOT = "model.0.auto_model."
"""Before the names of weights in the export of a sentence-transformers model."""
_HEADS_OF = 32
"""Dimensions of an attention head in the MiniLM family."""


def encoder_from_onnx(source: Path, like: Path, folder: Path, max_seq_length: int) -> None:
    """Write the BERT encoder of the ONNX file ``source`` into ``folder``, as a sentence-transformers folder with
    safetensors.

    Biases, layer norms and embeddings have their names in the export; the weights of a linear layer are the constant of
    the product whose bias is added to it, transposed. ``like``: a folder of the same family, of which tokenizer,
    pooling and all settings but the number of layers are taken. ``max_seq_length``: tokens that a text is cut to.
    Raises ``InputError`` if onnx is not installed, or a weight is not in the file.
    """
    try:
        import onnx
    except ImportError:
        raise InputError(f"{source.name}: reading it needs onnx; run: pip install onnx") from None
    import torch
    from transformers import BertConfig, BertModel

    weights = _named_weights(onnx.load(str(source)).graph, onnx.numpy_helper.to_array)
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    width = weights["embeddings.word_embeddings.weight"].shape[1]
    config = BertConfig.from_pretrained(like, num_hidden_layers=layers, num_attention_heads=width // _HEADS_OF)
    model = BertModel(config, add_pooling_layer=False)
    state = model.state_dict()
    if missing := sorted(state.keys() - weights.keys()):
        raise InputError(f"{source}: no weights for {missing[0]}; it is not the export of a BERT encoder")
    model.load_state_dict({name: torch.from_numpy(weights[name].copy()).to(value) for name, value in state.items()})
    for path in like.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("README.md", "data_config.json"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    model.save_pretrained(folder)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings | {"max_seq_length": max_seq_length}))


def _named_weights(graph, to_array) -> dict[str, np.ndarray]:
    constants = {constant.name: constant for constant in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    found = {name: name for name in constants if name.startswith(_ROOT)}
    transposed: dict[str, str] = {}
    for node in graph.node:
        bias = next((i for i in node.input if i in found and i.endswith(".bias")), None)
        if node.op_type != "Add" or bias is None:
            continue
        for summand in node.input:
            product = made_by.get(summand)
            if product is not None and product.op_type == "MatMul":
                constant = next((i for i in product.input if i in constants), None)
                if constant:
                    transposed[bias.removesuffix("bias") + "weight"] = constant
    arrays = {name: to_array(constants[constant]) for name, constant in found.items()}
    arrays |= {name: to_array(constants[constant]).T for name, constant in transposed.items()}
    return {name.removeprefix(_ROOT): array for name, array in arrays.items()}
