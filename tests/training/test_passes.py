from contextlib import contextmanager

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn

from evaluation.models import load_encoder
from training.losses import make_loss
from training.passes import Passes, _deal
from training.settings import LossSettings
from training.trainer import set_dropout

COLUMNS = [["a", "two words", "now three words", "x " * 50], ["b " * n for n in (90, 1, 7, 30)], ["c " * n for n in (2, 60, 5, 4)]]


@contextmanager
def cores(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(dropout: float | None = None):
    model = load_encoder("packaged:tiny-bert").train()
    set_dropout(model, dropout)
    return model


def _features(model, prompt: str = "") -> list[dict]:
    return [model.preprocess(texts, prompt=prompt if n == 0 else None) for n, texts in enumerate(COLUMNS)]


def _gradients(model) -> torch.Tensor:
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()])


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setattr("training.passes.autocast", lambda device: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr("training.passes.CPU_ROWS", 3)


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


def test_copies_follow_the_weights_and_the_dropout_of_any_number_of_cores(float32):
    found = []
    for number in (1, 2, 2):
        model, passes = _trained(0.2), Passes()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(7)
        with cores(number):
            for _ in range(3):
                embedded = passes.embed(model, _features(model))
                optimizer.zero_grad()
                torch.cat(embedded).square().mean(0).sum().backward()
                optimizer.step()
        found.append(torch.cat(embedded).detach())
    assert torch.equal(found[1], found[2])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


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


def test_one_thread_has_a_model_whose_random_numbers_are_everybodys():
    embedded = []
    for _ in range(2):
        model, passes = _trained(), Passes()
        model.insert(1, Noisy())
        torch.manual_seed(1)
        with cores(2):
            embedded.append(torch.cat(passes.embed(model, _features(model))))
        assert passes._copies is None
    assert torch.equal(*embedded)


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
        assert torch.get_num_threads() == 2


def test_every_pass_is_dealt_once_and_the_threads_end_together():
    costs = [90, 80, 70, 60, 50, 40, 30, 20, 10]
    dealt = _deal(costs, 2)
    assert sorted(dealt[0] + dealt[1]) == list(range(9))
    assert abs(sum(costs[i] for i in dealt[0]) - sum(costs[i] for i in dealt[1])) <= 10
    assert _deal([5], 3) == [[0], [], []]
