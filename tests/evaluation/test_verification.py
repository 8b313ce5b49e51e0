"""Whether a server serves a model: right, and wrong in each way that is known, which is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.export.gguf_file import GGUF_FILE, write_gguf
from sharpen.evaluation.files import InputError
from sharpen.evaluation.llama_cpp import serve_encoder
from sharpen.evaluation.verification.endpoint import Endpoint
from sharpen.evaluation.verification.sample import draw_sample
from sharpen.evaluation.verification.verify import Verdict, verify_endpoint
from tests.conftest import TOPICS
from tests.servers import serve_replies

QUERIES = ["flat tire what now", "beans per litre", "first moves in chess", "ice flowing downhill"]
DOCUMENTS = [f"{title} {text}" for title, text in TOPICS.values()]


def load(prompts: bool = False, normalize: bool = False) -> SentenceTransformer:
    model = load_encoder("packaged:tiny-bert", device="cpu", max_seq_length=96)
    if prompts:
        model.prompts = {"query": "query: ", "document": "passage: "}
    if normalize:
        model.append(Normalize())
    return model


@contextmanager
def served(
    model: SentenceTransformer, change: Callable[[str], str] = str, scale: float = 1.0, longest: int | None = None
) -> Iterator[Endpoint]:
    """A real model behind OpenAI's protocol. ``change``: what the server makes of a text. ``longest``: characters of
    what it does not refuse."""

    def reply(path: str, body: dict, _headers: dict):
        if path.endswith("/models"):
            return 200, {}, json.dumps({"object": "list", "data": [{"id": "mine", "object": "model"}]}).encode()
        assert body["encoding_format"] == "float"
        if longest and any(len(text) > longest for text in body["input"]):
            return 400, {}, b'{"error": {"message": "the input is too long"}}'
        vectors = scale * model.encode([change(text) for text in body["input"]], normalize_embeddings=True)
        rows = [{"object": "embedding", "index": n, "embedding": v.tolist()} for n, v in enumerate(vectors)]
        return 200, {}, json.dumps({"object": "list", "data": rows, "model": body["model"], "usage": None}).encode()

    with serve_replies(reply) as url:
        yield Endpoint(url)


def verdict_on(endpoint: Endpoint, model: SentenceTransformer, **options) -> Verdict:
    return verify_endpoint(model, endpoint.vectors, draw_sample(model, QUERIES, DOCUMENTS), **options)


def test_the_right_model_is_served():
    with served(load(prompts=True)) as endpoint:
        verdict = verdict_on(endpoint, load(prompts=True))
    assert endpoint.model == "mine"
    assert verdict.serves and not verdict.causes
    assert verdict.least_cosine > 0.9999 and not verdict.refused
    assert "Clients must put 'query: ' before queries" in verdict.notes[0]


@pytest.mark.parametrize("pooling", ["cls", "lasttoken", "max"])
def test_the_wrong_pooling_is_named(pooling: str):
    wrong = load()
    next(m for m in wrong if isinstance(m, Pooling)).pooling_mode = pooling
    with served(wrong) as endpoint:
        verdict = verdict_on(endpoint, load())
    assert not verdict.serves
    (cause,) = verdict.causes
    assert cause.startswith(
        f"pooling: it pools by {pooling}, and the model by mean (cosine 1.0000; to this model's: 0."
    )


def test_a_missing_prompt_is_named():
    with served(load()) as endpoint:
        verdict = verdict_on(endpoint, load(prompts=True), bare=True)
    (cause,) = verdict.causes
    assert cause.startswith("prompts: it reads no prompt; the model reads 'query: ' before queries")


def test_a_prompt_that_is_put_twice_and_one_that_is_not_the_models_are_named():
    twice = load()
    prompts = {"query: ": "query: query: ", "passage: ": "passage: passage: "}

    def double(text: str) -> str:
        return next((two + text.removeprefix(one) for one, two in prompts.items() if text.startswith(one)), text)

    with served(twice, double) as endpoint:
        (cause,) = verdict_on(endpoint, load(prompts=True)).causes
    assert "each prompt twice" in cause
    with served(load(), "query: {}".format) as endpoint:
        (cause,) = verdict_on(endpoint, load()).causes
    assert cause.startswith("prompts: it reads 'query: ' before queries and 'query: ' before documents;")


@pytest.mark.parametrize(("length", "told"), [(32, "32 tokens"), (64, "64 tokens"), (512, "all 2")])
def test_another_truncation_is_named(length: int, told: str):
    wrong = load()
    wrong.max_seq_length = length
    short = [d[:80] for d in DOCUMENTS]
    with served(wrong) as endpoint:
        sample = draw_sample(load(), QUERIES, short)
        verdict = verify_endpoint(load(), endpoint.vectors, sample)
    (cause,) = verdict.causes
    assert cause.startswith(f"truncation: it reads {told}") and "and the model 96" in cause


def test_lower_casing_is_named():
    def cased() -> SentenceTransformer:
        model = load()
        model.tokenizer.backend_tokenizer.normalizer.lowercase = False
        return model

    with served(cased(), str.lower) as endpoint:
        verdict = verdict_on(endpoint, cased())
    (cause,) = verdict.causes
    assert cause.startswith("case: it lower-cases texts")


def test_vectors_that_are_not_normalised_are_named():
    with served(load(), scale=3.0) as endpoint:
        verdict = verdict_on(endpoint, load(normalize=True))
        assert verdict.causes == ["normalisation: its vectors have lengths of 3.00 to 3.00, and the model's have 1"]
        assert verdict.least_cosine > 0.9999
        assert verdict_on(endpoint, load()).serves  # this model does not bring them to length 1 either


def test_two_differences_at_once_are_both_named():
    wrong = load()
    next(m for m in wrong if isinstance(m, Pooling)).pooling_mode = "cls"
    with served(wrong) as endpoint:
        verdict = verdict_on(endpoint, load(prompts=True), bare=True)
    assert [cause.split(":")[0] for cause in verdict.causes] == ["pooling", "prompts"]


def test_the_base_in_place_of_the_model_is_named():
    def tuned() -> SentenceTransformer:
        model = load()
        rng = np.random.default_rng(1)
        for parameter in model.parameters():
            noise = rng.normal(0, 0.02, tuple(parameter.shape)).astype(np.float32)
            parameter.data += parameter.data.new_tensor(noise)
        return model

    ours = tuned()
    with served(load()) as endpoint:
        verdict = verdict_on(endpoint, ours, others={"the base": load})
        (cause,) = verdict.causes
        assert cause.startswith("another model: the vectors are those of the base (cosine 1.0000;")
        assert not verdict_on(endpoint, ours).serves


def test_cut_vectors_and_another_dimension_are_named():
    cut, ours = load(), load()
    cut.truncate_dim = 64
    with served(cut) as endpoint:
        (cause,) = verdict_on(endpoint, ours).causes
    assert cause.startswith("dimensions: the vectors are the first 64 of 128 numbers")
    minilm = load_encoder("packaged:all-MiniLM-L6-v2", device="cpu")
    with served(minilm) as endpoint:
        (cause,) = verdict_on(endpoint, ours).causes
        assert cause == "another model: its vectors have 384 numbers, and this model's 128"
        (cause,) = verdict_on(endpoint, ours, others={"MiniLM": lambda: minilm}).causes
        assert "those of MiniLM" in cause


def test_weights_in_fewer_bits_are_this_model_where_that_is_meant():
    rough = load()
    rng = np.random.default_rng(1)
    for parameter in rough.parameters():
        noise = rng.normal(0, 0.03, tuple(parameter.shape)).astype(np.float32)
        parameter.data *= 1 + parameter.data.new_tensor(noise)
    with served(rough) as endpoint:
        (cause,) = verdict_on(endpoint, load()).causes
        assert cause.startswith("other weights: its vectors are near") and "--min-cosine" in cause
        verdict = verdict_on(endpoint, load(), min_cosine=0.99)
    assert verdict.serves and verdict.mean_cosine < 0.9999
    assert any("fewer bits" in note for note in verdict.notes)


def test_weights_that_are_farther_off_are_taken_for_the_model_where_that_is_meant():
    rough, rng = load(), np.random.default_rng(0)
    for parameter in rough.parameters():
        noise = rng.normal(0, 0.15, tuple(parameter.shape)).astype(np.float32)
        parameter.data *= 1 + parameter.data.new_tensor(noise)
    with served(rough) as endpoint:
        (cause,) = verdict_on(endpoint, load(), min_cosine=0.95).causes
        assert cause.startswith("another model, or other weights")
        verdict = verdict_on(endpoint, load(), min_cosine=0.5)
    assert verdict.serves and 0.5 < verdict.mean_cosine < 0.95


def test_a_model_whose_pooling_leaves_its_prompts_out_is_refused():
    model = load(prompts=True)
    next(m for m in model if isinstance(m, Pooling)).include_prompt = False
    sample = draw_sample(model, QUERIES, DOCUMENTS)
    with pytest.raises(InputError, match="include_prompt: false"):
        verify_endpoint(model, lambda _texts: pytest.fail("it was asked"), sample)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("application/json", b'[{"index": 0, "embedding": [[0.1, 0.2]]}]'),
        ("text/html", b"<html>a page</html>"),
        ("application/json", b'"a text"'),
    ],
)
def test_a_url_without_v1_is_told(kind: str, answer: bytes):
    with serve_replies(lambda *_: (200, {"Content-Type": kind}, answer)) as url:
        with pytest.raises(InputError, match="0 vectors for 2 texts; is it /v1/embeddings"):
            Endpoint(url, "mine").vectors(["one", "two"])
        with pytest.raises(InputError, match="it lists no model"):
            Endpoint(url)


def test_long_texts_that_are_refused_are_told_and_short_ones_are_compared():
    longest = max(map(len, DOCUMENTS)) + 1
    with served(load(), longest=longest) as endpoint:
        verdict = verdict_on(endpoint, load())
    assert verdict.serves and verdict.refused == 2
    assert "clients must cut them" in verdict.notes[0] and "too long" in verdict.notes[0]


def test_errors_of_a_server_name_it_and_what_to_do(monkeypatch):
    with pytest.raises(InputError, match="expected a URL"):
        Endpoint("localhost:8080")
    with pytest.raises(InputError, match=r"no answer .*is the server running"):
        Endpoint("http://127.0.0.1:9/v1", "m").vectors(["x"])
    with pytest.raises(InputError, match="SHARPEN_NO_KEY: this environment variable is not set"):
        Endpoint("http://127.0.0.1:9/v1", "m", "SHARPEN_NO_KEY")
    keys = []

    def refuse(_path: str, _body: dict, headers: dict):
        keys.append(headers["Authorization"])
        return 401, {}, b'{"error": {"message": "no such key"}}'

    monkeypatch.setenv("SHARPEN_A_KEY", "s3cret")
    with serve_replies(refuse) as url:
        with pytest.raises(InputError, match="--api-key-env") as error:
            Endpoint(url, "m", "SHARPEN_A_KEY").vectors(["x"])
        assert "s3cret" not in str(error.value)
        monkeypatch.setenv("OPENAI_API_KEY", "of-another-server")
        with pytest.raises(InputError):
            Endpoint(url, "m").vectors(["x"])
        with pytest.raises(InputError) as error:
            Endpoint(url.replace("http://", "http://me:pw9@"), "m").vectors(["x"])
        assert "127.0.0.1" in str(error.value) and "pw9" not in str(error.value)
    assert keys[0] == "Bearer s3cret" and "of-another-server" not in "".join(keys)
    with serve_replies(lambda *_: (200, {}, b'{"object": "list", "data": []}')) as url:
        with pytest.raises(InputError, match="lists no model; give --model"):
            Endpoint(url)
        with pytest.raises(InputError, match="0 vectors for 1 texts"):
            Endpoint(url, "m").vectors(["x"])


@pytest.mark.slow
def test_llama_cpp_right_and_wrong_in_four_ways(tmp_path: Path, monkeypatch):
    """llama.cpp's own server with the model as a GGUF file."""
    pytest.importorskip("xllamacpp")

    def asked(model: SentenceTransformer, folder: Path = tmp_path, context: int = 96, bare=False, **options) -> Verdict:
        with serve_encoder(folder / GGUF_FILE, context, **options) as server:
            monkeypatch.setenv("SHARPEN_A_KEY", server.api_key)
            return verdict_on(Endpoint(server.base_url, api_key_env="SHARPEN_A_KEY"), model, bare=bare)

    write_gguf(load(normalize=True), tmp_path)
    right = asked(load(normalize=True))
    assert right.serves and "clients must cut them" in right.notes[0]
    pooled = asked(load(normalize=True), pooling="cls")
    assert [cause.split(",")[0] for cause in pooled.causes] == ["pooling: it pools by cls"]
    unprompted = asked(load(prompts=True, normalize=True), bare=True)
    assert [cause.split(";")[0] for cause in unprompted.causes] == ["prompts: it reads no prompt"]
    lengths = asked(load(normalize=True), normalize=False)
    assert lengths.causes[0].startswith("normalisation: ") and len(lengths.causes) == 1
    longer = load(normalize=True)
    longer.max_seq_length = 512
    (tmp_path / "longer").mkdir()
    write_gguf(longer, tmp_path / "longer")
    truncated = asked(load(normalize=True), tmp_path / "longer", context=512)
    assert len(truncated.causes) == 1 and truncated.causes[0].startswith("truncation: it reads all ")
    # what llama.cpp's tokenizer reads otherwise is told, and is no other model
    assert any("한국어" in note for note in right.notes)
