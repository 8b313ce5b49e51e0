"""Atomic identifiers: a token of the model for each document (Tay et al. 2022), which says from the start what the
document is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil
import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifier, Identifiers

TRAINING_BYTES = 16
"""Of a weight in training: itself, its gradient, and the two means of AdamW."""


def add_atomic_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, identifiers: Identifiers, texts: Mapping[str, str]
) -> int:
    """Add a token for each atomic identifier that is none yet, in place, and return how many there were.

    The embedding of a document's token is the mean of those of its text's tokens, at the mean length (norm) of the
    vocabulary's; so is its row of the output layer, where that has weights of its own. ``texts``: by document ID.
    Raises ``InputError`` for a document without a text, and where there is not the memory to train so many.
    """
    added = new_tokens(tokenizer, identifiers)
    layers = {id(layer.weight): layer for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    needed = len(added) * TRAINING_BYTES * sum(layer.weight.shape[1] for layer in layers.values())
    free = _free_bytes(model.device)
    if needed > free:
        raise InputError(
            f"{len(added):,} atomic identifiers: to train so many tokens needs {needed / 2**30:.1f} GiB, and"
            f" {free / 2**30:.1f} are free; make identifiers of keywords, which need no tokens of their own"
        )
    tokens = {row.id: _tokens(row.id, tokenizer, texts) for row in added}
    name_tokens(tokenizer, added)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    numbers = torch.tensor(tokenizer.convert_tokens_to_ids([row.text for row in added]), device=model.device)
    weights = {id(w): w for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    for weight in weights.values() if added else ():
        _fill(weight, numbers, [tokens[row.id] for row in added])
    return len(added)


def new_tokens(tokenizer: PreTrainedTokenizerBase, identifiers: Identifiers) -> list[Identifier]:
    """The atomic identifiers that are no tokens yet."""
    known = tokenizer.get_vocab()
    return [row for row in identifiers.values() if row.source == "atomic" and row.text not in known]


def name_tokens(tokenizer: PreTrainedTokenizerBase, added: Sequence[Identifier]) -> None:
    """Make identifiers tokens of the tokenizer, numbered on from its own."""
    tokenizer.add_tokens([AddedToken(row.text, normalized=False) for row in added])


@torch.no_grad()
def _fill(weight: Tensor, numbers: Tensor, tokens: list[list[int]]) -> None:
    old = weight[: int(numbers.min())]
    means = torch.stack([weight[row].mean(dim=0) for row in tokens])
    lengths = means.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    weight[numbers] = means / lengths * old.norm(dim=1).mean()


def _tokens(document: str, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, str]) -> list[int]:
    tokens = tokenizer.encode(texts.get(document, ""), add_special_tokens=False)
    if not tokens:
        raise InputError(f"the document {document!r} has no text, of which its atomic identifier's token could be made")
    return tokens


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
