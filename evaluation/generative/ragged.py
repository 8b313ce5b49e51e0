"""Operations over groups of unequal sizes, without loops and without padding."""

from __future__ import annotations

import torch


def ragged(first: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each ``i`` the ``counts[i]`` numbers from ``first[i]`` on (both int64, shape (groups,)): (``i``, number) of
    each, in order, of shape (sum of counts,).

    >>> [tensor.tolist() for tensor in ragged(torch.tensor([7, 0, 3]), torch.tensor([2, 0, 1]))]
    [[0, 0, 2], [7, 8, 3]]
    """
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    offset = torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
    return owner, first[owner] + offset


def rank_within(groups: torch.Tensor) -> torch.Tensor:
    """How many of the same group stand before each; ``groups``: int64 from 0, shape (n,), in any order.

    >>> rank_within(torch.tensor([4, 1, 4, 4, 1])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups)
    ranks = torch.empty_like(groups)
    ranks[order] = torch.arange(len(groups), device=groups.device) - (counts.cumsum(0) - counts)[groups[order]]
    return ranks


def log_sum_exp(values: torch.Tensor, groups: torch.Tensor, size: int) -> torch.Tensor:
    """Logarithm of the sum of ``exp(values)`` of each group; ``groups``: int64 below ``size``, shape (n,).

    >>> log_sum_exp(torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0, 0, 1]), 2).tolist()
    [0.693..., 5.0]
    """
    largest = torch.full((size,), -torch.inf, device=values.device).scatter_reduce(0, groups, values, "amax")
    exponents = (values - largest[groups]).exp()
    return largest + torch.zeros(size, device=values.device).index_add(0, groups, exponents).log()


def widen(one: torch.Tensor, two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with the columns of the wider one, zeros behind the other's; tensors of one dimension as they are."""
    if one.ndim == 1:
        return one, two
    width = max(one.shape[1], two.shape[1])
    return (
        torch.nn.functional.pad(one, (0, width - one.shape[1])),
        torch.nn.functional.pad(two, (0, width - two.shape[1])),
    )
