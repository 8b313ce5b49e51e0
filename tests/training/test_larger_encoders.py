"""What larger encoders are trained with: language models as bases, adapters, checkpointing, weights in bf16."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import mean_primary
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.training.lora import add_adapters
from sharpen.training.optimization import LoraSettings
from sharpen.training.quantized import NF4Linear
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from sharpen.training.validation import Validation
from tests.support.tiny_lms import language_model
from tests.support.tiny_models import WORDS, hugging_face
from tests.support.word_pairs import CORPUS, QUERIES, TRIPLETS

OPTIONS = {"epochs": 8, "batch_size": 4, "learning_rate": 3e-3, "dropout": 0.0, "precision": "float32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return language_model(tmp_path_factory.mktemp("lm") / "base")


def _train(base: Path, folder: Path, look=lambda model: None, evaluations: int = 1, **options) -> list[float]:
    """The losses. ``look``: called with the model ``evaluations`` times."""

    def score(model) -> float:
        look(model)
        return 0.0

    settings = RetrieverSettings(base=str(base), **(OPTIONS | options))
    run = TrainingRun(validation=Validation("looked", score, evaluations, patience=None, later=True))
    return [row["loss"] for row in train_retriever(QUERIES, TRIPLETS, CORPUS, settings, folder, 1, run).log]


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["all weights", "lora"])
def test_a_trained_language_model_is_a_folder_that_sentence_transformers_reads_alone(base, tmp_path, lora):
    losses = _train(base, tmp_path / "m", lora=lora, query_prompt="query of the ")
    assert losses[-1] < losses[0] - 0.05
    assert not list((tmp_path / "m").glob("adapter*")) and "lora" not in str(
        load_file(tmp_path / "m/model.safetensors").keys()
    )
    own, texts = SentenceTransformer(str(tmp_path / "m"), device="cpu"), [d.content for d in CORPUS.values()]
    assert own[1].pooling_mode == "lasttoken" and own.prompts["query"] == "query of the "
    trained = own.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(
        encode(load_encoder(str(tmp_path / "m")), texts, precision="float32"), trained, atol=1e-5
    )
    assert np.abs(trained - encode(load_encoder(str(base)), texts, precision="float32")).max() > 0.01


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["all weights", "lora"])
@pytest.mark.parametrize("loss", ["mnrl", "cached_mnrl"])
def test_checkpointing_computes_layers_again_and_learns_the_same(base, tmp_path, lora, loss):
    passes, losses = {False: 0, True: 0}, {}
    for again in passes:

        def count(model, again=again) -> None:
            def add(*_) -> None:
                passes[again] += 1

            model[0].auto_model.layers[0].mlp.register_forward_pre_hook(add)

        options = {"loss": loss, "mini_batch_size": 2, "gradient_checkpointing": again}
        losses[again] = _train(base, tmp_path / str(again), count, evaluations=2, lora=lora, **options)
    assert passes[True] > passes[False], "layers were computed again"
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)
    weights = [load_file(tmp_path / str(again) / "model.safetensors") for again in passes]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=0)


def test_a_model_without_checkpointing_is_refused_when_settings_are_checked_and_in_training(tmp_path):
    base = str(hugging_face(tmp_path / "m", "MPNet"))
    with pytest.raises(InputError, match=r"training\.gradient_checkpointing: .*m, a MPNetModel, has none"):
        RetrieverSettings(base=base, gradient_checkpointing=True).check()
    RetrieverSettings(base=base).check()
    with pytest.raises(InputError, match=r"training\.gradient_checkpointing: .*m, a MPNetModel, has none"):
        _train(Path(base), tmp_path / "out", gradient_checkpointing=True)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["all weights", "lora"])
def test_weights_in_bf16_take_half_the_memory_learn_nearly_the_same_and_are_written_in_float32(base, tmp_path, lora):
    seen = {}

    def look(model) -> None:
        seen.update({name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()})
        assert model[0].auto_model.rotary_emb.inv_freq.dtype == torch.float32

    losses = [_train(base, tmp_path / w, look, lora=lora, weights=w) for w in ("float32", "bf16")]
    assert {dtype for dtype, trained in seen.values() if not trained or not lora} == {torch.bfloat16}
    assert {dtype for dtype, trained in seen.values() if trained} == {torch.float32 if lora else torch.bfloat16}
    assert losses[1] == pytest.approx(losses[0], abs=0.05 if lora else 0.3) and losses[0][-1] < losses[0][0] - 0.05
    assert {w.dtype for w in load_file(tmp_path / "bf16" / "model.safetensors").values()} == {torch.float32}


def test_weights_in_float32_are_what_there_was_before_and_checkpointing_changes_nothing():
    plain = RetrieverSettings(base="packaged:tiny-bert").fingerprint()
    assert "weights" not in plain
    assert RetrieverSettings(base="packaged:tiny-bert", gradient_checkpointing=True).fingerprint() == plain
    assert RetrieverSettings(base="packaged:tiny-bert", weights="bf16").fingerprint()["weights"] == "bf16"


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [None, "nf4"])
def test_adapters_on_a_language_model_lift_ndcg_on_queries_that_it_was_not_trained_on(tmp_path, quantized):
    """Each query asks for a document in other words: what these mean must be learnt, and put together anew."""
    pairs = [(f"a{n}", f"b{n}") for n in range(12)]
    words = " ".join([WORDS, *itertools.chain(*pairs)])  # the former, as texts of them try an encoder
    base = language_model(tmp_path / "base", words=words)
    chosen = random.Random(1).sample(list(itertools.combinations(pairs, 3)), 160)
    corpus = {f"d{n}": Document(f"d{n}", " ".join(a for a, _ in three)) for n, three in enumerate(chosen)}
    queries = {i: Query(i, " ".join(b for _, b in reversed(three))) for i, three in zip(corpus, chosen, strict=True)}
    held_out = {f"d{n}": {f"d{n}": 1} for n in range(40)}
    rows = [Triplet(i, i, ()) for i in corpus if i not in held_out]

    def ndcg(model: Path) -> float:
        index = Dense(corpus, str(model), precision="float32")
        return mean_primary(held_out, index.search({i: queries[i].text for i in held_out}, 10))

    options = OPTIONS | {"batch_size": 24, "epochs": 12, "learning_rate": 1e-2}
    settings = RetrieverSettings(base=str(base), lora=LoraSettings(rank=8, quantized=quantized), **options)
    train_retriever(queries, rows, corpus, settings, tmp_path / "m", 1)
    before, after = ndcg(base), ndcg(tmp_path / "m")
    assert before < 0.1 and after > before + 0.2  # measured: 0.01 and 0.36


def test_adapters_learn_on_layers_of_4_bits_and_what_is_written_computes_as_what_was_trained(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    texts, seen = [d.content for d in CORPUS.values()], {}

    def look(model) -> None:
        layers = [m for m in model.modules() if isinstance(m, NF4Linear)]
        seen["bytes"] = max((m.weight.nbytes / m.in_features / m.out_features for m in layers), default=4)
        seen["trained"] = encode(model, texts, precision="float32")
        assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())
        save_model(model, str(tmp_path / "checkpoint"))  # as checkpoints are written and read
        load_model(model, str(tmp_path / "checkpoint"))
        np.testing.assert_array_equal(encode(model, texts, precision="float32"), seen["trained"])

    whole = _train(base, tmp_path / "whole", look, lora=LoraSettings(rank=4))
    assert seen["bytes"] == 4
    small = _train(base, tmp_path / "small", look, lora=LoraSettings(rank=4, quantized="nf4"))
    assert seen["bytes"] < 0.6
    assert small[0] == pytest.approx(whole[0], abs=0.1) and small[-1] < small[0] / 2  # weights at random, so far apart
    assert {w.dtype for w in load_file(tmp_path / "small/model.safetensors").values()} == {torch.float32}
    written = SentenceTransformer(str(tmp_path / "small"), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(written, seen["trained"], atol=1e-5)


def test_4_bits_without_bitsandbytes_or_sharded_are_refused(base, tmp_path, monkeypatch):
    lora = LoraSettings(rank=4, quantized="nf4")
    monkeypatch.setattr("sharpen.training.optimization.find_spec", lambda name: name != "bitsandbytes")
    with pytest.raises(InputError, match=r"training\.lora\.quantized: needs bitsandbytes; pip install 'sharpen\[qlora"):
        _train(base, tmp_path / "out", lora=lora)
    monkeypatch.undo()
    monkeypatch.setattr("sharpen.training.lora.will_shard", lambda: True)
    with pytest.raises(InputError, match=r"training\.lora\.quantized: layers of 4 bits cannot be sharded"):
        _train(base, tmp_path / "out", lora=lora)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"training\.lora\.quantized: the base has no linear layer"):
        add_adapters(torch.nn.Sequential(torch.nn.Embedding(4, 8)), lora)
    lora = LoraSettings(rank=4, quantized="nf4", targets=("1",))
    model = torch.nn.Sequential(torch.nn.Embedding(1000, 64), torch.nn.Linear(64, 64))
    with pytest.warns(UserWarning, match=r"training\.lora\.quantized: 6% of the base's weights"):
        add_adapters(model, lora)
    assert "quantized" not in LoraSettings(rank=4).fingerprint()  # what was trained before is not trained again
