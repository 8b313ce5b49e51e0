import pytest
import torch

from sharpen.training.fast_cpu.dropout import CPUDropout, seeded_dropout


def test_dropout_drops_its_fraction_and_keeps_the_mean():
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
    drawn = []
    for seed in (5, 6, 5):
        with seeded_dropout(seed):
            drawn.append([dropout(ones), dropout(ones)])
    assert torch.equal(before, torch.get_rng_state()), "torch's own go on as if nothing had been drawn"
    assert torch.equal(drawn[0][0], drawn[2][0]) and torch.equal(drawn[0][1], drawn[2][1])
    assert not torch.equal(drawn[0][0], drawn[0][1]) and not torch.equal(drawn[0][0], drawn[1][0])
    dropout(ones)
    assert not torch.equal(before, torch.get_rng_state())
