"""Models that cannot be worked with are refused when they are loaded or checked, with a sentence; others just work."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import BoW, Pooling, StaticEmbedding, Transformer

from sharpen.evaluation.beir import Document
from sharpen.evaluation.encoders.checks import check_base, check_cross_encoder, check_encoder, check_reranker_base
from sharpen.evaluation.encoders.encode import encode, score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.dense import Dense
from tests.support.tiny_models import WORDS, encoder, hugging_face, tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 133466304\n"
LONG = "bread " * 400


def _change(folder: Path, change) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return encoder(tmp_path / "base")


def test_a_sound_model_passes_and_is_tried_once(base, monkeypatch):
    check_base(str(base))
    monkeypatch.setattr("sharpen.evaluation.encoders.checks.load_encoder", lambda *_: pytest.fail("loaded again"))
    check_base(str(base))
    _change(base, lambda weights: weights["encoder.layer.0.output.dense.bias"].fill_(0.5))
    with pytest.raises(pytest.fail.Exception):
        check_base(str(base))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_names_its_file(base, value):
    _change(base, lambda weights: weights["encoder.layer.0.output.dense.weight"][3].fill_(value))
    for load in (load_encoder, check_base, check_encoder, lambda name: Dense({"a": Document("a", "x")}, name)):
        with pytest.raises(InputError, match=r"base/model\.safetensors: the weight .*output\.dense\.weight has values"):
            load(str(base))


def test_a_reranker_with_a_broken_weight_is_refused(tmp_path):
    folder = hugging_face(tmp_path / "m", head="ForSequenceClassification", num_labels=1)
    check_cross_encoder(str(folder))
    _change(folder, lambda weights: weights["classifier.weight"].fill_(float("nan")))
    with pytest.raises(InputError, match=r"model\.safetensors: the weight .*classifier\.weight has values"):
        check_cross_encoder(str(folder))


def test_vectors_that_are_not_finite_are_no_result():
    model = load_encoder("packaged:tiny-bert", device="cpu")
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight[model.tokenizer.convert_tokens_to_ids("ice")] = np.inf
    with pytest.raises(InputError, match=r"not finite for 1 of 2 texts, as 'ice'"):
        encode(model, ["bread", "ice"], precision="float32")


def test_the_same_vector_for_every_text_is_refused_before_anything_is_trained(base):
    _change(base, lambda weights: [w.zero_() for w in weights.values()])
    with pytest.raises(InputError, match="gives vectors of zeros only"):
        check_base(str(base))
    _change(base, lambda weights: weights["encoder.layer.0.output.LayerNorm.bias"].copy_(torch.arange(16.0)))
    for check in (check_base, lambda name: Dense({"a": Document("a", "x")}, name)):
        with pytest.raises(InputError, match="gives the same vector for every text"):
            check(str(base))


def test_other_kinds_of_models_are_not_converted_without_a_word(tmp_path, base):
    plain = hugging_face(tmp_path / "mlm", head="ForMaskedLM")
    SparseEncoder(str(plain), device="cpu").save_pretrained(str(tmp_path / "sparse"), create_model_card=False)
    cross = CrossEncoder(str(plain), num_labels=1, device="cpu")
    cross.save_pretrained(str(tmp_path / "cross"), create_model_card=False)
    old = hugging_face(tmp_path / "old", head="ForSequenceClassification", num_labels=1)
    with pytest.raises(InputError, match=r"a sparse encoder, whose .* a dense encoder is expected here"):
        check_encoder(str(tmp_path / "sparse"))
    with pytest.raises(InputError, match=r"a sparse encoder, whose .* a cross-encoder is expected here"):
        check_cross_encoder(str(tmp_path / "sparse"))
    (tmp_path / "sparse" / "config_sentence_transformers.json").unlink()  # as older ones: by the modules
    with pytest.raises(InputError, match="a sparse encoder"):
        check_base(str(tmp_path / "sparse"))
    for folder in (tmp_path / "cross", old):
        check_cross_encoder(str(folder))
        with pytest.raises(InputError, match="a cross-encoder, which scores pairs and gives no vectors"):
            check_base(str(folder))
    for folder in (base, plain):
        with pytest.raises(InputError, match=r"an encoder, not a reranker .* drawn at random"):
            check_cross_encoder(str(folder))
        check_reranker_base(str(folder))
    settings = {"model_type": "MultiVectorEncoder"}
    (base / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="a late-interaction encoder"):
        check_encoder(str(base))


def test_a_classifier_of_three_labels_is_no_reranker_and_no_base_of_one(tmp_path):
    folder = str(hugging_face(tmp_path / "m", head="ForSequenceClassification", num_labels=3))
    with pytest.raises(InputError, match="a classifier with 3 outputs, and a reranker has one score; name a cross"):
        check_cross_encoder(folder)
    with pytest.raises(InputError, match=r"a classifier with 3 outputs, .* name an encoder, which gets a new head, or"):
        check_reranker_base(folder)


def test_only_transformers_and_tables_are_trained_and_others_can_be_evaluated(tmp_path, base):
    bag = SentenceTransformer(modules=[BoW(WORDS.split())], device="cpu")
    bag.save_pretrained(str(tmp_path / "bag"), create_model_card=False)
    check_encoder(str(tmp_path / "bag"))
    with pytest.raises(InputError, match=r"training\.base: .*begins with a BoW, and only Transformers and static"):
        check_base(str(tmp_path / "bag"))
    static = StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(tmp_path / "static"))
    check_base(str(tmp_path / "static"))
    parts = list(SentenceTransformer(str(base), device="cpu").children())
    router = SentenceTransformer(modules=[Router({"query": parts, "document": parts})], device="cpu")
    router.save_pretrained(str(tmp_path / "router"), create_model_card=False)
    check_encoder(str(tmp_path / "router"))
    with pytest.raises(InputError, match="an encoder for queries and one for documents; write one of the two"):
        check_base(str(tmp_path / "router"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_a_pointer_of_git_lfs_is_called_one(base, name):
    (base / name).write_bytes(POINTER)
    for check in (load_encoder, check_base, check_reranker_base):
        with pytest.raises(InputError, match=rf"{name}: a git-lfs pointer .* run git lfs pull"):
            check(str(base))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["modules.json"], "modules.json is missing, which says how 1_Pooling is used"),
        (["config.json"], "config.json is missing"),
        (["model.safetensors"], "model.safetensors is missing, so there are no weights"),
        (["tokenizer.json", "tokenizer_config.json"], "the tokenizer is missing"),
        (["1_Pooling"], "1_Pooling: modules.json names this folder, and it is missing"),
    ],
)
def test_what_a_folder_lacks_is_named(base, missing, message):
    for name in missing:
        shutil.rmtree(base / name) if (base / name).is_dir() else (base / name).unlink()
    with pytest.raises(InputError, match=message):
        check_base(str(base))


def test_weights_in_other_forms_and_in_parts(base):
    for name in ("pytorch_model.bin", "model.onnx"):
        (base / name).write_bytes(b"x" * 2000)
    check_base(str(base))  # beside the safetensors
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"there as model\.onnx, pytorch_model\.bin only, .* safe_serialization=True"):
        check_base(str(base))
    part = "model-00001-of-00001.safetensors"
    names = dict.fromkeys(SentenceTransformer(str(base.parent / "base-plain"))[0].auto_model.state_dict(), part)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(InputError, match=rf"{part}: model.safetensors.index.json names this part"):
        check_base(str(base))
    (base / part).write_bytes(weights)
    check_base(str(base))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "modules.json"])
def test_a_file_that_broke_off_is_an_error_with_a_sentence(base, name):
    (base / name).write_bytes((base / name).read_bytes()[:300][:-7])
    with pytest.raises(InputError, match=r"not valid JSON|could not be loaded"):
        check_base(str(base))


def test_a_decoder_without_a_padding_token_pads_with_its_end_token_and_says_so(tmp_path):
    options = {"pad": False, "pad_token_id": None, "special": False, "num_key_value_heads": 2}
    folder = encoder(tmp_path / "m", kind="Llama", **options)
    with pytest.warns(UserWarning, match="no padding token; the end token '</s>' pads"):
        model = load_encoder(str(folder))
    texts = ["bread", "the ice melts and flows", "a guitar"]
    alone = np.concatenate([encode(model, [text], precision="float32") for text in texts])
    np.testing.assert_allclose(encode(model, texts, precision="float32"), alone, atol=1e-5)
    with pytest.warns(UserWarning, match="no padding token"):
        check_base(str(folder))
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_encoder(str(tmp_path / "saved")).tokenizer.pad_token == "</s>"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["eos_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="neither a padding token nor an end token"):
        load_encoder(str(folder))


def test_a_reranker_from_a_decoder_scores_batches_as_single_pairs(tmp_path):
    options = {"pad": False, "pad_token_id": None, "num_labels": 1, "num_key_value_heads": 2}
    folder = hugging_face(tmp_path / "m", kind="Llama", head="ForSequenceClassification", **options)
    with pytest.warns(UserWarning, match="no padding token"):
        model = load_cross_encoder(str(folder))
    pairs = [("bread", "ice melts"), ("the ice", "the ice melts and flows"), ("a", "guitar")]
    alone = [score_pairs(model, [pair], precision="float32")[0] for pair in pairs]
    assert score_pairs(model, pairs, precision="float32") == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(("kind", "positions", "room"), [("Bert", 64, 64), ("Roberta", 66, 64), ("MPNet", 66, 64)])
@pytest.mark.parametrize("max_length", [None, 512])  # None: a tokenizer's 1e30
def test_texts_are_cut_to_what_there_are_positions_for(tmp_path, kind, positions, room, max_length):
    options = {"max_position_embeddings": positions, "max_length": max_length}
    folder = encoder(tmp_path / "m", kind=kind, **options)
    model = load_encoder(str(folder))
    assert model.max_seq_length == room
    assert encode(model, [LONG, "bread"]).shape == (2, 16)
    check_base(str(folder))
    assert load_encoder(str(folder), max_seq_length=32).max_seq_length == 32
    with pytest.warns(UserWarning, match="max_seq_length is 128, and the model has positions for 64 tokens"):
        assert load_encoder(str(folder), max_seq_length=128).max_seq_length == room
    reranker = load_cross_encoder(str(tmp_path / "m-plain"), new_head=True)
    assert reranker.max_seq_length == room and len(score_pairs(reranker, [(LONG, LONG), ("bread", "ice")])) == 2
    check_reranker_base(str(folder))


def test_a_text_without_a_token_is_not_found_and_finds_nothing(tmp_path):
    folder = str(encoder(tmp_path / "m", special=False))
    check_base(folder)
    model = load_encoder(folder)
    vectors = encode(model, ["", "bread", "", "ice melts"], precision="float32")
    assert vectors.any(axis=1).tolist() == [False, True, False, True]
    np.testing.assert_allclose(vectors[[1, 3]], encode(model, ["bread", "ice melts"], precision="float32"), atol=1e-5)
    assert not encode(model, ["", ""]).any()
    corpus = {i: Document(i, text) for i, text in {"a": "", "b": "bread", "c": "", "d": "ice melts"}.items()}
    with pytest.warns(UserWarning, match="2 of 4 documents, as 'a', have no token for this encoder"):
        index = Dense(corpus, model)
    for k in (1, 2, 4):
        found = index.search({"q": "bread", "none": ""}, k)
        assert set(found["q"]) <= {"b", "d"} and len(found["q"]) == min(k, 2) and found["none"] == {}
    with pytest.raises(InputError, match="vectors of zeros only"):
        Dense({"a": Document("a", "")}, model)


def test_a_plain_hugging_face_folder_gets_mean_pooling(tmp_path):
    folder = hugging_face(tmp_path / "m")
    check_base(str(folder))
    transformer = Transformer(str(folder))
    own = SentenceTransformer(modules=[transformer, Pooling(16, "mean")], device="cpu")
    expected = own.encode(["bread"], normalize_embeddings=True)
    np.testing.assert_allclose(encode(load_encoder(str(folder)), ["bread"], precision="float32"), expected, atol=1e-5)


def test_no_texts_have_no_vectors_and_a_model_that_is_cut_gives_cut_ones(base):
    model = load_encoder(str(base))
    assert encode(model, []).shape == (0, 16)
    assert score_pairs(load_cross_encoder(str(base), new_head=True), []) == []
    cut = SentenceTransformer(str(base), truncate_dim=5, device="cpu")
    expected = cut.encode(["bread", "ice melts"], normalize_embeddings=True)
    np.testing.assert_allclose(encode(cut, ["bread", "ice melts"], precision="float32"), expected, atol=1e-5)
