"""Fine-tune a bi-encoder on triplets with Multiple Negatives Ranking Loss."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from evaluation.data import Corpus, Query
from evaluation.files import InputError
from evaluation.models import has_bf16, load_encoder, process_state
from training.losses import RankingLoss
from training.triplets import NoFalseNegativesSampler, TextCollator, Triplet, to_dataset


@dataclass(frozen=True)
class RetrieverSettings:
    """How to train.

    ``base``: folder, hub name or ``packaged:`` name. ``batch_size``: rows over all processes together; each row's
    documents are negatives of the others. ``learning_rate`` is the peak after ``warmup`` (share of all steps), falling
    linearly to 0. ``dropout``: of all layers (None: the model's own). ``scale``: inverse temperature of the softmax.
    ``max_seq_length``: tokens (None: the model's own).
    ``query_prompt``, ``document_prompt``: put before the texts (None: the model's own). ``base_share``: how much of the
    base's weights is mixed back in at the end (0: none), as in WiSE-FT (Wortsman et al. 2022).
    """

    base: str
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.0
    dropout: float | None = None
    scale: float = 20.0
    max_seq_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    base_share: float = 0.0


@dataclass(frozen=True)
class Progress:
    """One finished step: ``step`` of ``steps``, and the loss of the last log (None before the first)."""

    step: int
    steps: int
    loss: float | None


def train_retriever(
    triplets: Sequence[Triplet],
    queries: Mapping[str, Query],
    corpus: Corpus,
    settings: RetrieverSettings,
    output: Path,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
) -> list[dict[str, float]]:
    """Train and write a sentence-transformers folder (safetensors) to ``output``; return the log of losses.

    Under ``accelerate launch`` every process must call this; they share each batch, and the first one writes. bf16 is
    used where the hardware has it; the loss itself is computed in float32, since bf16 similarities lose the digits that
    tell a hard negative from the positive. Raises ``InputError`` if there are no triplets, if the base cannot be loaded
    or if the loss is not a number.
    """
    if not triplets:
        raise InputError("no triplets to train on: no query was left with enough negatives; see the manifests of the stages before for where they went")
    processes = process_state().num_processes
    if settings.batch_size % processes:
        raise InputError(f"training.batch_size: {settings.batch_size} cannot be shared evenly by {processes} processes")
    transformers.set_seed(seed)
    model = load_encoder(settings.base, max_seq_length=settings.max_seq_length)
    if settings.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
    base_weights = {k: v.detach().clone() for k, v in model.state_dict().items()} if settings.base_share else {}
    loss = RankingLoss(model, scale=settings.scale, gather_across_devices=processes > 1)
    collator = TextCollator(model.preprocess, prompts=_prompts(model, settings, len(triplets[0].negative_ids)))
    collator.set_texts(queries, corpus)
    sampler = NoFalseNegativesSampler(triplets, corpus, settings.batch_size, processes, seed, settings.epochs)
    if not len(sampler):
        raise InputError(f"training: {len(triplets)} triplets are too few for {processes} processes")
    with tempfile.TemporaryDirectory(prefix="sharpen-") as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            num_train_epochs=1,  # the sampler goes through all epochs in one pass
            per_device_train_batch_size=settings.batch_size // processes,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="linear",
            bf16=has_bf16(model.device),
            use_cpu=model.device.type == "cpu",
            seed=seed,
            batch_sampler=lambda *_args, **_kwargs: sampler,
            logging_steps=max(1, len(sampler) // processes // 50),
            logging_nan_inf_filter=False,  # it would log the mean of the losses before in place of a NaN
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = _Trainer(
            model=model, args=arguments, train_dataset=to_dataset(triplets), loss=loss, data_collator=collator, callbacks=[_Watch(progress)]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    if base_weights:
        tuned = model.state_dict()
        model.load_state_dict({k: torch.lerp(v, base_weights[k], settings.base_share) if v.is_floating_point() else v for k, v in tuned.items()})
    if process_state().is_main_process:
        given = {"query": settings.query_prompt, "document": settings.document_prompt}
        model.prompts = (model.prompts or {}) | {k: v for k, v in given.items() if v is not None}
        model.save_pretrained(str(output), safe_serialization=True, create_model_card=False)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{k: entry[k] for k in ("step", "loss", "learning_rate")} | {"epoch": entry["epoch"] * settings.epochs} for entry in history]


class _Trainer(SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict) -> None:
        """None: it would encode and describe the IDs as if they were the texts."""


class _Watch(transformers.TrainerCallback):
    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress, self._loss = progress, None

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._loss = (logs or {}).get("loss", self._loss)
        if self._loss is not None and not torch.isfinite(torch.tensor(self._loss)):
            raise InputError(f"training: the loss is {self._loss} at step {state.global_step}; lower training.learning_rate (the base model is unharmed, and nothing was written)")

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= state.global_step == state.max_steps
        if self._progress:
            self._progress(Progress(state.global_step, state.max_steps, self._loss))


def _prompts(model: SentenceTransformer, settings: RetrieverSettings, negatives: int) -> dict[str, str]:
    own = model.prompts or {}
    query = own.get("query") if settings.query_prompt is None else settings.query_prompt
    document = own.get("document") if settings.document_prompt is None else settings.document_prompt
    columns = {"anchor": query, "positive": document} | {f"negative_{n + 1}": document for n in range(negatives)}
    return {column: prompt for column, prompt in columns.items() if prompt}
