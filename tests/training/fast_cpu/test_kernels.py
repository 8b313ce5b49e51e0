import os
import subprocess
import sys

import pytest
import torch

from sharpen.training.fast_cpu.kernels import divide, drop_, exponentials_, softmax_backward_

WIDTHS = [1, 7, 16, 33, 64, 95, 200]  # whole vectors of numbers, and what remains beside them


def _attention(scores: torch.Tensor, factor: float, mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    weights = scores.clone()
    sums = exponentials_(weights, factor, None if mask.all() else -mask.to(torch.int16))
    output = torch.full(
        (len(values), values.shape[2], values.shape[1], values.shape[3]), torch.nan, dtype=torch.bfloat16
    )
    divide(weights @ values, sums, output)
    return output


@pytest.mark.parametrize("tokens", WIDTHS)
@pytest.mark.parametrize("spread", [0.0, 3.0, 100.0, 1e30])
def test_exponentials_divided_by_their_sums_are_a_softmax(tokens, spread):
    generator = torch.Generator().manual_seed(tokens)
    scores = (spread * torch.randn(3, 2, tokens, tokens, generator=generator)).bfloat16()
    values = torch.randn(3, 2, tokens, 8, generator=generator).bfloat16()
    mask = torch.arange(tokens) < torch.tensor([tokens, -(-tokens // 2), 1])[:, None]
    expected = (scores.double() * 0.5).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1) @ values.double()
    torch.testing.assert_close(
        _attention(scores, 0.5, mask, values).double(), expected.transpose(1, 2), rtol=0.02, atol=0.02
    )


def test_what_is_masked_counts_nothing_whatever_its_score():
    torch.manual_seed(0)
    scores, values = torch.randn(1, 1, 40, 40).bfloat16(), torch.randn(1, 1, 40, 8).bfloat16()
    mask = torch.arange(40)[None] % 3 > 0  # not at the end only
    alone = _attention(
        scores[:, :, mask[0]][..., mask[0]],
        1.0,
        torch.ones(1, int(mask.sum()), dtype=torch.bool),
        values[:, :, mask[0]],
    )
    scores[..., ~mask[0]] = 1e4
    torch.testing.assert_close(_attention(scores, 1.0, mask, values)[:, mask[0]], alone, rtol=0.01, atol=0.01)
    assert not _attention(scores, 1.0, torch.zeros_like(mask), values).any(), "where all is masked"


def test_scores_that_are_no_numbers_give_none():
    scores, values, mask = (
        torch.zeros(1, 1, 5, 5).bfloat16(),
        torch.ones(1, 1, 5, 8).bfloat16(),
        torch.ones(1, 5, dtype=torch.bool),
    )
    scores[..., 2, 1], scores[..., 3, 1] = torch.nan, torch.inf
    lost = _attention(scores, 1.0, mask, values).isnan().all(-1).flatten()
    assert lost.tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 300])
def test_a_share_is_dropped_whatever_the_type_and_where_the_rows_begin(dtype, p):
    ones = torch.ones(3, 500, 700, dtype=dtype)
    dropped = drop_(ones.clone(), p, 2**62 - 1)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    gone = (dropped == 0).double()
    assert gone.mean().item() == pytest.approx(p, rel=0.02)
    for by in ((0, 1), (0, 2)):  # of each column, and of each row, about as many
        assert gone.mean(by).std().item() < 1.5 * (p * (1 - p) / 700) ** 0.5
    flat = gone.view(1500, 700)
    for a, b in ((flat[1:], flat[:-1]), (flat[:, 1:], flat[:, :-1])):  # neighbours know nothing of each other
        assert (a * b).mean().item() == pytest.approx(p**2, rel=0.1, abs=4e-6)
    assert torch.equal(drop_(ones[1:].clone(), p, 2**62 - 1, first=500), dropped[1:])
    other = drop_(ones.clone(), p, 2**62 - 2) == 0
    assert (gone * other).mean().item() == pytest.approx(p**2, rel=0.1, abs=4e-6)


@pytest.mark.parametrize("tokens", WIDTHS)
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_backward_of_a_softmax_is_torchs(tokens, p):
    generator = torch.Generator().manual_seed(tokens)
    scores, gradients = (torch.randn(3, 2, tokens, tokens, generator=generator).mul(2).bfloat16() for _ in range(2))
    mask = torch.arange(tokens) < torch.tensor([tokens, -(-tokens // 2), 1])[:, None]
    exact = scores.double().requires_grad_()
    weights = (exact * 0.5).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    kept = drop_(torch.ones_like(weights.detach()), p, 9, first=4)
    left = weights * kept / (1 - p)
    left.backward(gradients.double())
    softmax_backward_(scores, gradients, 0.5, None if mask.all() else -mask.to(torch.int16), (p, 9, 4))
    torch.testing.assert_close(scores.double(), left.detach(), rtol=0.01, atol=1e-4)
    torch.testing.assert_close(gradients.double(), exact.grad, rtol=0.01, atol=0.005)


def test_no_gradient_passes_where_all_is_masked():
    scores, gradients = torch.randn(1, 1, 4, 4).bfloat16(), torch.randn(1, 1, 4, 4).bfloat16()
    softmax_backward_(scores, gradients, 1.0, torch.zeros(1, 4, dtype=torch.int16))
    assert not scores.any() and not gradients.any()


DROP = """
import torch
from sharpen.training.fast_cpu.kernels import drop_
print(drop_(torch.ones(2, 4), 0.5, 9).tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nowhere", "cut short"])
def test_where_nothing_can_be_kept_they_are_compiled_each_time(tmp_path, lost):
    """No folder that may be written to, as in a container that is read only, or what was kept cannot be read."""
    nowhere = (
        "import numba.core.caching as caching\ncaching.CacheImpl._locator_classes = []\n" if lost == "nowhere" else ""
    )

    def run(code: str) -> str:
        variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = f"{drop_(torch.ones(2, 4), 0.5, 9).tolist()}\n"
    assert run(nowhere + DROP) == expected
    kept = list(tmp_path.rglob("*drop*"))
    assert bool(kept) == (lost != "nowhere")
    for path in kept:
        path.write_bytes(b"")
    assert run(nowhere + DROP) == expected


def test_an_approximation_of_exponentials_is_right_to_a_ten_thousandth():
    scores = torch.linspace(-20, 0, 2001).bfloat16().expand(1, 1, 1, -1).contiguous()
    sums = exponentials_(scores.clone(), 1.0)
    torch.testing.assert_close(sums.double(), scores.double().exp().sum(-1), rtol=1e-4, atol=0)
