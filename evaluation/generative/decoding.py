"""Beam search in which a language model can only write sequences of a trie.

The score of a sequence ``t`` of ``L`` tokens behind a prompt ``x`` is, without any penalty of length,

    exact           s(t) = sum over i = 1..L of log p(t_i | x, t_1..t_{i-1}),          p: softmax over the vocabulary
    renormalised    the same with p over the tokens that the trie allows behind t_1..t_{i-1} alone

so that in the renormalised mode the probabilities of all sequences sum to 1. The search is that of
``transformers.generate(num_beams=B, num_return_sequences=B, length_penalty=0.0)`` with a trie for its
``prefix_allowed_tokens_fn`` (renormalised: and ``renormalize_logits=True``). At each step the candidates are all
allowed continuations of the at most ``B`` beams; those among the best ``B`` that are whole sequences are results, and
the best ``B`` others are the beams of the next step. Scores only fall, so a beam ends when it is no better than the
worst of ``B`` results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import get_args
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.forward import (
    OTHER_TOLERANCE,
    TOLERANCES,
    Forward,
    PlainForward,
    SharedForward,
    shared_attention,
)
from sharpen.evaluation.generative.search import Mode, Search
from sharpen.evaluation.generative.trie import Trie

_log = logging.getLogger(__name__)
_can_share: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    beams: int,
    *,
    batch_size: int = 32,
    mode: Mode = "exact",
    progress: Callable[[int], None] | None = None,
) -> list[list[tuple[int, float]]]:
    """The best sequences of ``trie`` for each prompt, as (leaf, score), best first.

    Each gets ``min(beams, trie.leaves)`` different ones. ``prompts``: token IDs, of any lengths, none empty; results
    are in their order. ``batch_size``: prompts whose keys and values are kept at once; a prompt that is done makes
    place for the next. ``progress`` is told how many prompts were done. ``model``: a causal language model of
    transformers, which computes in the precision of its weights, where these are; scores are summed in float32. Equal
    scores stand in the order of leaves.

    Raises ``InputError`` for an empty prompt, a token that the model has not, fewer than one beam, and a model that
    answers with NaN.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2))
    >>> trie = Trie.of([[3, 4, 2], [3, 2], [6, 2]])
    >>> results = beam_search(model, [[1, 5], [1]], trie, beams=3, mode="renormalised")
    >>> [sorted(leaf for leaf, _ in found) for found in results]
    [[0, 1, 2], [0, 1, 2]]
    """
    _check(model, prompts, trie, beams)
    if batch_size < 1 or mode not in get_args(Mode):
        raise InputError(f"expected a batch_size of 1 or more ({batch_size}) and a mode of {get_args(Mode)} ({mode!r})")
    results: list[list[tuple[int, float]]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    try:
        rows = max(1, min(batch_size, len(prompts)))
        with torch.inference_mode(), _forward(model, rows, can_share(model)) as forward:
            for index, found in Search(forward, trie, beams, rows, mode, model.device).run(prompts):
                results[index] = found
                if progress:
                    progress(1)
    finally:
        model.train(was_training)
    return results


@torch.inference_mode()
def can_share(model: PreTrainedModel) -> bool:
    """Whether the model gives the same scores where beams share the keys and values of their prompt; looked at once, by
    a small search. Where it does not, as with recurrent layers or attention of its own kind, sequences are computed
    whole, which takes longer. ``model``: in evaluation mode."""
    if model not in _can_share:
        _can_share[model] = _agrees(model)
    return _can_share[model]


def _agrees(model: PreTrainedModel) -> bool:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    a, b, c, d = (vocabulary * part // 7 for part in (1, 2, 4, 5))
    trie = Trie.of([[a, b, c], [a, b, d], [a, c, b, a], [d, a], [d, c, a]] if a else [[0]])
    prompts = [[d, c, b, a][:3], [b, a]]
    tolerance = TOLERANCES.get(next(model.parameters()).dtype, OTHER_TOLERANCE)
    found = []
    for share in (True, False):
        try:
            with _forward(model, 2, share) as forward:
                found.append(dict(Search(forward, trie, trie.leaves, 2, "exact", model.device).run(prompts)))
        except InputError:
            raise
        except Exception as error:  # whatever a model's code raises that is not made for this
            if not share:
                raise
            _log.info("Beams do not share keys and values, as the model does not take them so: %s", error)
            return False
    shared, plain = found
    difference = max(abs(dict(shared[i])[leaf] - score) for i in plain for leaf, score in plain[i])
    if difference > tolerance:
        _log.info("Beams do not share keys and values, as scores would differ by %.2g", difference)
    return difference <= tolerance


@contextmanager
def _forward(model: PreTrainedModel, rows: int, share: bool) -> Iterator[Forward]:
    if not share:
        yield PlainForward(model)
        return
    with shared_attention(model):
        yield SharedForward(model, rows)


def _check(model: PreTrainedModel, prompts: Sequence[Sequence[int]], trie: Trie, beams: int) -> None:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if beams < 1:
        raise InputError(f"beams: expected 1 or more, not {beams}")
    if (largest := int(trie.tokens.max())) >= vocabulary:
        raise InputError(
            f"the identifiers have token {largest}, and the model has only {vocabulary}; the trie is of another"
            " tokenizer, or the model's embeddings were not resized"
        )
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompt {index} has no tokens; give at least one, such as that of the beginning")
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise InputError(f"prompt {index} has a token that the model has not (it has {vocabulary})")
