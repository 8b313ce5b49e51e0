import argparse
import collections
import datetime
import inspect
import random
import statistics
import subprocess
import threading
import unittest

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import BertConfig, BertModel

from evaluation import int8, models
from evaluation.cpu import FusedLinear
from evaluation.int8 import has_int8, int8_linears
from evaluation.kernels import divide
from evaluation.models import encode, has_bf16

pytestmark = pytest.mark.skipif(not (has_int8() and has_bf16("cpu")), reason="no int8 or bf16 instructions")


@pytest.fixture(scope="module")
def texts():
    """Long texts as people write them: the documentation of Python's own modules."""
    documented = {
        inspect.getdoc(getattr(module, name)) or ""
        for module in (argparse, collections, datetime, random, statistics, subprocess, threading, unittest)
        for name in dir(module)
    }
    return sorted(text for text in documented if len(text) > 500)


@pytest.fixture
def minilm_on_cpu():
    return models.load_encoder("packaged:all-MiniLM-L6-v2", device="cpu")


def _by_int8(monkeypatch, model: SentenceTransformer, texts: list[str]) -> tuple[np.ndarray, list[bool]]:
    used = []

    class Watched:
        def __init__(self, *arguments):
            self._inner = int8_linears(*arguments)

        def __enter__(self):
            used.append(self._inner.__enter__())
            return used[-1]

        def __exit__(self, *error):
            return self._inner.__exit__(*error)

    with monkeypatch.context() as patched:
        patched.setattr(models, "ENOUGH_FOR_INT8", 1000)
        patched.setattr(models, "int8_linears", Watched)
        return encode(model, texts), used


def test_vectors_by_int8_are_near_and_the_model_is_as_it_was(monkeypatch, minilm_on_cpu, texts):
    before = {n: vars(m).copy() for n, m in minilm_on_cpu.named_modules()}
    weights = {n: p.clone() for n, p in minilm_on_cpu.named_parameters()}
    parts = []
    monkeypatch.setattr("evaluation.cpu.divide", lambda *given: parts.append(len(given[0])) or divide(*given))
    vectors, used = _by_int8(monkeypatch, minilm_on_cpu, texts)
    assert used == [True] and sum(parts) > 6 * len(texts), "attention of each text in each layer, and of the sample"
    cosine = (vectors * minilm_on_cpu.encode(texts, normalize_embeddings=True)).sum(1)
    assert cosine.mean() >= 0.999 and cosine.min() > 0.997
    assert not np.array_equal(vectors, encode(minilm_on_cpu, texts)), "few texts are encoded in bf16"
    assert np.array_equal(vectors, _by_int8(monkeypatch, minilm_on_cpu, texts)[0])
    assert all(set(vars(m)) == set(before[n]) and not m._forward_pre_hooks and not m._forward_hooks for n, m in minilm_on_cpu.named_modules())
    assert all(torch.equal(p, weights[n]) for n, p in minilm_on_cpu.named_parameters())


def test_where_int8_is_not_near_enough_bf16_is_kept(monkeypatch, minilm_on_cpu, texts):
    monkeypatch.setattr(int8, "LEAST_COSINE", 1.1)
    vectors, used = _by_int8(monkeypatch, minilm_on_cpu, texts)
    assert used == [False] and np.array_equal(vectors, encode(minilm_on_cpu, texts))


def test_int8_can_be_switched_off(monkeypatch, minilm_on_cpu, texts):
    monkeypatch.setenv("SHARPEN_INT8", "0")
    vectors, used = _by_int8(monkeypatch, minilm_on_cpu, texts)
    assert used == [] and np.array_equal(vectors, encode(minilm_on_cpu, texts))


def test_narrow_layers_stay_in_bf16(monkeypatch, texts):
    model = models.load_encoder("packaged:tiny-bert", device="cpu")
    vectors, used = _by_int8(monkeypatch, model, texts)
    assert used == [True], "the two of 512 channels"
    monkeypatch.setattr(int8, "NARROWEST", 1024)
    plain, used = _by_int8(monkeypatch, model, texts)
    assert used == [False] and np.array_equal(plain, encode(model, texts)) and not np.array_equal(plain, vectors)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_token_with_large_inputs_is_as_exact_as_the_others_and_takes_nothing_from_them(gelu, bias):
    torch.manual_seed(0)
    layer = nn.Linear(256, 80, bias=bias)
    nn.init.normal_(layer.weight)
    exact = layer.weight.detach().clone()
    layer = layer.to(torch.bfloat16)
    inputs = torch.randn(4, 50, 256) * torch.rand(256).mul(3).exp()
    outlying = inputs.clone()
    outlying[1, 7] *= 30
    outlying[3, 49] *= -500

    def error(given: torch.Tensor) -> torch.Tensor:
        expected = given @ exact.T + (layer.bias.float() if bias else 0)
        expected = nn.functional.gelu(expected) if gelu else expected
        return (layer(given.bfloat16()).float() - expected).norm(dim=-1) / expected.norm(dim=-1)

    layers = {layer: FusedLinear(layer, gelu)}
    layer.forward = layers[layer]
    given = iter([inputs, inputs, inputs])

    def run(sample: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return layer(next(given).bfloat16()).flatten(0, 1).float()

    with int8_linears(layer, layers, run, ["a text"] * 12) as used, torch.inference_mode():
        assert used
        plain, wide = error(inputs), error(outlying)
    ordinary = torch.ones(4, 50, dtype=torch.bool)
    ordinary[1, 7] = ordinary[3, 49] = False
    assert plain.max() < 0.03
    torch.testing.assert_close(wide[ordinary], plain[ordinary])
    assert wide[~ordinary].max() < 0.01, "by bf16"
    assert layer.forward is layers[layer]


def test_layers_that_are_given_the_same_and_what_comes_after_pooling(monkeypatch):
    """A BERT with a pooling layer, whose inputs are of two dimensions, and query, key and value, which are rounded once."""
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(vocab_size=200, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
    ).eval()
    ids = torch.randint(0, 200, (6, 32))
    with torch.inference_mode():
        expected = model(ids).last_hidden_state
        calls = []

        def counted(name):
            called = getattr(int8, name)

            def call(rows, *arguments):
                calls.append((name, len(rows), name == "normalise_rows" and arguments[0] is not None))
                return called(rows, *arguments)

            return call

        with (
            models.in_bf16(model) as layers,
            int8_linears(
                model, layers, lambda sample: model(ids).last_hidden_state.flatten(0, 1).float(), ["a text"] * 12
            ) as used,
        ):
            assert used
            for name in ("normalise_rows", "round_rows"):
                monkeypatch.setattr(int8, name, counted(name))
            output = model(ids).last_hidden_state.float()
    rows = 6 * 32
    attended = [("round_rows", rows, False), ("normalise_rows", rows, True)]  # what comes out of GELU is rounded by then
    assert calls == [("normalise_rows", rows, False), *attended, ("normalise_rows", rows, True), *attended], "the last one is for pooling"
    assert nn.functional.cosine_similarity(output, expected, dim=-1).mean() > 0.999


@pytest.mark.parametrize("beside", ["", "narrow", "wide"])
def test_what_gelu_gives_to_the_next_layer_is_handed_on_in_int8(monkeypatch, beside):
    """A token whose outputs of GELU do not fit, and one whose inputs do not, go through both layers in bf16. Outputs of GELU
    stay in bf16 where the next layer is at times given something else (``narrow``), or the layer that they come out of is at
    times given what another one was given before it (``wide``)."""
    torch.manual_seed(0)
    wide, narrow = nn.Linear(256, 512), nn.Linear(512, 256)
    nn.init.normal_(wide.weight, std=1 / 16)
    exact = [p.detach().clone() for layer in (wide, narrow) for p in (layer.weight, layer.bias)]
    wide, narrow = wide.to(torch.bfloat16), narrow.to(torch.bfloat16)
    inputs = torch.randn(4, 50, 256)
    outlying = inputs.clone()
    outlying[1, 7] = 40 * exact[0][3] / exact[0][3].norm()  # large for one channel after GELU
    outlying[3, 49, 5] = 1000.0

    def by(given: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(nn.functional.gelu(nn.functional.linear(given, *exact[:2])), *exact[2:])

    other = nn.Linear(256, 8).to(torch.bfloat16)
    layers = {layer: FusedLinear(layer, layer is wide) for layer in (wide, narrow, other)}
    for layer in layers:
        layer.forward = layers[layer]
    runs, types = iter(range(10)), []

    def run(given: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            hidden = wide(given.bfloat16())
            types.append(hidden.dtype)
            return narrow(hidden).float()

    def sample(texts: list[str]) -> torch.Tensor:
        if beside and next(runs) == 0:
            given = inputs.bfloat16()
            with torch.inference_mode():
                if beside == "narrow":
                    narrow(torch.randn(4, 50, 512).bfloat16())
                else:
                    other(given)
                    narrow(wide(given))
        return run(inputs).flatten(0, 1)

    with int8_linears(nn.ModuleList(layers), layers, sample, ["a text"] * 12) as used:
        assert used
        output = run(outlying)
    assert types[-1] == (torch.bfloat16 if beside else torch.uint8) and types[0] == torch.bfloat16
    error = (output - by(outlying)).norm(dim=-1) / by(outlying).norm(dim=-1)
    assert error.max() < 0.05 and error[1, 7] < 0.01 and error[3, 49] < 0.01
    assert all(layer.forward is layers[layer] for layer in layers)


class PreNormed(nn.Module):
    """As ModernBERT's blocks: normalised before, without a bias, and the sum is not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(256, bias=False), nn.Linear(256, 512), nn.Linear(512, 256)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.narrow(nn.functional.gelu(self.wide(self.norm(hidden))))


class SelfOutput(nn.Module):
    """Looks like BERT's block, and leaves the norm to others, as XMOD's does."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = nn.Linear(256, 256), nn.LayerNorm(256), nn.Dropout(0.1)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        return self.dense(hidden_states) + input_tensor


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = PreNormed(), SelfOutput(), nn.Linear(256, 64)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.first(hidden)
        return self.last(self.block.LayerNorm(self.block(hidden, hidden)))


def test_blocks_that_normalise_elsewhere():
    torch.manual_seed(0)
    model = Blocks().eval()
    hidden = torch.randn(6, 40, 256)
    with torch.inference_mode():
        expected = model(hidden).flatten(0, 1)
    before = {n: set(vars(m)) for n, m in model.named_modules()}

    def run(sample: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return model(hidden.bfloat16()).flatten(0, 1).float()

    with models.in_bf16(model) as layers, int8_linears(model, layers, run, ["a text"] * 12) as used:
        assert used and "forward" not in vars(model.block)
        assert {type(m.forward).__name__ for m in (model.first.norm, model.block.LayerNorm)} == {"_Normalised"}
        output = run([])
    assert nn.functional.cosine_similarity(output, expected).min() > 0.998
    with pytest.raises(ValueError), models.in_bf16(model) as layers, int8_linears(model, layers, run, ["a text"] * 12):
        raise ValueError
    assert all(set(vars(m)) == before[n] and not m._forward_hooks for n, m in model.named_modules())


def test_padding_is_taken_from_the_longest_text_and_batches_hold_all_texts():
    features = {
        "input_ids": torch.tensor([[5, 6, 7, 0, 0], [8, 0, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]),
    }
    assert models._without_padding(features)["input_ids"].tolist() == [[5, 6, 7, 5, 6], [8, 6, 7, 5, 6]]
    empty = {"input_ids": torch.zeros(1, 2, dtype=torch.long), "attention_mask": torch.zeros(1, 2)}
    assert models._without_padding(empty)["input_ids"].tolist() == [[0, 0]]
    model = models.load_encoder("packaged:tiny-bert", device="cpu")
    lengths = [512, 500, 500] + [100] * 50 + [3] * 700 + [0]
    batches = models._batches(model, lengths, None)
    assert [i for batch in batches for i in batch] == list(range(len(lengths)))
    assert len(batches[0]) == 8 and max(map(len, batches)) == len(lengths) // models.SHARES
    assert len({len(batch) for batch in batches if lengths[batch[0]] == 100}) == 1
    assert max(map(len, models._batches(model, lengths * 10, None))) == 256
    assert models._batches(model, [], None) == [] and [len(b) for b in models._batches(model, lengths[:7], 3)] == [
        3,
        3,
        1,
    ]
