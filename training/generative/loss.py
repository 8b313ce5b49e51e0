"""The joint loss of input and output, over a vocabulary that is never there whole for all tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from sharpen.evaluation.files import InputError
from sharpen.training.generative.packing import Rows, TokenSequence, packed, padded

BLOCK_LOGITS = 2**24
"""Logits that are there at a time (64 MiB in float32)."""
CLOSE = 1e-3
"""Logits of a row that differ by less, relative to the largest, are the same but for rounding."""


def joint_loss(model: nn.Module, rows: Rows) -> Tensor:
    """The sum over the tokens of ``rows`` of weight times negative log-likelihood, in float32; a scalar.

    ``model``: a language model, or DistributedDataParallel's around it.
    """
    outputs = model(
        input_ids=rows.tokens,
        position_ids=rows.positions,
        use_cache=False,
        output_hidden_states=True,
        logits_to_keep=1,  # they are computed below, where something is predicted
    )
    inner = getattr(model, "module", model)
    hidden, layer = outputs.hidden_states[-1].flatten(0, 1)[rows.places], inner.get_output_embeddings()
    answers = (rows.targets, rows.weights)
    return _BlockwiseLikelihood.apply(hidden, layer.weight, layer.bias, answers, Finish(inner))


class Finish:
    """What a model does with the product of its output layer: most nothing, some scale or cap it. ``learns``: whether
    gradients are wanted."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        self._cap = getattr(config, "final_logit_softcapping", None)
        self.learns = torch.is_grad_enabled()

    def __call__(self, product: Tensor) -> Tensor:
        """Logits, in float32."""
        logits = product.float() * self._scale if self._scale != 1 else product.float()
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits


def check_loss(model: PreTrainedModel, pack: bool, part: str = "training") -> None:
    """Raise ``InputError`` for a model of which the loss cannot be taken as it is here: whose logits are more than a
    linear layer of its hidden states, or that sees across the sequences of a row where ``pack``."""
    number = min(64, model.get_input_embeddings().num_embeddings)
    sequences = [
        TokenSequence([(7 * n + 3 * start) % number for n in range(length)], [0.0] + [1.0] * (length - 1))
        for start, length in ((1, 9), (2, 6))
    ]
    was_training = model.training
    try:
        with torch.inference_mode():
            model.eval()
            separate = [_loss(model, rows) for s in sequences for rows in padded([s], 1)]
            for sequence, loss in zip(sequences, separate, strict=True):
                tokens = torch.tensor([sequence.tokens], device=model.device)
                logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
                whole = nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
                if abs(whole - loss) > CLOSE * whole:
                    raise InputError(
                        f"{part}.base: a {type(model).__name__} makes its logits in a way that is not supported"
                    )
            if pack:
                together = sum(_loss(model, rows) for rows in packed(sequences, 64))
                if abs(together - sum(separate)) > CLOSE * together:
                    raise InputError(
                        f"{part}.pack: a {type(model).__name__} sees across the texts of a row; set pack: false"
                    )
    finally:
        model.train(was_training)


def _loss(model: PreTrainedModel, rows: Rows) -> Tensor:
    return joint_loss(model, Rows(**{k: v.to(model.device) for k, v in rows.as_dict().items()}))


class _BlockwiseLikelihood(torch.autograd.Function):
    """Sum of weighted negative log-likelihoods of ``targets``.

    Logits are made block by block, and their gradients at once, in forward: nothing of the vocabulary's size is kept
    but the gradient of the output layer itself, and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, answers: tuple[Tensor, Tensor], finish: Finish
    ) -> Tensor:
        (targets, weights), kind = answers, hidden.device.type
        narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        inputs, learnt = (hidden, weight, bias), [finish.learns and needed for needed in ctx.needs_input_grad[:3]]
        # cast once, not in each block
        copies = [None if t is None else t.detach().to(narrow) for t in inputs]
        gradients = [torch.zeros_like(t) if needed else None for t, needed in zip(inputs, learnt, strict=True)]
        total = torch.zeros((), device=hidden.device)
        step = max(1, BLOCK_LOGITS // len(weight))
        for start in range(0, len(hidden), step):
            block = slice(start, start + step)
            parts = [None if t is None else t[block] if n == 0 else t for n, t in enumerate(copies)]
            parts = [t.detach().requires_grad_() if needed else t for t, needed in zip(parts, learnt, strict=True)]
            with torch.set_grad_enabled(any(learnt)), torch.autocast(kind, enabled=False):
                logits = finish(nn.functional.linear(*parts))
                loss = nn.functional.cross_entropy(logits, targets[block], reduction="none") @ weights[block]
            total += loss.detach()
            wanted = [t for t, needed in zip(parts, learnt, strict=True) if needed]
            found = iter(torch.autograd.grad(loss, wanted) if wanted else ())
            for n, gradient in enumerate(gradients):
                if gradient is not None:
                    (gradient[block] if n == 0 else gradient).add_(next(found))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if g is None else g * gradient for g in ctx.saved_tensors), None, None)
