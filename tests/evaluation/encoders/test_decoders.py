"""Causal language models as encoders: pooled by the last token, padded right, with what their tokenizers put behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import processors

from sharpen.evaluation.beir import Document
from sharpen.evaluation.encoders.checks import check_base
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder, model_digest
from sharpen.evaluation.encoders.precision import in_precision
from sharpen.evaluation.packaged_llms import PACKAGED_LLMS
from sharpen.evaluation.retrievers.dense import Dense
from tests.support.tiny_lms import KINDS, language_model
from tests.support.tiny_models import hugging_face

TEXTS = ["bread", "the ice melts and flows", "a guitar sounds", "water and salt and flour made the bread rises"]
SAID = "a causal language model that says nothing of pooling"


def _own(folder: Path) -> SentenceTransformer:
    """As sentence-transformers itself makes it."""
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "lasttoken")])


def _end_token(folder: Path) -> None:
    """The tokenizer puts an end token behind each text, as Qwen3-Embedding's does."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(str(folder))
    ends = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    words.backend_tokenizer.post_processor = ends
    words.save_pretrained(str(folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", [False, True], ids=["as it is", "end token"])
def test_a_language_model_is_pooled_by_its_last_token_as_sentence_transformers_does(tmp_path, kind, ends):
    folder = language_model(tmp_path / "lm", kind)
    if ends:
        _end_token(folder)
    with pytest.warns(UserWarning, match=SAID):
        model = load_encoder(str(folder), device="cpu")
    own = _own(folder).encode(TEXTS, normalize_embeddings=True, device="cpu")
    np.testing.assert_allclose(encode(model, TEXTS, precision="float32"), own, atol=1e-5)
    assert model.preprocess(TEXTS[:1])["input_ids"][0, -1].item() == (2 if ends else model.tokenizer.vocab["bread"])
    model.max_seq_length = 3  # what is cut keeps its end
    assert (model.preprocess(TEXTS[3:])["input_ids"][0, -1].item() == 2) == ends


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_pads_left_gives_each_text_the_vector_it_has_alone(tmp_path, kind):
    folder = tmp_path / "encoder"
    _own(language_model(tmp_path / "lm", kind)).save_pretrained(str(folder), create_model_card=False)
    options = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    model = load_encoder(str(folder), device="cpu")
    alone = np.concatenate([encode(model, [text], precision="float32") for text in TEXTS])
    np.testing.assert_allclose(encode(model, TEXTS, precision="float32"), alone, atol=1e-5)
    own = SentenceTransformer(str(folder), device="cpu")
    assert own.tokenizer.padding_side == "left"
    single = np.concatenate([own.encode([text], normalize_embeddings=True) for text in TEXTS])
    np.testing.assert_allclose(alone, single, atol=1e-5)
    if kind != "GPT2":  # whose positions count padding on the left, so that its own batches are wrong
        np.testing.assert_allclose(alone, own.encode(TEXTS, normalize_embeddings=True), atol=1e-5)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(alone, saved.encode(TEXTS, normalize_embeddings=True), atol=1e-5)


def test_instructions_are_the_prompts_of_the_folder_or_of_the_settings(tmp_path):
    own = _own(language_model(tmp_path / "lm"))
    own.prompts = {"query": "query of the "}
    own.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    corpus = {"a": Document("a", "bread rises"), "b": Document("b", "ice melts")}
    for prompt, given in (("query of the ", None), ("a document is ", "a document is ")):
        index = Dense(corpus, str(tmp_path / "encoder"), given, precision="float32")
        expected = own.encode([prompt + "bread"], normalize_embeddings=True) @ index.vectors.T
        np.testing.assert_allclose(list(index.search({"q": "bread"}, 2)["q"].values()), sorted(expected[0])[::-1], 1e-4)


def test_a_chat_template_is_not_put_around_texts_and_the_saved_folder_says_so(tmp_path):
    folder = language_model(tmp_path / "lm")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<s> {{ m['content'] }} </s>{% endfor %}")
    model = load_encoder(str(folder), device="cpu")
    assert model.preprocess(["bread"])["input_ids"].shape == (1, 1)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    own = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    expected = encode(model, TEXTS, precision="float32")
    np.testing.assert_allclose(own.encode(TEXTS, normalize_embeddings=True), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "head", "options", "mode"),
    [
        ("Llama", "Model", {}, "lasttoken"),  # its name does not say that it is causal
        ("Bert", "Model", {}, "mean"),
        ("Bert", "LMHeadModel", {"is_decoder": True}, "lasttoken"),
        ("Bert", "ForMaskedLM", {}, "mean"),
        ("ModernBert", "Model", {}, "mean"),
    ],
)
def test_the_pooling_follows_what_the_model_does(tmp_path, kind, head, options, mode, recwarn):
    model = load_encoder(str(hugging_face(tmp_path / "m", kind, head, **options)), device="cpu")
    assert model[1].pooling_mode == mode
    assert any(SAID in str(warning.message) for warning in recwarn) == (mode == "lasttoken")


def test_a_folder_keeps_the_pooling_that_it_names(tmp_path):
    transformer = Transformer(str(language_model(tmp_path / "lm")))
    mean = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])
    mean.save_pretrained(str(tmp_path / "mean"), create_model_card=False)
    assert load_encoder(str(tmp_path / "mean"))[1].pooling_mode == "mean"


def test_in_bf16_the_angles_of_positions_far_into_a_text_stay(tmp_path):
    model = load_encoder(str(language_model(tmp_path / "lm")), device="cpu")
    rotary, positions = model[0].auto_model.rotary_emb, torch.arange(1500)[None]
    with torch.inference_mode():
        expected = rotary(torch.zeros(1), positions)[0]
        with in_precision(model, "bf16"):
            assert model[0].auto_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
            torch.testing.assert_close(rotary(torch.zeros(1), positions)[0], expected)


@pytest.mark.slow
def test_a_packaged_language_model_is_a_base():
    name = "packaged:smollm2-135m-instruct"
    with pytest.warns(UserWarning, match=SAID):
        check_base(name)
        model = load_encoder(name)
    assert model_digest(name) == PACKAGED_LLMS["smollm2-135m-instruct"].sha256
    texts = ["How is bread made?", "A loaf is baked from dough.", "Ice flows downhill."]
    with torch.inference_mode():
        states = [
            model[0].auto_model(**model.tokenizer(t, return_tensors="pt")).last_hidden_state[0, -1] for t in texts
        ]
    expected = torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()
    np.testing.assert_allclose(encode(model, texts, precision="float32"), expected, atol=1e-4)
