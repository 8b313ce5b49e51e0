"""Beam search in which a language model can only write sequences of a trie.

The score of a sequence ``t`` of ``L`` tokens behind a prompt ``x`` is, without any penalty of length,

    exact           s(t) = sum over i = 1..L of log p(t_i | x, t_1..t_{i-1}),          p: softmax over the vocabulary
    renormalised    the same with p over the tokens that the trie allows behind t_1..t_{i-1} alone

so that in the renormalised mode the probabilities of all sequences sum to 1. The search is that of
``transformers.generate(num_beams=B, num_return_sequences=B, length_penalty=0.0)`` with a trie for its
``prefix_allowed_tokens_fn`` (renormalised: and ``renormalize_logits=True``): at each step the candidates are all allowed
continuations of the at most ``B`` beams; those among the best ``B`` that are whole sequences are results, and the best
``B`` others are the beams of the next step. It ends when no beam scores above the worst of ``B`` results: scores only
fall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.forward import PlainForward
from sharpen.evaluation.generative.search import Mode, Search
from sharpen.evaluation.generative.trie import Trie


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
    """
    _check(model, prompts, trie, beams)
    results: list[list[tuple[int, float]]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            rows = min(batch_size, len(prompts))
            search = Search(PlainForward(model, rows), trie, beams, rows, mode, model.device)
            for index, found in search.run(prompts):
                results[index] = found
                if progress:
                    progress(1)
    finally:
        model.train(was_training)
    return results


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
