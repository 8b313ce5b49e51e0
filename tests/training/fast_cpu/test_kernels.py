import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharpen.training.fast_cpu.kernels import (
    divide,
    drop_,
    exponentials_,
    normalise_rows,
    round_rows,
    softmax_backward_,
)
from torch import nn

WIDTHS = [1, 7, 16, 33, 64, 95, 200]  # whole vectors of numbers, and what remains beside them


def _attention(scores: torch.Tensor, factor: float, seen: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    weights = scores.clone()
    sums = exponentials_(weights, factor, None if seen.all() else -seen.to(torch.int16))
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
    seen = torch.arange(tokens) < torch.tensor([tokens, -(-tokens // 2), 1])[:, None]
    expected = (scores.double() * 0.5).masked_fill(~seen[:, None, None], -torch.inf).softmax(-1) @ values.double()
    torch.testing.assert_close(
        _attention(scores, 0.5, seen, values).double(), expected.transpose(1, 2), rtol=0.02, atol=0.02
    )


def test_what_is_not_seen_counts_nothing_whatever_its_score():
    torch.manual_seed(0)
    scores, values = torch.randn(1, 1, 40, 40).bfloat16(), torch.randn(1, 1, 40, 8).bfloat16()
    seen = torch.arange(40)[None] % 3 > 0  # not at the end only
    alone = _attention(
        scores[:, :, seen[0]][..., seen[0]],
        1.0,
        torch.ones(1, int(seen.sum()), dtype=torch.bool),
        values[:, :, seen[0]],
    )
    scores[..., ~seen[0]] = 1e4
    torch.testing.assert_close(_attention(scores, 1.0, seen, values)[:, seen[0]], alone, rtol=0.01, atol=0.01)
    assert not _attention(scores, 1.0, torch.zeros_like(seen), values).any(), "where nothing is seen"


def test_scores_that_are_no_numbers_give_none():
    scores, values, seen = (
        torch.zeros(1, 1, 5, 5).bfloat16(),
        torch.ones(1, 1, 5, 8).bfloat16(),
        torch.ones(1, 5, dtype=torch.bool),
    )
    scores[..., 2, 1], scores[..., 3, 1] = torch.nan, torch.inf
    lost = _attention(scores, 1.0, seen, values).isnan().all(-1).flatten()
    assert lost.tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 1 / 300])
def test_a_share_is_dropped_whatever_the_type_and_where_the_rows_begin(dtype, share):
    ones = torch.ones(3, 500, 700, dtype=dtype)
    dropped = drop_(ones.clone(), share, 2**62 - 1)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    gone = (dropped == 0).double()
    assert gone.mean().item() == pytest.approx(share, rel=0.02)
    for by in ((0, 1), (0, 2)):  # of each column, and of each row, about as many
        assert gone.mean(by).std().item() < 1.5 * (share * (1 - share) / 700) ** 0.5
    flat = gone.view(1500, 700)
    for a, b in ((flat[1:], flat[:-1]), (flat[:, 1:], flat[:, :-1])):  # neighbours know nothing of each other
        assert (a * b).mean().item() == pytest.approx(share**2, rel=0.1, abs=4e-6)
    assert torch.equal(drop_(ones[1:].clone(), share, 2**62 - 1, first=500), dropped[1:])
    other = drop_(ones.clone(), share, 2**62 - 2) == 0
    assert (gone * other).mean().item() == pytest.approx(share**2, rel=0.1, abs=4e-6)


@pytest.mark.parametrize("tokens", WIDTHS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_way_back_through_a_softmax_is_torchs(tokens, share):
    generator = torch.Generator().manual_seed(tokens)
    scores, gradients = (torch.randn(3, 2, tokens, tokens, generator=generator).mul(2).bfloat16() for _ in range(2))
    seen = torch.arange(tokens) < torch.tensor([tokens, -(-tokens // 2), 1])[:, None]
    exact = scores.double().requires_grad_()
    weights = (exact * 0.5).masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
    kept = drop_(torch.ones_like(weights.detach()), share, 9, first=4)
    left = weights * kept / (1 - share)
    left.backward(gradients.double())
    softmax_backward_(scores, gradients, 0.5, None if seen.all() else -seen.to(torch.int16), share, 9, first=4)
    torch.testing.assert_close(scores.double(), left.detach(), rtol=0.01, atol=1e-4)
    torch.testing.assert_close(gradients.double(), exact.grad, rtol=0.01, atol=0.005)


def test_no_gradient_passes_where_nothing_is_seen():
    scores, gradients = torch.randn(1, 1, 4, 4).bfloat16(), torch.randn(1, 1, 4, 4).bfloat16()
    softmax_backward_(scores, gradients, 1.0, torch.zeros(1, 4, dtype=torch.int16))
    assert not scores.any() and not gradients.any()


@pytest.mark.parametrize("channels", WIDTHS)
def test_rows_are_rounded_and_those_that_do_not_fit_are_told(channels):
    generator = torch.Generator().manual_seed(channels)
    rows, inverse = (
        torch.randn(50, channels, generator=generator).bfloat16(),
        10 + 10 * torch.rand(channels, generator=generator),
    )
    rows[7, channels // 2], rows[9, channels - 1], rows[11, 0], rows[13, 0] = 1e3, -1e3, torch.nan, -torch.nan
    rounded, beyond = round_rows(rows, inverse, 120)
    expected = (rows.double() * inverse + 120).round()
    assert (
        beyond.nonzero().flatten().tolist()
        == [7, 9, 11, 13]
        == [i for i, row in enumerate(expected) if not all(0 < value < 255 for value in row.tolist())]
    )
    assert (rounded[~beyond] - expected[~beyond]).abs().max() <= 1 and (
        rounded[~beyond] == expected[~beyond]
    ).double().mean() > 0.99


@pytest.mark.parametrize(("zero", "value"), [(0, 0.0), (255, 0.0), (1, 0.4), (254, -0.4), (1, -0.6), (254, 0.6)])
def test_the_ends_of_the_range_do_not_fit(zero, value):
    _, beyond = round_rows(torch.full((1, 40), value).bfloat16(), torch.ones(40), zero)
    assert bool(beyond) == (not 0 < round(zero + value) < 255)


@pytest.mark.parametrize("channels", [7, 64, 200, 384])
@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize("residual", [False, True])
def test_rows_are_normalised_and_rounded(channels, offset, residual):
    torch.manual_seed(0)
    rows = (torch.randn(30, channels) * torch.rand(30, 1) * 5 + offset).bfloat16()
    added = torch.randn(30, channels).bfloat16() if residual else None
    weight, bias, inverse = torch.rand(channels) + 0.5, torch.randn(channels), 10 + torch.rand(channels)
    output, rounded, beyond = normalise_rows(rows, added, weight, bias, 1e-5, inverse, 100)
    expected = nn.functional.layer_norm(
        rows.double() + (added.double() if residual else 0), (channels,), weight.double(), bias.double(), 1e-5
    )
    torch.testing.assert_close(output.double(), expected, rtol=2**-8, atol=1e-4)
    steps = expected * inverse + 100
    torch.testing.assert_close(rounded[~beyond].double(), steps[~beyond], rtol=0, atol=0.51)
    assert not beyond.all() and torch.equal(beyond, ((steps < 0.5) | (steps > 254.5)).any(1))
    rows[3, 1] = torch.nan
    output, _, beyond = normalise_rows(rows, added, weight, bias, 1e-5, inverse, 100)
    assert beyond[3] and output[3].isnan().all()


ROOT = Path(__file__).parents[3]
ROUND = """
import torch
from evaluation.kernels import round_rows
print(round_rows(torch.ones(2, 4).bfloat16(), torch.ones(4), 9)[0].tolist())
"""


@pytest.mark.parametrize("lost", ["nowhere", "cut short"])
def test_where_nothing_can_be_kept_they_are_compiled_each_time(tmp_path, lost):
    """No folder that may be written to, as in a container that is read only, or what was kept cannot be read."""
    nowhere = (
        "import numba.core.caching as caching\ncaching.CacheImpl._locator_classes = []\n" if lost == "nowhere" else ""
    )

    def run(code: str) -> str:
        variables = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = "[[10, 10, 10, 10], [10, 10, 10, 10]]\n"
    assert run(nowhere + ROUND) == expected
    kept = list(tmp_path.rglob("*_round*"))
    assert bool(kept) == (lost != "nowhere")
    for path in kept:
        path.write_bytes(b"")
    assert run(nowhere + ROUND) == expected


def test_an_approximation_of_exponentials_is_right_to_a_ten_thousandth():
    scores = torch.linspace(-20, 0, 2001).bfloat16().expand(1, 1, 1, -1).contiguous()
    sums = exponentials_(scores.clone(), 1.0)
    torch.testing.assert_close(sums.double(), scores.double().exp().sum(-1), rtol=1e-4, atol=0)
