from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn

from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.training.fast_cpu import prepared
from sharpen.training.fast_cpu.replicas import assign, number_of_replicas
from sharpen.training.losses import make_loss
from sharpen.training.micro_batches import MicroBatches
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import set_dropout
from tests.conftest import cores
from tests.training.support import features_of


@pytest.fixture
def make_model():
    """A model as it is in training."""
    with ExitStack() as stack:

        def make(dropout: float | None = None):
            model = load_encoder("packaged:tiny-bert", device="cpu").train()
            set_dropout(model, dropout)
            stack.enter_context(prepared(model))
            return model

        yield make


@pytest.fixture
def three_rows(monkeypatch):
    monkeypatch.setattr("sharpen.training.micro_batches.CPU_ROWS", 3)


def _gradients(model) -> torch.Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_replicas_change_neither_loss_nor_gradient(three_rows, make_model, number, prompt):
    results = []
    for batched in (False, True):
        model = make_model(0.0)
        loss = (
            make_loss(RetrieverSettings(base="packaged:tiny-bert", precision="float32"), model, None, 1)
            if batched
            else MultipleNegativesRankingLoss(model)
        )
        with cores(number):
            for _ in range(2):  # gradients add up
                value = loss(features_of(model, prompt), None)
                value.backward()
        assert not batched or bool(loss._micro_batches._replicas._replicas) == (number > 1)
        results.append((value.item(), _gradients(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def _train(make_model, number: int, dropout: float) -> torch.Tensor:
    model, batches = make_model(dropout), MicroBatches("float32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(7)
    with cores(number):
        for _ in range(3):
            embedded = torch.cat(batches.embed(model, features_of(model)))
            optimizer.zero_grad()
            embedded.square().mean(0).sum().backward()
            optimizer.step()
    assert bool(batches._replicas._replicas) == (number > 1)
    return embedded.detach()


def test_replicas_follow_the_weights_and_have_the_dropout_of_their_micro_batches(three_rows, make_model):
    alone, *others = (
        _train(make_model, number, 0.2) for number in (1, 2, 2)
    )  # three rows a micro-batch in both, and so the same ones
    assert torch.equal(*others)
    torch.testing.assert_close(alone, others[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, _train(make_model, 1, 0.0), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not has_bf16("cpu"), reason="no bf16 instructions")
def test_gradients_in_bf16_with_dropout_are_those_of_float32(three_rows, make_model):
    """As training computes: attention compiled on each core, against torch's own steps one after the other."""
    gradients = []
    for number, precision in ((2, "bf16"), (1, "float32")):
        model, batches = make_model(0.1), MicroBatches(precision)
        torch.manual_seed(7)
        with cores(number):
            torch.nn.functional.normalize(torch.cat(batches.embed(model, features_of(model)))).matmul(
                torch.linspace(-1, 1, 128)
            ).sum().backward()
        gradients.append(_gradients(model))
    assert ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item() < 0.05


def test_weights_that_were_replaced_are_noticed(three_rows, make_model):
    model, batches = make_model(0.0), MicroBatches("float32")
    with cores(2):
        batches.embed(model, features_of(model))
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.5
        again = batches.embed(model, features_of(model))
        alone = MicroBatches("float32").embed(model.eval(), features_of(model))
    torch.testing.assert_close(torch.cat(again), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_only_what_is_trained_has_gradients(three_rows, make_model):
    model, batches = make_model(), MicroBatches("float32")
    frozen = model[0].auto_model.embeddings.requires_grad_(False)
    with cores(2):
        torch.cat(batches.embed(model, features_of(model))).sum().backward()
    assert batches._replicas._replicas and all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model[0].auto_model.encoder.parameters())
    assert all(p.grad is None for p in model[0].auto_model.pooler.parameters()), "nothing comes from there"


class Noisy(nn.Module):
    """Draws from the generator that all threads share."""

    def forward(self, features):
        return features | {"token_embeddings": nn.functional.dropout(features["token_embeddings"], 0.1)}


class Counting(nn.Module):
    """Keeps something of what went through it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features):
        self.calls += 1
        return features


class Patched(nn.Module):
    def __init__(self):
        super().__init__()
        self.forward = lambda features: features


@pytest.mark.parametrize("kind", [Noisy, Counting, Patched])
def test_a_model_with_shared_state_has_one_thread(make_model, kind):
    embedded = []
    for _ in range(2):
        model, batches = make_model(), MicroBatches("float32")
        model.insert(1, kind())
        torch.manual_seed(1)
        with cores(2):
            embedded.append(torch.cat(batches.embed(model, features_of(model))))
        assert batches._replicas._replicas is None
    assert torch.equal(*embedded)


@pytest.mark.parametrize(
    ("cores_", "bytes_", "replicas"),
    [(1, 10, 1), (2, 10, 2), (16, 10, 16), (40, 10, 13), (8, 2**30, 4), (2, 5 * 2**30, 1)],
)
def test_replicas_are_few_where_they_would_take_much_memory(monkeypatch, cores_, bytes_, replicas):
    monkeypatch.setattr("torch.get_num_threads", lambda: cores_)
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(bytes_ // 5, device="meta"))
    assert number_of_replicas(model) == replicas


def test_backward_is_possible_once_and_what_failed_leaves_nothing(three_rows, make_model):
    model, batches = make_model(0.0), MicroBatches("float32")
    with cores(2):
        first = torch.cat(batches.embed(model, features_of(model))).sum()
        first.backward(retain_graph=True)
        expected = _gradients(model)
        with pytest.raises(RuntimeError, match="once only"):
            first.backward()
        model.zero_grad()
        second = torch.cat(batches.embed(model, features_of(model))).sum()
        broken = (
            batches._replicas._replicas._models[1][0]
            .auto_model.encoder.layer[0]
            .output.dense.weight.register_hook(lambda gradient: 1 / 0)
        )
        with pytest.raises(ZeroDivisionError):
            second.backward()
        broken.remove()
        torch.cat(batches.embed(model, features_of(model))).sum().backward()
    torch.testing.assert_close(_gradients(model), expected, rtol=1e-4, atol=1e-5)


def test_what_is_recomputed_in_backward_has_torchs_random_numbers(make_model):
    model, batches = make_model(), MicroBatches("float32")
    model[0].auto_model.gradient_checkpointing_enable({"use_reentrant": False})
    before = torch.get_rng_state()
    with cores(2):
        torch.cat(batches.embed(model, features_of(model))).sum().backward()
    assert batches._replicas._replicas is None and not torch.equal(before, torch.get_rng_state())


def test_an_error_in_a_thread_is_raised_and_all_cores_are_there_again(three_rows, make_model):
    model, batches = make_model(), MicroBatches("float32")
    with cores(2):
        features = features_of(model)
        batches.embed(model, features)
        assert batches._replicas._replicas
        features[0]["input_ids"] = features[0]["input_ids"] + 10**6
        with pytest.raises(IndexError, match="out of range"):
            batches.embed(model, features)
        with ThreadPoolExecutor(1) as pool:  # one that starts later takes the number that was set last
            assert pool.submit(torch.get_num_threads).result() == 2


def test_every_micro_batch_is_assigned_once_and_the_replicas_end_together():
    costs = [90, 80, 70, 60, 50, 40, 30, 20, 10]
    assigned = assign(costs, 2)
    assert sorted(assigned[0] + assigned[1]) == list(range(9))
    assert abs(sum(costs[i] for i in assigned[0]) - sum(costs[i] for i in assigned[1])) <= 10
    assert assign([5], 3) == [[0], [], []]
