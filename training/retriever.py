"""Fine-tune a bi-encoder on triplets."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from evaluation.data import Corpus, Query
from evaluation.files import InputError
from evaluation.models import has_bf16, load_encoder, process_state
from training import checkpoints
from training.losses import make_loss
from training.settings import DISTILLING, LoraSettings, RetrieverSettings
from training.triplets import NoFalseNegativesSampler, TextCollator, Triplet, to_dataset

WEIGHTS = "model.safetensors"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Validation:
    """``score(model)`` is taken ``evaluations`` times, evenly over training, and the best state is kept; training stops
    after ``patience`` times in a row without a better one (None: never). Higher is better; ``metric`` is its name. Every
    process calls ``score``, and must get the same value."""

    metric: str
    score: Callable[[SentenceTransformer], float]
    evaluations: int = 5
    patience: int | None = 3


@dataclass(frozen=True)
class Progress:
    """One finished step: ``step`` of ``steps``, and the loss of the last log (None before the first)."""

    step: int
    steps: int
    loss: float | None


@dataclass(frozen=True)
class Training:
    """What came of it: ``log`` (step, epoch, loss, learning_rate), ``validated`` (step and score), the step whose
    weights were kept, and the steps that there would have been."""

    log: list[dict[str, float]]
    validated: list[dict[str, float]]
    kept_step: int
    steps: int
    resumed_from: int | None = None


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
    a call with the same arguments and a ``work`` that an earlier one left goes on from its last checkpoint, and ends with
    the same weights. None: no checkpoints.

    Under ``accelerate launch`` every process must call this; they share each batch, and the first one writes. bf16 is
    used where the hardware has it; the loss itself is computed in float32. Raises ``InputError`` if there are no triplets,
    if the base cannot be loaded, if settings do not fit, if the loss or a weight is not a number, if a checkpoint is
    damaged or if the disk is full; checkpoints that were written before stay as they are.
    """
    if not triplets:
        raise InputError("no triplets to train on: no query was left with enough negatives; see the manifests of the stages before for where they went")
    processes = process_state().num_processes
    if settings.batch_size % processes:
        raise InputError(f"training.batch_size: {settings.batch_size} cannot be shared evenly by {processes} processes")
    if settings.loss.name in DISTILLING and teacher is None:
        raise InputError(f"training.loss: {settings.loss.name} learns a teacher's scores; give training.teacher")
    transformers.set_seed(seed)
    model = load_encoder(settings.base, max_seq_length=settings.max_seq_length, attention=settings.attention)
    if settings.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
    adapters = _add_adapters(model, settings.lora) if settings.lora else None
    guide = lambda: load_encoder(settings.loss.guide or settings.base, max_seq_length=settings.max_seq_length, attention=settings.attention)  # noqa: E731
    loss = make_loss(settings.loss, model, guide, len(triplets[0].negative_ids), gather=processes > 1)
    collator = TextCollator(model.preprocess, prompts=_prompts(model, settings, len(triplets[0].negative_ids)))
    collator.set_texts(queries, corpus, model.tokenizer.pad_token_id or 0)
    sampler = NoFalseNegativesSampler(triplets, corpus, settings.batch_size, processes, seed, settings.epochs)
    if not len(sampler):
        raise InputError(f"training: {len(triplets)} triplets are too few for {processes} processes")
    scores = {pair: score / settings.loss.teacher_temperature for pair, score in teacher.items()} if teacher and settings.loss.name in DISTILLING else None
    steps = -(-len(sampler) // processes // settings.accumulate)
    with _folder(work) as folder:
        last = checkpoints.newest(folder) if process_state().is_main_process else None
        process_state().wait_for_everyone()  # it removes what was half-written
        last = last or checkpoints.newest(folder)
        trainer = _Trainer(
            model=model, args=_arguments(settings, validation, folder if work else None, folder, steps, sampler, model.device, seed), train_dataset=to_dataset(triplets, scores),
            eval_dataset=to_dataset(triplets[:1], scores) if validation else None,  # asked for, but validation does without it
            loss=loss, data_collator=collator, callbacks=[_Watch(progress)],
        )  # fmt: skip
        trainer.prepare(validation, folder)
        if validation and validation.patience:
            trainer.add_callback(transformers.EarlyStoppingCallback(validation.patience))
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        trainer.check()
        kept_step = trainer.state.global_step
        if validation and (folder / BEST).exists():
            kept_step = trainer.state.best_global_step
            load_model(model, folder / BEST)
        process_state().wait_for_everyone()
    if adapters:
        adapters.merge_and_unload()
    if process_state().is_main_process:
        given = {"query": settings.query_prompt, "document": settings.document_prompt}
        model.prompts = (model.prompts or {}) | {k: v for k, v in given.items() if v is not None}
        model.save_pretrained(str(output), safe_serialization=True, create_model_card=False)
    history = trainer.state.log_history
    return Training(
        log=[{k: e[k] for k in ("step", "loss", "learning_rate")} | {"epoch": e["epoch"] * settings.epochs} for e in history if "loss" in e],
        validated=[{"step": e["step"], validation.metric: e[f"eval_{validation.metric}"]} for e in history if f"eval_{validation.metric}" in e] if validation else [],
        kept_step=kept_step, steps=steps, resumed_from=int(last.name.rpartition("-")[2]) if last else None,
    )  # fmt: skip


def _arguments(settings: RetrieverSettings, validation: Validation | None, checkpoints_in: Path | None, folder: Path, steps: int, sampler: NoFalseNegativesSampler, device: torch.device, seed: int) -> SentenceTransformerTrainingArguments:
    every = max(1, steps // validation.evaluations) if validation else None
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,  # the sampler goes through all epochs in one pass
        per_device_train_batch_size=settings.batch_size // process_state().num_processes,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        bf16=has_bf16(device),
        use_cpu=device.type == "cpu",
        seed=seed,
        batch_sampler=lambda *_args, **_kwargs: sampler,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,  # it would log the mean of the losses before in place of a NaN
        save_strategy="steps" if checkpoints_in else "no",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,  # one that is being written, and the one before
        eval_strategy="steps" if validation else "no",
        eval_steps=every,
        metric_for_best_model=f"eval_{validation.metric}" if validation else None,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # how often in a row it got no better
        report_to=list(settings.trackers),
        disable_tqdm=True,
    )  # fmt: skip


class _Trainer(SentenceTransformerTrainer):
    """Checkpoints that are whole, in safetensors; validation by a score; an error as soon as a number is none."""

    def prepare(self, validation: Validation | None, folder: Path) -> None:
        self._validation, self._folder = validation, folder
        self._bad_step = torch.zeros((), dtype=torch.long, device=self.args.device)

    def add_model_card_callback(self, default_args_dict) -> None:
        """None: it would encode and describe the IDs as if they were the texts."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        # kept on the device: asking a GPU at each step would make it wait
        first = (self._bad_step == 0) & ~torch.isfinite(loss.detach())
        self._bad_step = torch.where(first, self.state.global_step + 1, self._bad_step)
        return loss

    def check(self) -> None:
        """Raise ``InputError`` if a loss or a weight was not a number."""
        step = int(self._bad_step)
        what = f"the loss was not a number at step {step}" if step else ""
        if not what and not all(torch.isfinite(p).all() for p in self.model.parameters()):
            what = f"a weight is not a number after step {self.state.global_step}"
        if what:
            kept = checkpoints.newest(self._folder) if self.args.save_strategy != "no" else None
            raise InputError(f"training: {what}; lower training.learning_rate (the base model is unharmed, and no model was written{f'; {kept} is the last checkpoint' if kept else ''})")

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self.check()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        name, value = f"eval_{self._validation.metric}", self._validation.score(self.model)
        if self.state.best_metric is None or value > self.state.best_metric:
            self.state.best_global_step = self.state.global_step
            if self.is_world_process_zero():
                with _disk(self._folder):
                    _save(self.model, self._folder / BEST)
        self.log({name: value})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {name: value})
        return {name: value}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.check()
        with _disk(self._folder):
            super()._save_checkpoint(*args, **kwargs)
            process_state().wait_for_everyone()  # each process writes the state of its random numbers
            if self.is_world_process_zero():
                checkpoints.seal(self._folder / f"checkpoint-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        load_model(self.model, Path(checkpoint_path) / WEIGHTS)


class _Watch(transformers.TrainerCallback):
    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress, self._loss = progress, None

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= state.global_step == state.max_steps
        if self._progress:
            self._progress(Progress(state.global_step, state.max_steps, self._loss))


def _add_adapters(model: SentenceTransformer, settings: LoraSettings) -> Any:
    """Put adapters into the model, in place, and return PEFT's view of it, which can merge them."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise InputError("training.lora: needs PEFT; pip install 'sharpen[lora]'") from None
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets)
    try:
        return get_peft_model(model[0].auto_model, config)
    except ValueError as error:  # target_modules that the model has not
        raise InputError(f"training.lora: {error}") from None


def _save(model: SentenceTransformer, path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    save_model(model, str(partial))
    partial.replace(path)


@contextmanager
def _folder(work: Path | None):
    """``work``, or a folder that goes when training ends."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="sharpen-") as scratch:
            yield Path(scratch)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work


@contextmanager
def _disk(folder: Path):
    """Say what is to be done where a disk is full."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(words in str(error) for words in ("No space left", "File too large", "quota exceeded", "os error 28", "os error 27", "os error 122"))
        if not full:
            raise
        kept = checkpoints.newest(folder)
        free = shutil.disk_usage(folder).free / 2**20
        raise InputError(f"{folder}: a checkpoint could not be written, the disk is full ({error}; {free:,.0f} MiB are free). Make room; the same command goes on from {kept.name if kept else 'the beginning'}") from error


def _prompts(model: SentenceTransformer, settings: RetrieverSettings, negatives: int) -> dict[str, str]:
    own = model.prompts or {}
    query = own.get("query") if settings.query_prompt is None else settings.query_prompt
    document = own.get("document") if settings.document_prompt is None else settings.document_prompt
    columns = {"anchor": query, "positive": document} | {f"negative_{n + 1}": document for n in range(negatives)}
    return {column: prompt for column, prompt in columns.items() if prompt}
