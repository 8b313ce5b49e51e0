"""Exported models: the vectors of the model they came from, read back by what serves them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer

from sharpen.evaluation.encoders import openvino
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder
from sharpen.evaluation.export.formats import FORMATS, cosine_check, export_model
from sharpen.evaluation.export.gguf_file import GGUF_FILE, write_gguf
from sharpen.evaluation.export.reading import ExportInfo, cut_text, open_export
from sharpen.evaluation.files import InputError
from tests.conftest import TOPICS
from tests.support import tiny_models

QUERIES = ["flat tire what now", "beans per litre", "x"]
DOCUMENTS = [f"{title} {text}" for title, text in TOPICS.values()]
LONG = " ".join(DOCUMENTS)
"""Longer than what is read of a text."""


@pytest.fixture(scope="module")
def with_prompts(tmp_path_factory) -> str:
    """A real encoder in a folder of its own, with prompts and a limit of its own."""
    model = load_encoder("packaged:tiny-bert", device="cpu", max_seq_length=96)
    model.prompts = {"query": "query: ", "document": "passage: "}
    folder = tmp_path_factory.mktemp("model") / "with-prompts"
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


def exported(name: str, to: str, target: Path) -> ExportInfo:
    return export_model(name, to, target, QUERIES, [*DOCUMENTS, LONG])


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_an_exported_model_gives_the_vectors_of_the_model(with_prompts: str, tmp_path: Path, to: str):
    if to == "openvino" and openvino.openvino is None:
        pytest.skip("OpenVINO is not installed")
    info = exported(with_prompts, to, tmp_path / "out")
    limit = 0.99 if to == "int8" else 0.9999
    assert info.check.texts == len(QUERIES) + len(DOCUMENTS) + 1
    assert info.check.least_cosine >= limit
    assert (info.query_prompt, info.document_prompt, info.max_seq_length) == ("query: ", "passage: ", 96)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["check"] == info.check.model_dump()
    weights = tmp_path / "out" / FORMATS[to].file
    assert weights.stat().st_size <= info.bytes
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    page = (tmp_path / "out" / "README.md").read_text()
    assert "'query: '" in page and "96" in page and f"{info.check.mean_cosine:.5f}" in page
    # read again, of texts that it was not checked by
    model, texts = load_encoder(with_prompts, device="cpu"), ["ice flows downhill", "a bright Sunday " * 90]
    with open_export(tmp_path / "out", threads=1) as encoder:
        vectors = encoder.encode(texts, "query")
    expected = encode(model, texts, prompt="query: ", precision="float32")
    assert (vectors * expected).sum(axis=1).min() >= limit
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("ice flows")["input_ids"] == model.tokenizer("ice flows")["input_ids"]


@pytest.mark.slow
def test_int8_is_smaller_and_its_graph_says_so(with_prompts: str, tmp_path: Path):
    import onnx

    whole = exported(with_prompts, "onnx", tmp_path / "whole")
    small = exported(with_prompts, "int8", tmp_path / "small")
    assert small.bytes < 0.35 * whole.bytes
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "small" / "onnx" / "model.onnx")).graph.node}
    assert "MatMulInteger" in kinds


@pytest.mark.slow
def test_the_code_of_the_page_runs(with_prompts: str, tmp_path: Path, monkeypatch):
    exported(with_prompts, "onnx", tmp_path / "out")
    blocks = (tmp_path / "out" / "README.md").read_text().split("```python\n")
    code = next(block.split("```")[0] for block in blocks if "onnxruntime" in block)
    monkeypatch.chdir(tmp_path / "out")
    names = {"texts": DOCUMENTS[:3]}
    exec(code, names)
    expected = encode(load_encoder(with_prompts, device="cpu"), DOCUMENTS[:3], prompt="passage: ", precision="float32")
    assert np.allclose(names["vectors"], expected, atol=1e-4)


def test_a_gguf_file_says_how_llama_cpp_is_to_read_it(with_prompts: str, tmp_path: Path):
    from gguf import GGUFReader

    model = load_encoder(with_prompts, device="cpu")
    write_gguf(model, tmp_path)
    reader = GGUFReader(tmp_path / GGUF_FILE)

    def value(name: str):
        return reader.fields[name].contents()

    assert value("general.architecture") == "bert"
    assert value("bert.context_length") == 96  # no server reads more of a text than the model
    assert (value("bert.pooling_type"), value("bert.attention.causal")) == (1, False)
    tokens = value("tokenizer.ggml.tokens")
    vocabulary = model.tokenizer.get_vocab()
    assert (tokens[vocabulary["ice"]], tokens[vocabulary["##ing"]]) == ("▁ice", "ing")
    assert tokens[value("tokenizer.ggml.bos_token_id")] == "[CLS]"
    shapes = {tensor.name: tuple(tensor.shape) for tensor in reader.tensors}
    assert shapes["position_embd.weight"] == (128, 96)


def test_what_llama_cpp_would_read_otherwise_is_refused(tmp_path: Path):
    roberta = load_encoder(str(tiny_models.encoder(tmp_path / "roberta", "Roberta")), device="cpu")
    with pytest.raises(InputError, match=r"RobertaModel.*convert_hf_to_gguf"):
        write_gguf(roberta, tmp_path)
    words = load_encoder(str(tiny_models.encoder(tmp_path / "words")), device="cpu")
    with pytest.raises(InputError, match="its tokenizer is WordLevel"):
        write_gguf(words, tmp_path)
    model = load_encoder("packaged:tiny-bert", device="cpu")
    next(m for m in model if isinstance(m, Pooling)).pooling_mode = "max"
    with pytest.raises(InputError, match="no pooling like"):
        write_gguf(model, tmp_path)


def test_cased_words_are_not_exported_to_gguf(tmp_path: Path):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    model.tokenizer.backend_tokenizer.normalizer.lowercase = False
    with pytest.raises(InputError, match="lower-cases"):
        write_gguf(model, tmp_path)


def test_nothing_is_written_over_and_nothing_is_left_of_what_failed(with_prompts: str, tmp_path: Path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        exported(with_prompts, "onnx", tmp_path / "there")
    roberta = str(tiny_models.encoder(tmp_path / "roberta", "Roberta"))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="RobertaModel"):
        export_model(roberta, "gguf", tmp_path / "out", QUERIES, DOCUMENTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_export_with_other_vectors_is_refused(with_prompts: str, tmp_path: Path, monkeypatch):
    """As if the exporter had followed another way through the model: its pooling is changed while it writes."""
    if openvino.openvino is None:
        pytest.skip("OpenVINO is not installed")
    right = FORMATS["openvino"]

    def write_by_cls(model: SentenceTransformer, folder: Path) -> None:
        pooling = next(m for m in model if isinstance(m, Pooling))
        pooling.pooling_mode = "cls"
        right.write(model, folder)
        pooling.pooling_mode = "mean"

    monkeypatch.setitem(FORMATS, "openvino", type(right)(write_by_cls, right.file, right.min_cosine))
    with pytest.raises(InputError, match="its vectors are not those of the model"):
        exported(with_prompts, "openvino", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(with_prompts: str, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"it needs onnxscript; run: pip install 'sharpen\[export\]'"):
        exported(with_prompts, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_text_is_cut_where_the_model_cuts_it():
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("packaged:tiny-bert"))
    for tokens in (8, 17, 40):
        cut = cut_text(tokenizer, LONG, tokens)
        ids = tokenizer(cut)["input_ids"]
        whole = tokenizer(LONG, truncation=True, max_length=tokens)["input_ids"]
        assert tokens - 3 <= len(ids) <= tokens
        assert ids[:-1] == whole[: len(ids) - 1]
    assert cut_text(tokenizer, "short", 8) == "short"


def test_the_text_that_differs_most_is_named():
    vectors = np.eye(2, dtype=np.float32)
    check = cosine_check(["a", "b"], vectors, np.array([[1, 0], [0.6, 0.8]], np.float32))
    assert (check.least_text, round(check.least_cosine, 4), round(check.mean_cosine, 4)) == ("b", 0.8, 0.9)
