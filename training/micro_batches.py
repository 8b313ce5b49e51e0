"""The texts of a batch go through the encoder in passes of few and like length, on a CPU several at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sharpen.evaluation.encoders.precision import autocast
from sharpen.evaluation.encoders.tokens import is_right_padded_text
from sharpen.evaluation.processes import process_state, workers
from sharpen.training.fast_cpu.layers import computes_again, drawing, gathered_lookups, trained_linears
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Rows of one forward pass on a CPU. A batch of documents padded to its longest is mostly padding; passes of few rows of
# like length are not, and a CPU is as busy with 8 rows as with 64. A GPU is not, so there a quarter of the rows go at
# once.
CPU_ROWS = 8
# Widths of passes are multiples of this: the CPU's matrix library prepares itself for each new shape, and for the way
# back
# that takes as long as some ten passes (measured: training steps of 11 s instead of 3).
WIDTH_STEP = 16
# Copies of a model, each with gradients of its own, which are summed by all cores together: with more cores than this,
# each
# copy has several. Fewer, where gradients and the weights in bf16 would take more bytes than that in all.
MOST_COPIES = 16
MOST_BYTES = 6 * 2**30

Features = dict[str, Any]


class Passes:
    """The passes of one training. On a CPU with several cores each core computes passes of its own, forward and back,
    by a copy of the model: what lies between its layers stays in its cache, and no core waits for another after each
    layer."""

    def __init__(self) -> None:
        self._copies: _Copies | None = None
        self._alone = False

    def embed(self, model: nn.Module, columns: Sequence[Features]) -> list[Tensor]:
        """One embedding tensor of shape (rows, dimension), float32, a column, as ``model`` gives it for each column
        alone.

        The rows of all columns are sorted by length and go through the model in passes of few rows, each cut to its
        longest (see ``WIDTH_STEP``). Which rows are each other's negatives is not touched. Columns with different
        prompts are not mixed, and columns that hold more than right-padded token IDs go through as they are. The
        model's dropout is drawn for each pass by a number drawn here, so that it does not matter which of several cores
        is faster.
        """
        copies = self._copies_of(model, columns)
        passes: list[Features] = []
        groups = [_Group(columns, members, passes, len(copies) if copies else 1) for members in _alike(columns)]
        seeds = [None] * len(passes) if computes_again(model) else torch.randint(2**32, (len(passes),)).tolist()
        outputs = copies.embed(passes, seeds) if copies else _embed(model, passes, seeds)
        result = {member: e for group in groups for member, e in group.embeddings(outputs)}
        return [result[i].float() for i in range(len(columns))]

    def _copies_of(self, model: nn.Module, columns: Sequence[Features]) -> _Copies | None:
        """None where one pass after the other is all there is to do: on a GPU, on one core, where several processes
        share the cores already, and for models whose threads would not leave each other alone."""
        able = (
            isinstance(model, SentenceTransformer)
            and model.device.type == "cpu"
            and model.training
            and torch.is_grad_enabled()
        )
        if self._alone or not able or process_state().num_processes > 1 or computes_again(model):
            return None
        number = _number_of_copies(model)
        if number > 1 and not (self._copies and self._copies.are_of(model, number)):
            self._alone = _has_more_than_weights(model, columns)
            self._copies = None if self._alone else _Copies(model, number)
        return self._copies if number > 1 else None


def _number_of_copies(model: nn.Module) -> int:
    bytes_each = sum(p.numel() * (6 if p.requires_grad else 2) for p in model.parameters())
    cores = torch.get_num_threads()
    return cores // max(-(-cores // MOST_COPIES), -(-cores * bytes_each // MOST_BYTES))


def _alike(columns: Sequence[Features]) -> list[list[int]]:
    """Numbers of the columns that may share a pass."""
    groups: dict[Any, list[int]] = {}
    for i, column in enumerate(columns):
        groups.setdefault(_settings(column) if is_right_padded_text(column) else i, []).append(i)
    return list(groups.values())


class _Group:
    """Columns that share passes, which are added to ``passes``."""

    def __init__(self, columns: Sequence[Features], members: list[int], passes: list[Features], threads: int) -> None:
        self._members, self._first = members, len(passes)
        chosen = [columns[i] for i in members]
        self._rows = [len(column["input_ids"]) for column in chosen] if is_right_padded_text(chosen[0]) else None
        if not self._rows:
            passes.append(chosen[0])
        else:
            merged = {
                key: _stack([column[key] for column in chosen])
                for key, value in chosen[0].items()
                if isinstance(value, Tensor)
            }
            lengths = merged["attention_mask"].sum(dim=1)
            order = torch.argsort(lengths, descending=True, stable=True)
            self._back = torch.argsort(order)
            for part in order.split(_rows_of_a_pass(len(order), threads if lengths.device.type == "cpu" else None)):
                width = -(-int(lengths[part[0]]) // WIDTH_STEP) * WIDTH_STEP
                passes.append({key: value[part, :width] for key, value in merged.items()} | dict(_settings(chosen[0])))
        self._end = len(passes)

    def embeddings(self, outputs: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """Each column's number and its embeddings, of those of all passes."""
        own = outputs[self._first : self._end]
        return list(
            zip(self._members, torch.cat(own)[self._back].split(self._rows) if self._rows else own, strict=True)
        )


def _rows_of_a_pass(rows: int, threads: int | None) -> int:
    """``threads``: that share the passes, of which each is to have at least two; None on a GPU."""
    if threads is None:
        return max(CPU_ROWS, -(-rows // 4))
    return CPU_ROWS if threads == 1 else max(1, min(CPU_ROWS, rows // (2 * threads)))


def _settings(column: Features) -> tuple[tuple[str, Any], ...]:
    """What goes with the token IDs: the modality, and the prompt's length where there is one."""
    return tuple(sorted((key, value) for key, value in column.items() if not isinstance(value, Tensor)))


def _stack(tensors: list[Tensor]) -> Tensor:
    """Rows of all, widened with 0; what is widened is masked, and cut off again before the model sees it."""
    width = -(-max(t.shape[1] for t in tensors) // WIDTH_STEP) * WIDTH_STEP
    return torch.cat([nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors])


def _embed(model: nn.Module, passes: Sequence[Features], seeds: Sequence[int | None]) -> list[Tensor]:
    """One pass after the other. One context for all: the bf16 copies of the weights serve every pass."""
    embeddings = []
    with autocast(passes[0]["input_ids"].device), gathered_lookups(model), trained_linears(model):
        for features, seed in zip(passes, seeds, strict=True):
            with drawing(seed):
                embeddings.append(model(features)["sentence_embedding"])
    return embeddings


def _has_more_than_weights(model: nn.Module, columns: Sequence[Features]) -> bool:
    """Whether computing changes what threads would share, or lose: torch's random numbers, drawn other than by
    ``drawing``, and buffers; or a ``forward`` that was put in place of a module's own and belongs to no module, so that
    copies would share it."""
    forwards = [(module, vars(module)["forward"]) for module in model.modules() if "forward" in vars(module)]
    if any(getattr(forward, "__self__", None) is not module for module, forward in forwards):
        return True
    state, buffers = torch.get_rng_state(), [b.clone() for b in model.buffers()]
    first = [
        {k: v[:1] if isinstance(v, Tensor) else v for k, v in c.items()} if is_right_padded_text(c) else dict(c)
        for c in columns
    ]
    with torch.no_grad():
        _embed(model, first, [0] * len(first))
    changed = not torch.equal(state, torch.get_rng_state()) or any(
        not torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True)
    )
    torch.set_rng_state(state)
    return changed


class _Copies:
    """Copies of a model, one for each thread, that share its weights; each has gradients of its own, which are summed
    in the same order each time."""

    def __init__(self, model: nn.Module, number: int) -> None:
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._places = _places(model)
        self._models = [_copy(model) for _ in range(number)]
        self._weights = [[p for p in each.parameters() if p.requires_grad] for each in self._models]

    def __len__(self) -> int:
        return len(self._models)

    def are_of(self, model: nn.Module, number: int) -> bool:
        """Whether the weights are still the model's, and the same ones trained."""
        return len(self) == number and self._places == _places(model)

    def embed(self, passes: Sequence[Features], seeds: Sequence[int | None]) -> Sequence[Tensor]:
        return _Embedding.apply(self, passes, seeds, *self._trained)

    def forward(self, passes: Sequence[Features], seeds: Sequence[int | None]) -> list[list[tuple[int, Tensor]]]:
        """For each copy the numbers of its passes and their embeddings."""

        def one(i: int) -> list[tuple[int, Tensor]]:
            return list(
                zip(
                    dealt[i],
                    (
                        _embed(self._models[i], [passes[n] for n in dealt[i]], [seeds[n] for n in dealt[i]])
                        if dealt[i]
                        else []
                    ),
                    strict=True,
                )
            )

        dealt = _deal([features["input_ids"].numel() for features in passes], len(self))
        with workers(len(self)) as run:
            return list(run(one, range(len(self))))

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

        with workers(len(self)) as run:
            sums, *others = run(one, range(len(self)))
        for other in others:
            sums = [b if a is None else a if b is None else a.add_(b) for a, b in zip(sums, other, strict=True)]
        return sums


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, copies: _Copies, passes: Sequence[Features], seeds: Sequence[int | None], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.copies, ctx.embedded = copies, copies.forward(passes, seeds)
        outputs = {n: e.detach() for each in ctx.embedded for n, e in each}
        return tuple(outputs[n] for n in range(len(passes)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        embedded, ctx.embedded = ctx.embedded, None  # their graphs are let go of
        if embedded is None:
            raise RuntimeError("the way back through passes can be gone once only")
        return None, None, None, *ctx.copies.backward(embedded, gradients)


def _copy(model: nn.Module) -> nn.Module:
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    shared[id(model.tokenizer)] = model.tokenizer  # is not used here
    return copy.deepcopy(model, shared)


def _places(model: nn.Module) -> list[tuple[int, bool]]:
    return [(p.data_ptr(), p.requires_grad) for p in model.parameters()]


def _deal(costs: Sequence[int], number: int) -> list[list[int]]:
    """Numbers of the passes for each thread, so that all end at about the same time: the dearest first, each to the
    thread that has least."""
    dealt: list[list[int]] = [[] for _ in range(number)]
    loads = [0] * number
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        dealt[least].append(i)
        loads[least] += costs[i]
    return dealt
