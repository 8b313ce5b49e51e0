"""Teach a language model to write the identifier of a text's or a query's document (the first stage)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from sharpen.evaluation.encoders.precision import autocast
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifiers
from sharpen.evaluation.generative.model import GenerativeModel, load_causal_lm
from sharpen.training.generative.atomic import add_atomic_tokens
from sharpen.training.generative.batches import SampledTrainer, prepare_weights, save_merged
from sharpen.training.generative.examples import Example, combine, texts_by_document
from sharpen.training.generative.loss import check_loss, joint_loss
from sharpen.training.generative.packing import Rows, Tokenized, packed, padded, prompt_room
from sharpen.training.generative.settings import GenerativeSettings
from sharpen.training.lora import device_of_base
from sharpen.training.samplers import GlobalBatchSampler
from sharpen.training.trainer import TrainingResult, TrainingRun, TrainingSetup, fit, processes_of_batch

PART = "generative"


def train_generative(
    context: Sequence[Example],
    queries: Sequence[Example],
    identifiers: Identifiers,
    settings: GenerativeSettings,
    output: Path | str = "retriever",
    seed: int = 13,
    run: TrainingRun | None = None,
) -> TrainingResult:
    """Train on texts of documents and on queries by the joint loss of section 3.1 of Wen et al. 2025 (``Tokenized``),
    and write a folder as ``save_generative`` does.

    ``context``: left out where ``settings.context`` is false. ``identifiers``: of all documents that can be found;
    atomic ones become tokens of the model, if they are not (``add_atomic_tokens``). ``run``: checkpoints, progress and
    validation, whose ``score`` is given the language model. ``settings.base`` may be an earlier result, to go on with
    documents that have been added: ``replay`` mixes examples for that.

    A batch's loss is the mean over its tokens, by weight: tokens of long texts count as those of short ones, as in the
    supervised training that the paper did (TRL), and only the ratio of the two weights matters. Under ``accelerate
    launch`` every process must call this; they share each batch, and the first one writes. Raises ``InputError`` as
    ``train_retriever`` does, for identifiers that collide or leave no room for a query, and for examples of documents
    without one.

    ::

        settings = GenerativeSettings(base="packaged:smollm2-135m-instruct")
        retriever = train_generative(texts, queries, identifiers, settings, output="retriever")
    """
    run, output = run or TrainingRun(), Path(output)
    texts, context = texts_by_document(context), context if settings.context else ()
    for example in (*context, *queries):
        if example.document not in identifiers:
            raise InputError(f"{example.key}: its document {example.document!r} has no identifier")
    examples = combine(context, queries, settings.combine, seed)
    if not examples:
        raise InputError("no examples to train on: there are neither texts of documents nor queries")
    processes = processes_of_batch(PART, settings.batch_size)
    transformers.set_seed(seed)
    model, tokenizer = load_causal_lm(settings.base, device_of_base(settings.lora))
    if settings.layers:
        keep_layers(model, settings.layers)
    if any(row.source == "atomic" for row in identifiers.values()):
        if settings.lora:
            raise InputError(f"{PART}.lora: atomic identifiers are new tokens, which need all weights; leave out lora")
        add_atomic_tokens(model, tokenizer, identifiers, texts)
    room = prompt_room(identifiers, tokenizer, settings.max_tokens, PART)
    check_positions(model, settings)
    check_loss(model, settings.pack, PART)
    adapters = prepare_weights(model, settings, PART)
    tokenized = Tokenized(identifiers, tokenizer, room, settings.input_weight, settings.output_weight)
    limit = settings.mini_batch_tokens or (1024 if model.device.type == "cpu" else 4096)
    collator = _Collator(examples, tokenized, limit, settings.pack)
    dataset = Dataset.from_dict({"row": range(len(examples))})
    sampler = GlobalBatchSampler(len(examples), settings.batch_size, processes, seed, settings.epochs)
    setup = TrainingSetup(PART, model, None, dataset, collator, sampler, settings, seed, run)
    result = fit(_Trainer, TrainingArguments, setup)
    retriever = GenerativeModel(model, tokenizer, identifiers, room, settings.beams, settings.base)
    save_merged(retriever, adapters, output)
    return replace(result, path=output, triplets=len(examples))


def check_positions(model: PreTrainedModel, settings: GenerativeSettings) -> None:
    """Raise ``InputError`` for rows that the model has no positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and settings.max_tokens > positions:
        raise InputError(
            f"{PART}.max_tokens: {settings.max_tokens:,}, and the model has positions for {positions:,} tokens; lower"
            " it"
        )


def keep_layers(model: PreTrainedModel, number: int) -> None:
    """Take all layers behind the first ``number`` out of a language model, in place. Raises ``InputError`` for more
    than it has, and for a model whose layers are not found."""
    layers, config = getattr(model.get_decoder(), "layers", None), model.config.get_text_config()
    if not isinstance(layers, nn.ModuleList) or not hasattr(config, "num_hidden_layers"):
        raise InputError(f"{PART}.layers: those of a {type(model).__name__} are not known; leave it out")
    if number > len(layers):
        raise InputError(f"{PART}.layers: {number}, and the base has {len(layers)}")
    del layers[number:]
    config.num_hidden_layers = number
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:number]


class _MiniBatchTrainer(transformers.Trainer):
    """A batch goes through the model in mini-batches, as many as its tokens need."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        model.train()
        batches = [Rows(**rows) for rows in self._prepare_inputs(inputs)["mini_batches"]]
        # of all processes: each has examples of other lengths, and DistributedDataParallel takes the mean of gradients
        total = self.accelerator.reduce(torch.stack([rows.weights.sum() for rows in batches]).sum())
        factor = self.accelerator.num_processes / self.current_gradient_accumulation_steps / total
        loss = torch.zeros((), device=total.device)
        for rows in batches:
            is_last = rows is batches[-1]
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                with autocast(total.device, self.setup.settings.precision):
                    part = joint_loss(model, rows) * factor
                self.accelerator.backward(part)
            loss += part.detach()
        return loss


class _Trainer(SampledTrainer, _MiniBatchTrainer):
    @classmethod
    def options(cls, setup: TrainingSetup) -> dict[str, Any]:
        # accelerate's autocast would keep all hidden states a second time, in float32
        return {"bf16": False}


class _Collator:
    """Rows of numbers of examples as mini-batches of ``limit`` tokens."""

    def __init__(self, examples: Sequence[Example], tokenized: Tokenized, limit: int, pack: bool) -> None:
        self._examples, self._tokenized, self._limit, self._pack = examples, tokenized, limit, pack

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, list[dict[str, Tensor]]]:
        sequences = [self._tokenized(self._examples[row["row"]]) for row in rows]
        batches = packed(sequences, self._limit) if self._pack else padded(sequences, self._limit)
        return {"mini_batches": [batch.as_dict() for batch in batches]}
