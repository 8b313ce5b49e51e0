from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.training.losses import make_loss
from sharpen.training.micro_batches import Passes, _deal, _number_of_copies
from sharpen.training.settings import LossSettings
from sharpen.training.trainer import set_dropout
from torch import nn

from tests.conftest import cores

COLUMNS = [
    ["a", "two words", "now three words", "x " * 50],
    ["b " * n for n in (90, 1, 7, 30)],
    ["c " * n for n in (2, 60, 5, 4)],
]


def _trained(dropout: float | None = None):
    model = load_encoder("packaged:tiny-bert").train()
    set_dropout(model, dropout)
    return model


def _features(model, prompt: str = "") -> list[dict]:
    return [model.preprocess(texts, prompt=prompt if n == 0 else None) for n, texts in enumerate(COLUMNS)]


def _gradients(model) -> torch.Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setattr("sharpen.training.micro_batches.autocast", lambda device: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr("sharpen.training.micro_batches.CPU_ROWS", 3)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_passes_change_neither_loss_nor_gradient(float32, number, prompt):
    results = []
    for ours in (False, True):
        model = _trained(0.0)
        loss = make_loss(LossSettings(), model, None, 1) if ours else MultipleNegativesRankingLoss(model)
        with cores(number):
            for _ in range(2):  # gradients add up
                value = loss(_features(model, prompt), None)
                value.backward()
        assert not ours or bool(loss._passes._copies) == (number > 1)
        results.append((value.item(), _gradients(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def _train(number: int, dropout: float) -> torch.Tensor:
    model, passes = _trained(dropout), Passes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(7)
    with cores(number):
        for _ in range(3):
            embedded = torch.cat(passes.embed(model, _features(model)))
            optimizer.zero_grad()
            embedded.square().mean(0).sum().backward()
            optimizer.step()
    assert bool(passes._copies) == (number > 1)
    return embedded.detach()


def test_copies_follow_the_weights_and_have_the_dropout_of_their_passes(float32):
    alone, *others = (_train(number, 0.2) for number in (1, 2, 2))  # three rows a pass in both, and so the same passes
    assert torch.equal(*others)
    torch.testing.assert_close(alone, others[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, _train(1, 0.0), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not has_bf16("cpu"), reason="no bf16 instructions")
def test_gradients_in_bf16_with_dropout_are_those_of_float32(monkeypatch):
    """As training computes: attention compiled on each core, against torch's own steps one after the other."""
    monkeypatch.setattr("sharpen.training.micro_batches.CPU_ROWS", 3)
    found = []
    for number, narrow in ((2, True), (1, False)):
        monkeypatch.setattr(
            "sharpen.training.micro_batches.autocast",
            lambda device, on=narrow: torch.autocast("cpu", torch.bfloat16, enabled=on),
        )
        model, passes = _trained(0.1), Passes()
        torch.manual_seed(7)
        with cores(number):
            torch.nn.functional.normalize(torch.cat(passes.embed(model, _features(model)))).matmul(
                torch.linspace(-1, 1, 128)
            ).sum().backward()
        found.append(_gradients(model))
    assert ((found[0] - found[1]).norm() / found[1].norm()).item() < 0.05


def test_weights_that_were_put_elsewhere_are_found_again(float32):
    model, passes = _trained(0.0), Passes()
    with cores(2):
        passes.embed(model, _features(model))
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.5
        found = passes.embed(model, _features(model))
        alone = Passes().embed(model.eval(), _features(model))
    torch.testing.assert_close(torch.cat(found), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_only_what_is_trained_has_gradients(float32):
    model, passes = _trained(), Passes()
    frozen = model[0].auto_model.embeddings.requires_grad_(False)
    with cores(2):
        torch.cat(passes.embed(model, _features(model))).sum().backward()
    assert passes._copies and all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model[0].auto_model.encoder.parameters())
    assert all(p.grad is None for p in model[0].auto_model.pooler.parameters()), "nothing comes from there"


class Noisy(nn.Module):
    """Draws from the random numbers that all threads share."""

    def forward(self, features):
        return features | {"token_embeddings": nn.functional.dropout(features["token_embeddings"], 0.1)}


class Counting(nn.Module):
    """Keeps something of what went through it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features):
        self.seen += 1
        return features


class Patched(nn.Module):
    def __init__(self):
        super().__init__()
        self.forward = lambda features: features


@pytest.mark.parametrize("kind", [Noisy, Counting, Patched])
def test_one_thread_has_a_model_that_has_more_than_weights(kind):
    embedded = []
    for _ in range(2):
        model, passes = _trained(), Passes()
        model.insert(1, kind())
        torch.manual_seed(1)
        with cores(2):
            embedded.append(torch.cat(passes.embed(model, _features(model))))
        assert passes._copies is None
    assert torch.equal(*embedded)


@pytest.mark.parametrize(
    ("cores_", "bytes_", "copies"),
    [(1, 10, 1), (2, 10, 2), (16, 10, 16), (40, 10, 13), (8, 2**30, 4), (2, 5 * 2**30, 1)],
)
def test_copies_are_few_where_they_would_take_much_memory(monkeypatch, cores_, bytes_, copies):
    monkeypatch.setattr("torch.get_num_threads", lambda: cores_)
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(bytes_ // 5, device="meta"))
    assert _number_of_copies(model) == copies


def test_the_way_back_is_gone_once_and_what_failed_leaves_nothing(float32):
    model, passes = _trained(0.0), Passes()
    with cores(2):
        first = torch.cat(passes.embed(model, _features(model))).sum()
        first.backward(retain_graph=True)
        expected = _gradients(model)
        with pytest.raises(RuntimeError, match="once only"):
            first.backward()
        model.zero_grad()
        second = torch.cat(passes.embed(model, _features(model))).sum()
        broken = (
            passes._copies._models[1][0]
            .auto_model.encoder.layer[0]
            .output.dense.weight.register_hook(lambda gradient: 1 / 0)
        )
        with pytest.raises(ZeroDivisionError):
            second.backward()
        broken.remove()
        torch.cat(passes.embed(model, _features(model))).sum().backward()
    torch.testing.assert_close(_gradients(model), expected, rtol=1e-4, atol=1e-5)


def test_what_computes_again_on_the_way_back_has_torchs_random_numbers():
    model, passes = _trained(), Passes()
    model[0].auto_model.gradient_checkpointing_enable({"use_reentrant": False})
    before = torch.get_rng_state()
    with cores(2):
        torch.cat(passes.embed(model, _features(model))).sum().backward()
    assert passes._copies is None and not torch.equal(before, torch.get_rng_state())


def test_an_error_in_a_thread_is_told_and_the_cores_are_all_there_again(float32):
    model, passes = _trained(), Passes()
    with cores(2):
        features = _features(model)
        passes.embed(model, features)
        assert passes._copies
        features[0]["input_ids"] = features[0]["input_ids"] + 10**6
        with pytest.raises(IndexError, match="out of range"):
            passes.embed(model, features)
        with ThreadPoolExecutor(1) as pool:  # one that starts later takes the number that was set last
            assert pool.submit(torch.get_num_threads).result() == 2


def test_every_pass_is_dealt_once_and_the_threads_end_together():
    costs = [90, 80, 70, 60, 50, 40, 30, 20, 10]
    dealt = _deal(costs, 2)
    assert sorted(dealt[0] + dealt[1]) == list(range(9))
    assert abs(sum(costs[i] for i in dealt[0]) - sum(costs[i] for i in dealt[1])) <= 10
    assert _deal([5], 3) == [[0], [], []]
