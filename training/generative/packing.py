"""Examples as tokens, and batches of them as rows that go through a language model: packed or padded, with the same
result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import PROMPT_END, Identifiers, identifier_tokens, prompt_tokens
from sharpen.training.generative.examples import Example
from sharpen.training.micro_batches import WIDTH_STEP

SHORTEST_PROMPT = 16
"""Tokens that must be left for a prompt, or nothing can be asked."""

ROW_TOKENS = 256
"""Of a packed row: attention is computed over all of a row, and masked, so that wide ones cost more than they save."""
LIKE, ENOUGH = 0.8, 0.25
"""A row that is shorter than this part of the others begins a mini-batch, where they are this part of one."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens of a prompt and its identifier, and the weight of each in the loss (0: it is not learnt; the first is
    0)."""

    tokens: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Rows:
    """Sequences as they go through the model together. ``tokens`` and ``positions`` are of shape (rows, tokens);
    positions begin at 0 in each sequence, by which transformers' attention masks know where one ends. ``places``: of
    the hidden states, in the flattened rows, from which something is predicted; ``targets`` and ``weights``: what, and
    how much it counts."""

    tokens: Tensor
    positions: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        """As accelerate moves it to a device."""
        return vars(self).copy()


def prompt_room(identifiers: Identifiers, tokenizer: PreTrainedTokenizerBase, max_tokens: int, part: str) -> int:
    """Tokens that a prompt can have, its end among them, so that every identifier fits behind it. Raises ``InputError``
    by the recipe's ``part`` if that is less than a query needs."""
    longest, document = max(
        (len(tokens), i) for i, tokens in zip(identifiers, identifier_tokens(identifiers, tokenizer), strict=True)
    )
    if max_tokens - longest < SHORTEST_PROMPT:
        raise InputError(
            f"{part}.max_tokens: the identifier of {document!r} has {longest} tokens, so of {max_tokens} only"
            f" {max(0, max_tokens - longest)} are left for a query; raise it, or make shorter identifiers"
        )
    return max_tokens - longest


class Tokenized:
    """Examples as sequences of tokens, made when they are asked for.

    The weight of a token is that of its side in the loss of section 3.1 of Wen et al. 2025,

        L = - output_weight * sum_i log P(d_i | d_<i, q) - input_weight * sum_i log P(q_i | q_<i),

    where d is the identifier and q the text or query. What stands between the two is given in every search, and is not
    learnt; nor is the first token, before which there is nothing.
    """

    def __init__(
        self,
        identifiers: Identifiers,
        tokenizer: PreTrainedTokenizerBase,
        prompt_room: int,
        input_weight: float = 1.0,
        output_weight: float = 1.0,
    ) -> None:
        self._answers = dict(zip(identifiers, identifier_tokens(identifiers, tokenizer), strict=True))
        self._tokenizer, self._room = tokenizer, prompt_room
        self._input_weight, self._output_weight = input_weight, output_weight
        self._end = len(tokenizer.encode(PROMPT_END, add_special_tokens=False))

    def __call__(self, example: Example) -> TokenSequence:
        prompt, answer = prompt_tokens(example.text, self._tokenizer, self._room), self._answers[example.document]
        text = len(prompt) - self._end
        weights = [0.0] + [self._input_weight] * (text - 1) + [0.0] * self._end + [self._output_weight] * len(answer)
        return TokenSequence([*prompt, *answer], weights[-len(prompt) - len(answer) :])


def packed(sequences: Sequence[TokenSequence], mini_batch_tokens: int, row_tokens: int = ROW_TOKENS) -> list[Rows]:
    """Mini-batches of at most ``mini_batch_tokens``, or one row, of rows that are as wide as the longest sequence, and
    ``row_tokens`` at least: first-fit decreasing, so that hardly anything of a row is empty."""
    row_tokens = max(row_tokens, *(len(sequence.tokens) for sequence in sequences))
    rows: list[list[TokenSequence]] = []
    used: list[int] = []
    for sequence in _longest_first(sequences):
        size = len(sequence.tokens)
        place = next((n for n, tokens in enumerate(used) if tokens + size <= row_tokens), None)
        if place is None:
            rows.append([sequence])
            used.append(size)
        else:
            rows[place].append(sequence)
            used[place] += size
    return _mini_batches(rows, mini_batch_tokens)


def padded(sequences: Sequence[TokenSequence], mini_batch_tokens: int) -> list[Rows]:
    """Mini-batches of at most ``mini_batch_tokens``, padding included, or one row: a sequence a row, those of similar
    length together. Padding stands behind, where a causal model does not see it, so there is no mask at all."""
    return _mini_batches([[sequence] for sequence in _longest_first(sequences)], mini_batch_tokens)


def _longest_first(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    return sorted(sequences, key=lambda sequence: -len(sequence.tokens))


def _width(row: list[TokenSequence]) -> int:
    return -(-sum(len(sequence.tokens) for sequence in row) // WIDTH_STEP) * WIDTH_STEP


def _mini_batches(rows: list[list[TokenSequence]], mini_batch_tokens: int) -> list[Rows]:
    result: list[Rows] = []
    waiting: list[list[TokenSequence]] = []
    for row in rows:
        width = max(map(_width, (*waiting, row)))
        is_full = width * (len(waiting) + 1) > mini_batch_tokens
        is_shorter = _width(row) < LIKE * width and width * len(waiting) >= mini_batch_tokens * ENOUGH
        if waiting and (is_full or is_shorter):
            result.append(_to_rows(waiting))
            waiting = []
        waiting.append(row)
    return [*result, _to_rows(waiting)] if waiting else result


def _to_rows(rows: list[list[TokenSequence]]) -> Rows:
    width = max(map(_width, rows))
    tokens, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for n, row in enumerate(rows):
        start = 0
        for sequence in row:
            end = start + len(sequence.tokens)
            tokens[n, start:end] = torch.tensor(sequence.tokens)
            weights[n, start:end] = torch.tensor(sequence.weights)
            positions[n, start:end] = torch.arange(end - start)
            start = end
        # padding goes on counting behind a sequence that has a row for itself, or there would be a mask; else it is a
        # sequence of its own
        first = start if len(row) == 1 else 0
        positions[n, start:] = torch.arange(first, first + width - start)
    places = weights.flatten().nonzero()[:, 0]  # of tokens; each is predicted from the one before it
    return Rows(tokens, positions, places - 1, tokens.flatten()[places], weights.flatten()[places])
