"""OpenVINO against torch: the same vectors, for the same weights, and torch wherever it cannot be used."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from sharpen.evaluation.encoders import openvino, precision
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.openvino import openvino_forward, openvino_version

TEXTS = ["a guitar is tuned by its strings", "", "piano " * 700, "tune", "x9 q7 z3 k1 j8 v2", "ice flows downhill " * 9]


@pytest.fixture
def for_all(monkeypatch):
    """OpenVINO, however few the texts are."""
    if openvino.openvino is None:
        pytest.skip("OpenVINO is not installed")
    monkeypatch.setattr(openvino, "MIN_PRODUCTS", 0)


def by_torch(model: SentenceTransformer, texts: list[str], prompt: str = "") -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "openvino", None)
        return encode(model, texts, prompt=prompt, precision="float32")


def cosine(model: SentenceTransformer, texts: list[str] = TEXTS, prompt: str = "") -> float:
    vectors = encode(model, texts, prompt=prompt, precision="float32")
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    return float((vectors * by_torch(model, texts, prompt)).sum(axis=1).min())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["packaged:all-MiniLM-L6-v2", "packaged:tiny-bert"])
def test_vectors_are_those_of_torch(for_all, name: str):
    model = load_encoder(name, device="cpu")
    assert openvino_forward(model, TEXTS)
    assert cosine(model) >= 0.9999
    assert cosine(model, prompt="query: ") >= 0.9999
    model.max_seq_length = 16
    assert cosine(model) >= 0.9999
    assert not np.allclose(encode(model, TEXTS), encode(model, TEXTS, prompt="query: "), atol=1e-3)


def test_cls_pooling(for_all):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    model[1] = Pooling(model.get_embedding_dimension(), "cls")
    assert openvino_forward(model, TEXTS) and cosine(model) >= 0.9999


def test_a_model_that_was_trained_is_compiled_anew_and_one_that_was_not_is_not(for_all, monkeypatch):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    compile_model, compiled = openvino._compile, []
    monkeypatch.setattr(openvino, "_compile", lambda *given: compiled.append(1) or compile_model(*given))
    before = encode(model, TEXTS)
    encode(model, TEXTS[:3])
    assert len(compiled) == 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(3):
        model(model.preprocess(TEXTS[:2]))["sentence_embedding"].sum().backward()
        optimizer.step()
    after = encode(model, TEXTS)
    assert len(compiled) == 2 and np.abs(after - before).max() > 0.01
    assert (after * by_torch(model, TEXTS)).sum(axis=1).min() >= 0.9999
    # past torch's count of changes, as code does that writes to the memory of a tensor
    next(p for n, p in model.named_parameters() if "word_embeddings" in n).detach().numpy()[:] *= -1.5
    assert cosine(model) >= 0.9999 and len(compiled) == 3


def test_a_compiled_model_goes_with_its_model(for_all):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    encode(model, TEXTS)
    assert model in openvino._cache
    number = len(openvino._cache)
    del model
    import gc

    gc.collect()
    assert len(openvino._cache) < number


def test_torch_does_what_openvino_cannot(for_all, monkeypatch):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    expected = by_torch(model, TEXTS)
    monkeypatch.setattr(openvino, "MIN_PRODUCTS", 1e12)
    assert openvino_forward(model, TEXTS) is None  # too few
    monkeypatch.setattr(openvino, "MIN_PRODUCTS", 0)

    def fail(*_):
        raise RuntimeError("an operation that is not known")

    with monkeypatch.context() as patch:
        patch.setattr(openvino, "_compile", fail)
        assert np.array_equal(encode(model, TEXTS, precision="float32"), expected)
        patch.setattr(openvino, "_compile", lambda *_: pytest.fail("it was tried already"))
        assert openvino_forward(model, TEXTS, precision="float32") is None
    other = load_encoder("packaged:tiny-bert", device="cpu")
    monkeypatch.setattr(openvino, "MIN_COSINE", 1.1)
    assert openvino_forward(other, TEXTS) is None  # embeddings that differ
    monkeypatch.undo()
    monkeypatch.setattr(openvino, "MIN_PRODUCTS", 0)
    for change in (
        lambda m: setattr(m.tokenizer, "padding_side", "left"),
        lambda m: m.__setitem__(1, Pooling(m.get_embedding_dimension(), "max")),
        lambda m: m.__setitem__(1, Pooling(m.get_embedding_dimension(), "mean", include_prompt=False)),
        lambda m: m.append(torch.nn.Identity()),
        lambda m: m.to(torch.bfloat16),
    ):
        changed = load_encoder("packaged:tiny-bert", device="cpu")
        change(changed)
        assert openvino_forward(changed, TEXTS) is None


def test_without_openvino_everything_is_torchs(monkeypatch):
    monkeypatch.setattr(openvino, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(openvino, "openvino", None)
    model = load_encoder("packaged:tiny-bert", device="cpu")
    assert openvino_forward(model, TEXTS) is None and openvino_version() is None
    expected = model.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    assert (encode(model, TEXTS, precision="float32") * expected).sum(axis=1).min() > 0.9999


def test_the_fingerprint_of_a_precision_names_what_computes(monkeypatch):
    monkeypatch.setattr(precision, "process_state", lambda: type("State", (), {"device": torch.device("cpu")}))
    version = openvino_version()
    assert precision.precision_digest("float32") == ("float32" if version is None else f"float32, openvino {version}")
    monkeypatch.setattr(openvino, "openvino", None)
    assert precision.precision_digest("float32") == "float32"
    assert precision.precision_digest("auto") in ("float32", "bf16")


def test_openvino_has_nobody_to_tell_of_its_use():
    convert = pytest.importorskip("openvino.tools.ovc.convert_impl")
    assert convert.tm.__name__.endswith("telemetry_stub")
