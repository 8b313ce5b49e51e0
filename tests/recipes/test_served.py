"""The commands that hand a model on: exported, verified against a running server, and its index for a vector store."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import faiss
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from sharpen.evaluation.beir import read_corpus
from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.export.reading import ExportInfo
from sharpen.evaluation.llama_cpp import serve_encoder
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.recipes import served
from sharpen.recipes.served import ModelWithTexts, model_with_texts
from tests.evaluation.test_verification import served as serve_model
from tests.processes import sharpen
from tests.support import tiny_models


def test_what_there_is_not_is_an_error_that_names_what_there_is(tmp_path: Path, recipe_file: Path):
    model = resolve_encoder("packaged:tiny-bert")
    wrong = sharpen("export-model", model, "--to", "tflite", "--out", "out", cwd=tmp_path)
    assert wrong.returncode == 2 and "there are onnx, openvino, int8, gguf" in wrong.stderr
    wrong = sharpen("index", model, "--to", "milvus", "--out", "out", cwd=tmp_path)
    assert wrong.returncode == 2 and "there are parquet, faiss, qdrant" in wrong.stderr
    wrong = sharpen("index", model, "--to", "faiss", "--out", "out", cwd=tmp_path)
    assert wrong.returncode == 2 and "give --data" in wrong.stderr
    wrong = sharpen("verify", model, "--against", "http://127.0.0.1:9/v1", cwd=tmp_path)
    assert wrong.returncode == 2 and "is the server running?" in wrong.stderr
    (tmp_path / "run").mkdir()
    for name, source in (("recipe.yaml", recipe_file), ("pool.yaml", recipe_file.with_name("pool.yaml"))):
        (tmp_path / "run" / name).write_text(source.read_text())
    wrong = sharpen("export-model", "run", "--to", "gguf", "--out", "out", cwd=tmp_path)
    assert wrong.returncode == 2 and "sharpen train run" in wrong.stderr
    assert not (tmp_path / "out").exists()


def test_an_encoder_of_another_family_is_refused(tmp_path: Path, dataset: Path):
    folder = tiny_models.encoder(tmp_path / "sparse")
    config = folder / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "SparseEncoder"}))
    for command in (
        ("export-model", "sparse", "--to", "onnx", "--out", "out"),
        ("index", "sparse", "--to", "faiss", "--out", "out", "--data", str(dataset)),
    ):
        refused = sharpen(*command, cwd=tmp_path)
        assert refused.returncode == 2 and "a sparse encoder" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_documents_of_a_folder_are_indexed_by_any_model(tmp_path: Path, dataset: Path):
    model = str(tmp_path / "model")
    load_encoder("packaged:tiny-bert", device="cpu").save_pretrained(model)
    (tmp_path / "model" / "recipe.yaml").write_text("name: as a run leaves it beside the model\n")
    done = sharpen("index", model, "--to", "faiss", "--out", "out", "--data", str(dataset), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 documents, 128 numbers each" in done.stdout
    corpus = read_corpus(dataset / "corpus.jsonl")
    dense = Dense(corpus, load_encoder(model, device="cpu"))
    ids = pq.read_table(tmp_path / "out" / "documents.parquet")["id"].to_pylist()
    _, rows = faiss.read_index(str(tmp_path / "out" / "index.faiss")).search(dense.encode_queries(["flat tire"]), 10)
    assert [ids[row] for row in rows[0]] == list(dense.search({"q": "flat tire"}, 10)["q"])


def test_texts_are_those_of_the_data_or_real_ones_of_ours(dataset: Path):
    given = model_with_texts("packaged:tiny-bert", str(dataset))
    assert "flat tire what now" in given.queries and len(given.documents) == 12
    assert len(model_with_texts("packaged:tiny-bert").queries) > 20


def test_the_base_is_known_by_the_prompts_of_the_recipe(tmp_path: Path, monkeypatch):
    """It may be called by its name, with which no prompt comes."""
    tuned, prompts = (
        load_encoder("packaged:tiny-bert", device="cpu"),
        {"query_prompt": "ask: ", "document_prompt": "say: "},
    )
    for parameter in tuned.parameters():
        parameter.data *= 1 + 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    tuned.save_pretrained(str(tmp_path / "model"))
    given = ModelWithTexts(
        Encoder(model=str(tmp_path / "model"), **prompts),
        Encoder(model="packaged:tiny-bert", **prompts),
        ["flat tire what now", "first moves in chess"],
        ["Take the wheel off.", "Castle early."],
    )
    monkeypatch.setattr(served, "model_with_texts", lambda _name, _data: given)
    with serve_model(load_encoder("packaged:tiny-bert", device="cpu")) as endpoint:
        verdict = served.verify_server("run", endpoint, Console(file=StringIO()), None, False, 0.9999)
    (cause,) = verdict.causes
    assert cause.startswith("another model: the vectors are those of its base, packaged:tiny-bert")


@pytest.mark.slow
def test_a_finished_run_is_exported_served_verified_and_indexed(undisturbed, tmp_path: Path, monkeypatch):
    """The whole way of a tuned model, with llama.cpp's own server and Qdrant's client."""
    qdrant = pytest.importorskip("qdrant_client")
    run = str(undisturbed[0] / "runs" / "topics")
    done = sharpen("export-model", run, "--to", "gguf", "--out", "served", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    info = ExportInfo.read(tmp_path / "served")
    assert f"a cosine of {info.check.mean_cosine:.5f} in the mean" in done.stdout and info.check.mean_cosine > 0.999
    gguf = tmp_path / "served" / "model.gguf"
    verify = ("verify", run, "--api-key-env", "SHARPEN_A_KEY", "--against")
    with serve_encoder(gguf, info.max_seq_length) as server:
        monkeypatch.setenv("SHARPEN_A_KEY", server.api_key)
        right = sharpen(*verify, server.base_url, cwd=tmp_path)
        assert right.returncode == 0, right.stdout + right.stderr
        assert "serves this model." in right.stdout and server.api_key not in right.stdout
        other = sharpen("verify", "packaged:tiny-bert", *verify[2:], server.base_url, cwd=tmp_path)
        assert other.returncode == 1
    with serve_encoder(gguf, info.max_seq_length, pooling="cls") as server:
        monkeypatch.setenv("SHARPEN_A_KEY", server.api_key)
        wrong = sharpen(*verify, server.base_url, cwd=tmp_path)
        assert wrong.returncode == 1
        assert "pooling: it pools by cls, and the model by mean" in wrong.stdout
    done = sharpen("index", run, "--to", "qdrant", "--out", "documents.qdrant", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    corpus, model = read_corpus(Path(run) / "corpus" / "corpus.jsonl"), load_encoder(f"{run}/model", device="cpu")
    dense = Dense(corpus, model)
    client = qdrant.QdrantClient(path=str(tmp_path / "documents.qdrant"))
    query = dense.encode_queries(["ice flowing downhill"])[0].tolist()
    found = [point.payload["id"] for point in client.query_points("documents", query=query, limit=10).points]
    client.close()
    assert found == list(dense.search({"q": "ice flowing downhill"}, 10)["q"])
