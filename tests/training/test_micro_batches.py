"""Micro-batches in plain torch; with the optional folder ``fast_cpu``, replicas are tested in its own tests."""

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from sharpen.evaluation.encoders.load import load_encoder
from sharpen.training.losses import make_loss
from sharpen.training.micro_batches import WIDTH_STEP, MicroBatches
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import set_dropout
from tests.training.support import COLUMNS, features_of


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """As if the optional folder were not there, and three rows a micro-batch."""
    monkeypatch.setattr("sharpen.training.micro_batches.Replicas", None)
    monkeypatch.setattr("sharpen.training.micro_batches.CPU_ROWS", 3)


@pytest.fixture
def model():
    model = load_encoder("packaged:tiny-bert", device="cpu").train()
    set_dropout(model, 0.0)
    return model


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_micro_batches_change_neither_loss_nor_gradient(model, prompt):
    settings = RetrieverSettings(base="packaged:tiny-bert", precision="float32")
    results = []
    for loss in (MultipleNegativesRankingLoss(model), make_loss(settings, model, None, 1)):
        model.zero_grad()
        value = loss(features_of(model, prompt), None)
        value.backward()
        gradients = [torch.zeros(1) if p.grad is None else p.grad.flatten() for p in model.parameters()]
        results.append((value.item(), torch.cat(gradients)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_texts_of_similar_length_go_together_and_come_back_in_their_order(model, monkeypatch):
    shapes = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, f: shapes.append(tuple(f["input_ids"].shape)) or forward(self, f)
    )
    columns = MicroBatches("float32").embed(model, features_of(model))
    assert [rows for rows, _ in shapes] == [3] * 4
    widths = [width for _, width in shapes]
    assert (
        widths == sorted(widths, reverse=True) and widths[-1] == WIDTH_STEP and not any(w % WIDTH_STEP for w in widths)
    )
    alone = [[model(model.preprocess([text]))["sentence_embedding"][0] for text in texts] for texts in COLUMNS]
    for column, expected in zip(columns, alone, strict=True):
        torch.testing.assert_close(column, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_columns_with_prompts_are_not_mixed_with_others(model, monkeypatch):
    rows = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, f: rows.append(len(f["input_ids"])) or forward(self, f))
    features = features_of(model)
    features[0]["prompt_length"] = 2
    MicroBatches("float32").embed(model, features)
    assert rows == [3, 1, 3, 3, 2]
