from contextlib import nullcontext

import pytest
import torch
from torch import nn

from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.training.fast_cpu.linears import fused_bias, gathered_lookups


class Texts(nn.Module):
    """Two layers that are given the same, and one that has no bias, over embeddings."""

    def __init__(self):
        super().__init__()
        self.words, self.kinds = nn.Embedding(50, 32, padding_idx=0), nn.Embedding(2, 32)
        self.query, self.key, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 16, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        given = self.words(ids) + self.kinds(ids % 2)
        return self.last(torch.tanh(self.query(given) * self.key(given)))


def _gradients(model: nn.Module, context, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Of two calls, one of them with rows that the other has, too."""
    model.zero_grad()
    ids = [torch.tensor([[3, 4, 4, 0], [7, 49, 0, 0]]), torch.tensor([[3, 1, 2]])]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None), context(model):
        outputs = [model(each) for each in ids]
        assert {output.dtype for output in outputs} == {dtype or torch.float32}
    sum(output.float().square().sum() for output in outputs).backward()
    assert all(set(vars(m)) == set(vars(type(m)(1, 1))) for m in (model.words, model.query))
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradients_of_embeddings_that_are_gathered_are_torchs(monkeypatch):
    monkeypatch.setattr("sharpen.training.fast_cpu.linears.LARGE_EMBEDDING", 50)
    torch.manual_seed(0)
    model = Texts()
    expected = _gradients(model, lambda _: nullcontext(), None)
    actual = _gradients(model, gathered_lookups, None)
    assert (
        actual["words.weight"].layout == torch.strided
        and not actual["words.weight"][0].any()
        and actual["words.weight"][3].any()
    )
    with gathered_lookups(model):
        assert "forward" in vars(model.words) and "forward" not in vars(model.kinds)
        model.gradient_checkpointing = True
        del model.words.forward
        with gathered_lookups(model):
            assert "forward" not in vars(model.words)
        model.gradient_checkpointing = False
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient)
    model.words.weight.requires_grad = False
    assert _gradients(model, gathered_lookups, None)["words.weight"] is None


@pytest.mark.skipif(not has_bf16("cpu"), reason="no bf16 instructions")
def test_linear_layers_in_training_are_as_exact_as_torchs():
    torch.manual_seed(0)
    model = Texts()
    exact = _gradients(model, lambda _: nullcontext(), None)
    plain = _gradients(model, lambda _: nullcontext(), torch.bfloat16)
    actual = _gradients(model, fused_bias, torch.bfloat16)
    for name, gradient in exact.items():
        error, plain_error = (((g[name] - gradient).norm() / gradient.norm()).item() for g in (actual, plain))
        assert actual[name].dtype == torch.float32 and error < max(1.5 * plain_error, 0.01), name
    assert torch.equal(_gradients(model, fused_bias, None)["query.weight"], exact["query.weight"])  # float32 stays
    model.query.weight.requires_grad = False
    assert _gradients(model, fused_bias, torch.bfloat16)["query.weight"] is None
