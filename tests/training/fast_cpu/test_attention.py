import pytest
import torch
from torch import nn

from sharpen.training.fast_cpu.attention import attend
from sharpen.training.fast_cpu.kernels import divide, softmax_backward_
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
    monkeypatch.setattr("sharpen.training.fast_cpu.attention.CACHED_WEIGHTS", at_once)
    tensors, mask = _inputs(torch.float64, tokens=7)
    expected = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(attend(Layer(), *tensors, mask)[0], expected)
    assert torch.autograd.gradcheck(lambda *t: attend(Layer(), *t, mask)[0], tensors)
    torch.testing.assert_close(
        attend(Layer(), *tensors, None)[0], nn.functional.scaled_dot_product_attention(*tensors).transpose(1, 2)
    )


@pytest.mark.slow
def test_backward_has_the_dropout_of_forward():
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
    tensors, mask = (
        [t.detach() for t in tensors],
        torch.rand(3, 4, 1, 20, generator=torch.Generator().manual_seed(0)) > 0.5,
    )
    expected = nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors], attn_mask=mask).transpose(
        1, 2
    )
    with torch.no_grad():
        torch.testing.assert_close(attend(Layer(), *tensors, mask)[0].double(), expected, rtol=0.02, atol=0.02)


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
    mask = padding[:, None, None].expand(3, 1, 20, 20)
    expected = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(attend(Layer(), *tensors, mask)[0], expected)
    torch.testing.assert_close(attend(Layer(), *tensors, mask[1:2])[0][1], expected[1])


@pytest.fixture
def one_core():
    with cores(1):
        yield


@pytest.fixture(params=[True, False])
def fused(request, monkeypatch, one_core):
    """Whether the kernels are compiled; asserts that they were used."""
    monkeypatch.setattr("sharpen.training.fast_cpu.attention.COMPILED", request.param)
    used = []
    monkeypatch.setattr("sharpen.training.fast_cpu.attention.divide", lambda *given: used.append(1) or divide(*given))
    yield request.param
    assert bool(used) == request.param


def _padded(dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    tensors, _ = _inputs(dtype)
    padding = torch.arange(20) < torch.tensor([20, 12, 5])[:, None]
    mask = padding[:, None, None].expand(3, 1, 20, 20).clone()  # a row for each token, as from transformers
    tensors = [t.detach() for t in tensors]
    return (
        tensors,
        mask,
        nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors], attn_mask=mask).transpose(1, 2),
    )


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_attention_forward_is_torchs(monkeypatch, fused, at_once):
    _check_forward(monkeypatch, at_once, torch.bfloat16, 0.02)


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_attention_forward_is_torchs_in_float64(monkeypatch, at_once):
    _check_forward(monkeypatch, at_once, torch.float64, 1e-6)


def _check_forward(monkeypatch, at_once: int, dtype: torch.dtype, near: float) -> None:
    monkeypatch.setattr("sharpen.training.fast_cpu.attention.CACHED_WEIGHTS", at_once)
    tensors, mask, expected = _padded(dtype)
    with torch.no_grad():
        torch.testing.assert_close(attend(Layer(), *tensors, mask)[0].double(), expected, rtol=near, atol=near)
        torch.testing.assert_close(
            attend(Layer(), *tensors, mask[1:2])[0][1].double(), expected[1], rtol=near, atol=near
        )
        unmasked = nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors]).transpose(1, 2)
        torch.testing.assert_close(attend(Layer(), *tensors, None)[0].double(), unmasked, rtol=near, atol=near)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("at_once", [1, 10**6])
@pytest.mark.parametrize("where", ["all", "padding"])
def test_backward_of_compiled_attention_is_that_of_the_other(monkeypatch, one_core, dropout, at_once, where):
    """In bf16 and in float64, which is not compiled and whose gradients other tests check."""
    monkeypatch.setattr("sharpen.training.fast_cpu.attention.CACHED_WEIGHTS", at_once)
    tensors, mask, _ = _padded(torch.bfloat16)
    mask = mask if where == "padding" else None
    upstream = torch.randn(3, 20, 4, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    used, results = [], []
    monkeypatch.setattr(
        "sharpen.training.fast_cpu.attention.softmax_backward_",
        lambda *given: used.append(1) or softmax_backward_(*given),
    )
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [t.detach().to(dtype).requires_grad_() for t in tensors]
        torch.manual_seed(3)
        output = attend(Layer(), *inputs, mask, dropout=dropout)[0]
        output.backward(upstream.to(dtype))
        results.append([output, *(t.grad for t in inputs)])
    assert len(used) == (3 if at_once == 1 else 1)
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == torch.bfloat16
        assert ((actual.double() - expected).norm() / expected.norm()).item() < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_texts_that_are_alike_lose_different_weights_and_the_same_whatever_is_taken_together(
    monkeypatch, one_core, dtype
):
    tensors, _ = _inputs(dtype)
    tensors = [t.detach()[:1].expand(3, -1, -1, -1) for t in tensors]
    outputs = []
    for at_once in (1, 10**6):
        monkeypatch.setattr("sharpen.training.fast_cpu.attention.CACHED_WEIGHTS", at_once)
        torch.manual_seed(3)
        outputs.append(attend(Layer(), *tensors, None, dropout=0.3)[0])
    torch.testing.assert_close(*outputs)
    assert not torch.allclose(outputs[0][0], outputs[0][1], atol=0.05) and not torch.allclose(
        outputs[0][1], outputs[0][2], atol=0.05
    )


@pytest.mark.parametrize("scale", [1e3, -1e3])  # exponentials that would be infinite, or all of them nothing
@pytest.mark.parametrize("where", ["everywhere", "padding"])
def test_scores_beyond_the_range_of_the_type(fused, scale, where):
    tensors, mask, _ = _padded(torch.bfloat16)
    tensors[0] = tensors[0].abs()
    tensors[1] = tensors[1].abs()
    if where == "everywhere":
        tensors[1] *= scale
    else:
        tensors[1][2, :, 5:] *= scale
    expected = nn.functional.scaled_dot_product_attention(*[t.double() for t in tensors], attn_mask=mask).transpose(
        1, 2
    )
    with torch.no_grad():
        actual = attend(Layer(), *tensors, mask)[0].double()
    assert actual.isfinite().all()
    if where == "padding":
        torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)
    else:  # one token has nearly all of the weight, and which one of near ones is a matter of rounding
        assert (actual - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_a_text_of_padding_alone_takes_nothing_from_the_others(fused):
    tensors, mask, expected = _padded(torch.bfloat16)
    mask[1] = False
    with torch.no_grad():
        actual = attend(Layer(), *tensors, mask)[0].double()
    torch.testing.assert_close(actual[::2], expected[::2], rtol=0.02, atol=0.02)
    assert actual[1].isfinite().all()


def test_inference_is_left_to_torch(monkeypatch):
    monkeypatch.setattr("sharpen.training.fast_cpu.attention._Attention.apply", lambda *given: 1 / 0)
    tensors, mask = _inputs(torch.bfloat16)
    expected = nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask).transpose(1, 2)
    assert torch.equal(attend(Layer().eval(), *tensors, mask)[0], expected)
    with pytest.raises(ZeroDivisionError):
        attend(Layer(), *tensors, mask)
