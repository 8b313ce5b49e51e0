"""Replicas of a model, one a core: what is between its layers stays in the core's cache, and no core waits for another
after each layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sharpen.evaluation.encoders.precision import autocast
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.encoders.tokens import is_right_padded_text
from sharpen.evaluation.processes import process_state, workers
from sharpen.training.fast_cpu.dropout import seeded_dropout
from sharpen.training.fast_cpu.linears import fused_bias, gathered_lookups, recomputes

MOST_REPLICAS = 16
"""Each has gradients of its own, which all cores sum together; with more cores than this, a replica has several."""
MOST_BYTES = 6 * 2**30
"""Of the replicas' gradients and weights in bf16, in all; fewer replicas where they would take more."""

Features = dict[str, Any]


class Replicas:
    """Embeds the micro-batches of one training, each by a replica on a core of its own, forward and backward.

    The model's dropout is drawn for each micro-batch by a seed drawn before, so that it does not matter which core is
    faster. One micro-batch after the other where several processes share the cores already, on one core, and for models
    whose threads would interfere (see ``_has_shared_state``).
    """

    def __init__(self, precision: Precision = "auto") -> None:
        self._precision = precision
        self._replicas: _Replicas | None = None
        self._alone = False

    def start(self, model: nn.Module, columns: Sequence[Features]) -> int:
        """How many micro-batches of ``columns`` will be computed at the same time; makes the replicas where needed."""
        number = self._number(model)
        if number == 1:
            return 1
        if not (self._replicas and self._replicas.are_of(model, number)):
            self._alone = _has_shared_state(model, columns, self._precision)
            self._replicas = None if self._alone else _Replicas(model, number, self._precision)
        return 1 if self._alone else number

    def embed(self, model: nn.Module, batches: Sequence[Features]) -> Sequence[Tensor]:
        """The embeddings of each micro-batch, of shape (texts, dimension)."""
        seeds = [None] * len(batches) if recomputes(model) else torch.randint(2**32, (len(batches),)).tolist()
        if self._replicas and self._number(model) > 1:
            return self._replicas.embed(batches, seeds)
        return _embed(model, batches, seeds, self._precision)

    def _number(self, model: nn.Module) -> int:
        is_able = isinstance(model, SentenceTransformer) and isinstance(model[0], Transformer)
        able = is_able and model.training and torch.is_grad_enabled()
        if self._alone or not able or process_state().num_processes > 1 or recomputes(model):
            return 1
        return number_of_replicas(model)


def number_of_replicas(model: nn.Module) -> int:
    bytes_each = sum(p.numel() * (6 if p.requires_grad else 2) for p in model.parameters())
    cores = torch.get_num_threads()
    return cores // max(-(-cores // MOST_REPLICAS), -(-cores * bytes_each // MOST_BYTES))


def _embed(
    model: nn.Module, batches: Sequence[Features], seeds: Sequence[int | None], precision: Precision
) -> list[Tensor]:
    """One micro-batch after the other. One context for all: the weights are cast to bf16 once."""
    embeddings = []
    with autocast("cpu", precision), gathered_lookups(model), fused_bias(model):
        for features, seed in zip(batches, seeds, strict=True):
            with seeded_dropout(seed):
                embeddings.append(model(features)["sentence_embedding"])
    return embeddings


def _has_shared_state(model: nn.Module, columns: Sequence[Features], precision: Precision) -> bool:
    """Whether forward changes what threads would share, or lose.

    That is torch's generator, drawn from other than in ``seeded_dropout``; buffers; and a ``forward`` that was put in
    place of a module's own and belongs to no module, so that replicas would share it.
    """
    forwards = [(module, vars(module)["forward"]) for module in model.modules() if "forward" in vars(module)]
    if any(getattr(forward, "__self__", None) is not module for module, forward in forwards):
        return True
    state, buffers = torch.get_rng_state(), [b.clone() for b in model.buffers()]
    first = [
        {k: v[:1] if isinstance(v, Tensor) else v for k, v in c.items()} if is_right_padded_text(c) else dict(c)
        for c in columns
    ]
    with torch.no_grad():
        _embed(model, first, [0] * len(first), precision)
    changed = not torch.equal(state, torch.get_rng_state()) or any(
        not torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True)
    )
    torch.set_rng_state(state)
    return changed


class _Replicas:
    """Replicas that share a model's weights; each has gradients of its own, which are summed in the same order each
    time."""

    def __init__(self, model: nn.Module, number: int, precision: Precision) -> None:
        self._precision = precision
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._identity = _identity(model)
        self._models = [_replica(model) for _ in range(number)]
        self._weights = [[p for p in each.parameters() if p.requires_grad] for each in self._models]

    def are_of(self, model: nn.Module, number: int) -> bool:
        """Whether the weights are still the model's, and the same ones trained."""
        return len(self._models) == number and self._identity == _identity(model)

    def embed(self, batches: Sequence[Features], seeds: Sequence[int | None]) -> Sequence[Tensor]:
        return _Embedding.apply(self, batches, seeds, *self._trained)

    def forward(self, batches: Sequence[Features], seeds: Sequence[int | None]) -> list[list[tuple[int, Tensor]]]:
        """For each replica the numbers of its micro-batches and their embeddings."""
        assigned = assign([features["input_ids"].numel() for features in batches], len(self._models))

        def one(i: int) -> list[tuple[int, Tensor]]:
            numbers = assigned[i]
            if not numbers:
                return []
            chosen = [batches[n] for n in numbers], [seeds[n] for n in numbers]
            return list(zip(numbers, _embed(self._models[i], *chosen, self._precision), strict=True))

        with workers(len(self._models)) as run:
            return list(run(one, range(len(self._models))))

    def backward(self, embedded: list[list[tuple[int, Tensor]]], gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of the weights."""

        def one(i: int) -> list[Tensor | None]:
            try:
                if embedded[i]:
                    torch.autograd.backward([e for _, e in embedded[i]], [gradients[n] for n, _ in embedded[i]])
                return [weight.grad for weight in self._weights[i]]
            finally:
                for weight in self._weights[i]:
                    weight.grad = None

        with workers(len(self._models)) as run:
            sums, *others = run(one, range(len(self._models)))
        for other in others:
            sums = [b if a is None else a if b is None else a.add_(b) for a, b in zip(sums, other, strict=True)]
        return sums


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, replicas: _Replicas, batches: Sequence[Features], seeds: Sequence[int | None], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.replicas, ctx.embedded = replicas, replicas.forward(batches, seeds)
        outputs = {n: e.detach() for each in ctx.embedded for n, e in each}
        return tuple(outputs[n] for n in range(len(batches)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        embedded, ctx.embedded = ctx.embedded, None  # their graphs are freed
        if embedded is None:
            raise RuntimeError("backward through micro-batches is possible once only")
        return None, None, None, *ctx.replicas.backward(embedded, gradients)


def _replica(model: nn.Module) -> nn.Module:
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    shared[id(model.tokenizer)] = model.tokenizer  # is not used here
    return copy.deepcopy(model, shared)


def _identity(model: nn.Module) -> list[tuple[int, bool]]:
    return [(p.data_ptr(), p.requires_grad) for p in model.parameters()]


def assign(costs: Sequence[int], number: int) -> list[list[int]]:
    """Numbers of the micro-batches for each of ``number`` replicas, so that all end at about the same time: the most
    costly first, each to the one that has least.

    >>> assign([90, 10, 50, 40], 2)
    [[0, 1], [2, 3]]
    """
    assigned: list[list[int]] = [[] for _ in range(number)]
    loads = [0] * number
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        assigned[least].append(i)
        loads[least] += costs[i]
    return assigned
