"""Fine-tune a bi-encoder on triplets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.training.losses import make_loss
from sharpen.training.settings import DISTILLING, LoraSettings, RetrieverSettings
from sharpen.training.trainer import (
    Careful,
    Progress,
    Training,
    Validation,
    disk_errors,
    fit,
    processes_of_batch,
    set_dropout,
)
from sharpen.training.triplets import NoFalseNegativesSampler, TextCollator, Triplet, to_dataset


def train_retriever(
    triplets: Sequence[Triplet],
    queries: Mapping[str, Query],
    corpus: Corpus,
    settings: RetrieverSettings,
    output: Path,
    seed: int,
    *,
    teacher: Mapping[tuple[str, str], float] | None = None,
    validation: Validation | None = None,
    work: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Training:
    """Train and write a sentence-transformers folder (safetensors) to ``output``.

    ``teacher``: scores of (query ID, document ID), for the losses that learn them. ``work``: folder of the checkpoints;
    a call with the same arguments and a ``work`` that an earlier one left goes on from its last checkpoint, and ends
    with the same weights. None: no checkpoints.

    Under ``accelerate launch`` every process must call this; they share each batch, and the first one writes. bf16 is
    used where the hardware has it; the loss itself is computed in float32. Raises ``InputError`` if there are no
    triplets, if the base cannot be loaded, if settings do not fit, if the loss or a weight is not a number, if a
    checkpoint is damaged or if the disk is full; checkpoints that were written before stay as they are.
    """
    if not triplets:
        raise InputError(
            "no triplets to train on: no query was left with enough negatives; see the manifests of the stages before"
            " for where they went"
        )
    processes = processes_of_batch("training", settings.batch_size)
    if settings.loss.name in DISTILLING and teacher is None:
        raise InputError(f"training.loss: {settings.loss.name} learns a teacher's scores; give training.teacher")
    transformers.set_seed(seed)
    model = load_encoder(settings.base, max_seq_length=settings.max_seq_length, attention=settings.attention)
    set_dropout(model, settings.dropout)
    adapters = _add_adapters(model, settings.lora) if settings.lora else None

    def guide():
        return load_encoder(
            settings.loss.guide or settings.base, max_seq_length=settings.max_seq_length, attention=settings.attention
        )

    loss = make_loss(settings.loss, model, guide, len(triplets[0].negative_ids), gather=processes > 1)
    collator = TextCollator(model.preprocess, prompts=_prompts(model, settings, len(triplets[0].negative_ids)))
    collator.set_texts(queries, corpus, model.tokenizer.pad_token_id or 0)
    sampler = NoFalseNegativesSampler(triplets, corpus, settings.batch_size, processes, seed, settings.epochs)
    scores = (
        {pair: score / settings.loss.teacher_temperature for pair, score in teacher.items()}
        if teacher and settings.loss.name in DISTILLING
        else None
    )
    done = fit(
        _Trainer,
        SentenceTransformerTrainingArguments,
        model,
        loss,
        to_dataset(triplets, scores),
        collator,
        sampler,
        settings,
        seed,
        validation=validation,
        work=work,
        progress=progress,
    )
    if adapters:
        adapters.merge_and_unload()
    if process_state().is_main_process:
        given = {"query": settings.query_prompt, "document": settings.document_prompt}
        model.prompts = (model.prompts or {}) | {k: v for k, v in given.items() if v is not None}
        with disk_errors(output):
            model.save_pretrained(str(output), safe_serialization=True, create_model_card=False)
    return done


class _Trainer(Careful, SentenceTransformerTrainer):
    pass


def _add_adapters(model: SentenceTransformer, settings: LoraSettings) -> Any:
    """Put adapters into the model, in place, and return PEFT's view of it, which can merge them."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise InputError("training.lora: needs PEFT; pip install 'sharpen[lora]'") from None
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    try:
        adapters = get_peft_model(model[0].auto_model, config)
    except ValueError as error:  # target_modules that the model has not
        raise InputError(f"training.lora: {error}") from None
    set_dropout(adapters, None)  # their share stays as it is
    return adapters


def _prompts(model: SentenceTransformer, settings: RetrieverSettings, negatives: int) -> dict[str, str]:
    own = model.prompts or {}
    query = own.get("query") if settings.query_prompt is None else settings.query_prompt
    document = own.get("document") if settings.document_prompt is None else settings.document_prompt
    columns = {"anchor": query, "positive": document} | {f"negative_{n + 1}": document for n in range(negatives)}
    return {column: prompt for column, prompt in columns.items() if prompt}
