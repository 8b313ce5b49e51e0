from contextlib import nullcontext

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.training.fast_cpu.kernels import divide, softmax_backward_
from sharpen.training.fast_cpu.layers import (
    NAME,
    CPUDropout,
    attend,
    drawing,
    fused_linears,
    gathered_lookups,
    trained_linears,
)
from torch import nn
from transformers import DistilBertConfig, DistilBertModel
from transformers.activations import GELUActivation

from tests.conftest import cores


class Layer(nn.Module):
    is_causal = False


def _inputs(dtype: torch.dtype, tokens: int = 20) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = [
        torch.randn(3, tokens, 4, 8, dtype=dtype, generator=generator).transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]
    mask = torch.rand(3, 1, tokens, tokens, generator=generator) > 0.3
    mask[..., 0] = True
    return tensors, mask


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_attention_is_torchs_forward_and_backward(monkeypatch, at_once):
    monkeypatch.setattr("sharpen.training.fast_cpu.layers.AT_ONCE", at_once)
    tensors, mask = _inputs(torch.float64, tokens=7)
    expected = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(attend(Layer(), *tensors, mask)[0], expected)
    assert torch.autograd.gradcheck(lambda *t: attend(Layer(), *t, mask)[0], tensors)
    torch.testing.assert_close(
        attend(Layer(), *tensors, None)[0], nn.functional.scaled_dot_product_attention(*tensors).transpose(1, 2)
    )


def test_dropout_within_attention_goes_back_the_way_it_came():
    tensors, mask = _inputs(torch.float64, tokens=7)

    def dropped(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return attend(Layer(), *inputs, mask, dropout=0.3)[0]

    assert torch.autograd.gradcheck(dropped, tensors)
    torch.testing.assert_close(dropped(*tensors), dropped(*tensors), rtol=0, atol=0)
    mean = torch.stack([attend(Layer(), *tensors, mask, dropout=0.3)[0].detach() for _ in range(1500)]).mean(0)
    expected = attend(Layer(), *tensors, mask)[0].detach()
    assert (mean - expected).abs().max() < 0.15 < expected.abs().max() / 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_masks_may_differ_between_heads(dtype):
    tensors, _ = _inputs(dtype)
    tensors, seen = (
        [t.detach() for t in tensors],
        torch.rand(3, 4, 1, 20, generator=torch.Generator().manual_seed(0)) > 0.5,
    )
    expected = nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors], attn_mask=seen).transpose(
        1, 2
    )
    with torch.inference_mode():
        torch.testing.assert_close(attend(Layer(), *tensors, seen)[0].double(), expected, rtol=0.02, atol=0.02)


def test_what_is_more_than_plain_attention_is_left_to_torch():
    tensors, mask = _inputs(torch.bfloat16)
    causal = Layer()
    causal.is_causal = True
    expected = nn.functional.scaled_dot_product_attention(*tensors, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(attend(causal, *tensors, None)[0], expected)
    bias = torch.randn(1, 4, 20, 20, dtype=torch.bfloat16)  # as T5's positions
    whole = bias.expand(3, -1, -1, -1).masked_fill(~mask, -torch.inf)
    expected = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=whole).transpose(1, 2)
    torch.testing.assert_close(attend(Layer(), *tensors, mask, position_bias=bias)[0], expected, rtol=0.02, atol=0.02)


def test_a_mask_of_padding_is_the_same_for_all_tokens_of_a_text():
    tensors, _ = _inputs(torch.float64)
    padding = torch.arange(20) < torch.tensor([20, 12, 5])[:, None]
    seen = padding[:, None, None].expand(3, 1, 20, 20)
    expected = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=seen).transpose(1, 2)
    torch.testing.assert_close(attend(Layer(), *tensors, seen)[0], expected)
    torch.testing.assert_close(attend(Layer(), *tensors, seen[1:2])[0][1], expected[1])


@pytest.fixture
def one_core():
    with cores(1):
        yield


@pytest.fixture(params=[True, False])
def fused(request, monkeypatch, one_core):
    """Whether what lies between the products is compiled, and asserts that it was used."""
    monkeypatch.setattr("sharpen.training.fast_cpu.layers.COMPILED", request.param)
    used = []
    monkeypatch.setattr("sharpen.training.fast_cpu.layers.divide", lambda *given: used.append(1) or divide(*given))
    yield request.param
    assert bool(used) == request.param


def _padded(dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    tensors, _ = _inputs(dtype)
    padding = torch.arange(20) < torch.tensor([20, 12, 5])[:, None]
    seen = padding[:, None, None].expand(3, 1, 20, 20).clone()  # each token's own, as transformers hands it over
    tensors = [t.detach() for t in tensors]
    return (
        tensors,
        seen,
        nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors], attn_mask=seen).transpose(1, 2),
    )


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_attention_without_a_way_back_is_torchs(monkeypatch, fused, at_once):
    _check_without_a_way_back(monkeypatch, at_once, torch.bfloat16, 0.02)


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_attention_without_a_way_back_is_torchs_in_float64(monkeypatch, at_once):
    _check_without_a_way_back(monkeypatch, at_once, torch.float64, 1e-6)


def _check_without_a_way_back(monkeypatch, at_once: int, dtype: torch.dtype, near: float) -> None:
    monkeypatch.setattr("sharpen.training.fast_cpu.layers.AT_ONCE", at_once)
    tensors, seen, expected = _padded(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(attend(Layer(), *tensors, seen)[0].double(), expected, rtol=near, atol=near)
        torch.testing.assert_close(
            attend(Layer(), *tensors, seen[1:2])[0][1].double(), expected[1], rtol=near, atol=near
        )
        unmasked = nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors]).transpose(1, 2)
        torch.testing.assert_close(attend(Layer(), *tensors, None)[0].double(), unmasked, rtol=near, atol=near)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("at_once", [1, 10**6])
@pytest.mark.parametrize("where", ["all", "padding"])
def test_compiled_attention_goes_back_as_what_is_not_compiled_does(monkeypatch, one_core, dropout, at_once, where):
    """In bf16 and in float64, which is not compiled and of which other tests say that it goes back the right way."""
    monkeypatch.setattr("sharpen.training.fast_cpu.layers.AT_ONCE", at_once)
    tensors, seen, _ = _padded(torch.bfloat16)
    seen = seen if where == "padding" else None
    upstream = torch.randn(3, 20, 4, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    used, results = [], []
    monkeypatch.setattr(
        "sharpen.training.fast_cpu.layers.softmax_backward_", lambda *given: used.append(1) or softmax_backward_(*given)
    )
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [t.detach().to(dtype).requires_grad_() for t in tensors]
        torch.manual_seed(3)
        output = attend(Layer(), *inputs, seen, dropout=dropout)[0]
        output.backward(upstream.to(dtype))
        results.append([output, *(t.grad for t in inputs)])
    assert len(used) == (3 if at_once == 1 else 1)
    for found, expected in zip(*results, strict=True):
        assert found.dtype == torch.bfloat16
        assert ((found.double() - expected).norm() / expected.norm()).item() < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_texts_that_are_alike_lose_different_weights_and_the_same_whatever_is_taken_together(
    monkeypatch, one_core, dtype
):
    tensors, _ = _inputs(dtype)
    tensors = [t.detach()[:1].expand(3, -1, -1, -1) for t in tensors]
    outputs = []
    for at_once in (1, 10**6):
        monkeypatch.setattr("sharpen.training.fast_cpu.layers.AT_ONCE", at_once)
        torch.manual_seed(3)
        outputs.append(attend(Layer(), *tensors, None, dropout=0.3)[0])
    torch.testing.assert_close(*outputs)
    assert not torch.allclose(outputs[0][0], outputs[0][1], atol=0.05) and not torch.allclose(
        outputs[0][1], outputs[0][2], atol=0.05
    )


@pytest.mark.parametrize("scale", [1e3, -1e3])  # exponentials that would be infinite, or all of them nothing
@pytest.mark.parametrize("where", ["everywhere", "padding"])
def test_scores_beyond_the_range_of_the_type(fused, scale, where):
    tensors, seen, _ = _padded(torch.bfloat16)
    tensors[0] = tensors[0].abs()
    tensors[1] = tensors[1].abs()
    if where == "everywhere":
        tensors[1] *= scale
    else:
        tensors[1][2, :, 5:] *= scale
    expected = nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors], attn_mask=seen).transpose(
        1, 2
    )
    with torch.inference_mode():
        actual = attend(Layer(), *tensors, seen)[0].double()
    assert actual.isfinite().all()
    if where == "padding":
        torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)
    else:  # one token has nearly all of the weight, and which one of near ones is a matter of rounding
        assert (actual - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_a_text_of_padding_alone_takes_nothing_from_the_others(fused):
    tensors, seen, expected = _padded(torch.bfloat16)
    seen[1] = False
    with torch.inference_mode():
        found = attend(Layer(), *tensors, seen)[0].double()
    torch.testing.assert_close(found[::2], expected[::2], rtol=0.02, atol=0.02)
    assert found[1].isfinite().all()


@pytest.mark.skipif(not has_bf16("cpu"), reason="no bf16 instructions")
@pytest.mark.parametrize("name", ["packaged:tiny-bert", "distilbert"])
def test_fused_linears_give_what_the_layers_give_and_leave_them_as_they_were(name):
    if name == "distilbert":
        torch.manual_seed(0)
        model = DistilBertModel(DistilBertConfig(vocab_size=100, dim=32, hidden_dim=64, n_heads=4, n_layers=2))
    else:
        model = load_encoder(name, device="cpu")[0].auto_model
    model = model.eval().to(torch.bfloat16)
    ids = torch.arange(1, 25).view(2, 12)
    before = {n: vars(m).copy() for n, m in model.named_modules()}
    with torch.inference_mode():
        plain = model(ids).last_hidden_state
        products, activations = [], 0
        with fused_linears(model):
            for module in model.modules():
                if isinstance(module, nn.GELU | GELUActivation):
                    activations += 1
                    assert torch.equal(module(plain), plain), "GELU is taken within the product"
                elif isinstance(module, nn.Linear):
                    products.append("forward" in vars(module))
            fused = model(ids).last_hidden_state
    assert products and all(products) and activations == 2
    exact = model.float()(ids).last_hidden_state.detach()
    assert (fused - exact).abs().mean() <= 1.1 * (plain - exact).abs().mean()
    assert all(set(vars(m)) == set(before[n]) for n, m in model.named_modules())


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropout, ones = CPUDropout(0.25), torch.ones(1000, 1001, requires_grad=True)
    torch.manual_seed(1)
    first = dropout(ones)
    assert float((first == 0).double().mean()) == pytest.approx(0.25, abs=2e-3) and float(
        first.detach().mean()
    ) == pytest.approx(1, abs=2e-3)
    first.sum().backward()
    assert torch.equal(ones.grad, first.detach())
    torch.manual_seed(1)
    assert torch.equal(dropout(ones), first) and not torch.equal(dropout(ones), first)
    assert dropout.eval()(ones) is ones


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dropout_takes_any_layout_and_the_ends_of_its_range(dtype):
    turned = torch.ones(40, 30, dtype=dtype).T.requires_grad_()
    torch.manual_seed(1)
    dropped = CPUDropout(0.5)(turned)
    dropped.sum().backward()
    assert set(dropped.flatten().tolist()) == {0.0, 2.0} and torch.equal(turned.grad, dropped)
    assert not CPUDropout(1.0)(turned).any() and CPUDropout(0.0)(turned) is turned


def test_dropout_of_a_thread_is_drawn_by_its_own_number():
    dropout, ones = CPUDropout(0.25), torch.ones(20, 30)
    before = torch.get_rng_state()
    found = []
    for seed in (5, 6, 5):
        with drawing(seed):
            found.append([dropout(ones), dropout(ones)])
    assert torch.equal(before, torch.get_rng_state()), "torch's own go on as if nothing had been drawn"
    assert torch.equal(found[0][0], found[2][0]) and torch.equal(found[0][1], found[2][1])
    assert not torch.equal(found[0][0], found[0][1]) and not torch.equal(found[0][0], found[1][0])
    dropout(ones)
    assert not torch.equal(before, torch.get_rng_state())


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
    monkeypatch.setattr("sharpen.training.fast_cpu.layers.LARGE", 50)
    torch.manual_seed(0)
    model = Texts()
    expected = _gradients(model, lambda _: nullcontext(), None)
    found = _gradients(model, gathered_lookups, None)
    assert (
        found["words.weight"].layout == torch.strided
        and not found["words.weight"][0].any()
        and found["words.weight"][3].any()
    )
    with gathered_lookups(model):
        assert "forward" in vars(model.words) and "forward" not in vars(model.kinds)
        model.gradient_checkpointing = True
        del model.words.forward
        with gathered_lookups(model):
            assert "forward" not in vars(model.words)
        model.gradient_checkpointing = False
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    model.words.weight.requires_grad = False
    assert _gradients(model, gathered_lookups, None)["words.weight"] is None


@pytest.mark.skipif(not has_bf16("cpu"), reason="no bf16 instructions")
def test_linear_layers_in_training_are_as_exact_as_torchs():
    torch.manual_seed(0)
    model = Texts()
    exact = _gradients(model, lambda _: nullcontext(), None)
    plain = _gradients(model, lambda _: nullcontext(), torch.bfloat16)
    found = _gradients(model, trained_linears, torch.bfloat16)
    for name, gradient in exact.items():
        off = lambda other: ((other - gradient).norm() / gradient.norm()).item()  # noqa: E731
        assert found[name].dtype == torch.float32 and off(found[name]) < max(1.5 * off(plain[name]), 0.01), name
    assert torch.equal(_gradients(model, trained_linears, None)["query.weight"], exact["query.weight"])  # float32 stays
    model.query.weight.requires_grad = False
    assert _gradients(model, trained_linears, torch.bfloat16)["query.weight"] is None


def test_a_model_saved_after_training_here_knows_nothing_of_it(tmp_path):
    model = load_encoder("packaged:tiny-bert", device="cpu")
    assert model[0].auto_model.config._attn_implementation == NAME
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert plain[0].auto_model.config._attn_implementation == "sdpa" and NAME not in (
        tmp_path / "model" / "config.json"
    ).read_text(encoding="utf-8")
    texts = ["how long is bread kneaded", "knead " * 60]
    torch.testing.assert_close(model.encode(texts, convert_to_tensor=True), plain.encode(texts, convert_to_tensor=True))
