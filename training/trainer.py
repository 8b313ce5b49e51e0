"""The training loop that retriever and reranker share: sentence-transformers' own, made safe to kill."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.training import checkpoints
from sharpen.training.fast_cpu.layers import CPUDropout
from sharpen.training.settings import Optimization
from sharpen.training.triplets import DealtSampler
from torch import nn

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Validation:
    """``score(model)`` is taken ``evaluations`` times, evenly over training, and the best state is kept; training stops
    after ``patience`` times in a row without a better one (None: never). Higher is better; ``metric`` is its name.
    Every process calls ``score``, and must get the same value."""

    metric: str
    score: Callable[[Any], float]
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
    weights were kept, the last step, and how many there would have been without an early end."""

    log: list[dict[str, float]]
    validated: list[dict[str, float]]
    kept_step: int
    ended: int
    steps: int
    resumed_from: int | None = None


def fit(
    trainer_type: type,
    arguments_type: type,
    model: nn.Module,
    loss: nn.Module,
    dataset: Dataset,
    collator: Any,
    sampler: DealtSampler,
    settings: Optimization,
    seed: int,
    *,
    validation: Validation | None,
    work: Path | None,
    progress: Callable[[Progress], None] | None,
) -> Training:
    """Train ``model`` in place and leave it in the best state; ``trainer_type`` is a trainer of sentence-transformers
    under ``Careful``, ``sampler`` deals out the rows of ``dataset``. Raises ``InputError`` as ``train_retriever``
    does."""
    processes = process_state().num_processes
    if not len(sampler):
        raise InputError(f"training: {len(dataset)} rows are too few for {processes} processes")
    steps = -(-len(sampler) // processes // settings.accumulate)
    arguments = _arguments(settings, validation, work is not None, steps, seed, next(model.parameters()).device)
    with _folder(work) as folder:
        last = checkpoints.newest(folder) if process_state().is_main_process else None
        process_state().wait_for_everyone()  # the first one removes what was half-written
        last = last or checkpoints.newest(folder)
        trainer = trainer_type(
            model=model,
            args=arguments_type(output_dir=str(folder), batch_sampler=lambda *_args, **_kwargs: sampler, **arguments),
            train_dataset=dataset,
            eval_dataset=dataset.select(range(1)) if validation else None,  # asked for, but validation does without it
            loss=loss,
            data_collator=collator,
            callbacks=[_Watch(progress)],
        )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError(
                "training: FSDP and DeepSpeed are not supported yet, as no process then has all the weights that are to"
                " be written; launch with DDP (accelerate launch --multi_gpu)"
            )
        trainer.prepare(validation, folder)
        if validation and validation.patience:
            trainer.add_callback(transformers.EarlyStoppingCallback(validation.patience))
        trainer.remove_callback(transformers.PrinterCallback)
        if last and validation and _had_stopped(last, validation):
            trainer.state = transformers.TrainerState.load_from_json(str(last / "trainer_state.json"))
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            trainer.check()
        ended = kept_step = trainer.state.global_step
        if validation and trainer.state.best_global_step:
            kept_step = trainer.state.best_global_step
            if process_state().is_main_process:  # which writes the model; the others may not see the folder
                _load_best(model, folder, kept_step)
        process_state().wait_for_everyone()
    history = trainer.state.log_history
    return Training(
        # the trainer takes all epochs for one
        log=[
            {k: e[k] for k in ("step", "loss", "learning_rate")} | {"epoch": e["epoch"] * settings.epochs}
            for e in history
            if "loss" in e
        ],
        validated=(
            [
                {"step": e["step"], validation.metric: e[f"eval_{validation.metric}"]}
                for e in history
                if f"eval_{validation.metric}" in e
            ]
            if validation
            else []
        ),
        kept_step=kept_step,
        ended=ended,
        steps=steps,
        resumed_from=int(last.name.rpartition("-")[2]) if last else None,
    )


def _had_stopped(checkpoint: Path, validation: Validation) -> bool:
    """Whether the training had come to its early end when the checkpoint was written."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
    return (
        validation.patience is not None
        and stopping.get("attributes", {}).get("early_stopping_patience_counter", 0) >= validation.patience
    )


def _best(folder: Path, step: int | None) -> Path:
    return folder / f"best-{step}.safetensors"


def _load_best(model: nn.Module, folder: Path, step: int) -> None:
    try:
        load_model(model, _best(folder, step))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{_best(folder, step)}: the best state cannot be read ({error}). Delete {folder}, and the same command"
            " trains anew"
        ) from error


def _arguments(
    settings: Optimization, validation: Validation | None, keep: bool, steps: int, seed: int, device: torch.device
) -> dict[str, Any]:
    return {
        "num_train_epochs": 1,  # the sampler goes through all epochs in one pass
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        "bf16": has_bf16(device),
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type != "cpu",
        "seed": seed,
        "logging_steps": max(1, steps // 50),
        "logging_nan_inf_filter": False,  # it would log the mean of the losses before in place of a NaN
        "save_strategy": "steps" if keep else "no",
        "save_steps": settings.checkpoint_steps,
        "save_total_limit": 2,  # the last, and the one before it or the best
        "eval_strategy": "steps" if validation else "no",
        "eval_steps": -(-steps // validation.evaluations) if validation else None,
        "metric_for_best_model": f"eval_{validation.metric}" if validation else None,
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # how often in a row it got no better
        "report_to": list(settings.trackers),
        "disable_tqdm": True,
    }


class Careful:
    """Over a trainer of sentence-transformers: checkpoints that are whole, in safetensors; validation by a score; an
    error as soon as a number is none."""

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
        if not what and not all(p.detach().sum().isfinite() for p in self.model.parameters()):
            what = f"a weight is not a number after step {self.state.global_step}"
        if what:
            kept = checkpoints.newest(self._folder) if self.args.save_strategy != "no" else None
            raise InputError(
                f"training: {what}; lower training.learning_rate (the base model is unharmed, and no model was"
                f" written{f'; {kept} is the last checkpoint' if kept else ''})"
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self.check()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        name, value = f"eval_{self._validation.metric}", self._validation.score(self.model)
        if self.state.best_metric is None or value > self.state.best_metric:
            self.state.best_global_step = self.state.global_step
            if self.is_world_process_zero():
                with disk_errors(self._folder):
                    _write_weights(self.model, _best(self._folder, self.state.global_step))
        self.log({name: value})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {name: value})
        return {name: value}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.check()
        with disk_errors(self._folder):
            super()._save_checkpoint(*args, **kwargs)
            process_state().wait_for_everyone()  # each process writes the state of its random numbers
            if self.is_world_process_zero():
                checkpoints.seal(self._folder / f"checkpoint-{self.state.global_step}")
                for other in self._folder.glob(
                    "best-*.safetensors"
                ):  # until now an older checkpoint could have needed it
                    if other != _best(self._folder, self.state.best_global_step):
                        other.unlink()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
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


def _write_weights(model: nn.Module, path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    save_model(model, str(partial))
    partial.replace(path)


def processes_of_batch(part: str, batch_size: int) -> int:
    """How many processes share a batch of the recipe's ``part``. Raises ``InputError`` if it cannot be dealt out
    evenly."""
    processes = process_state().num_processes
    if batch_size % processes:
        raise InputError(f"{part}.batch_size: {batch_size} cannot be shared evenly by {processes} processes")
    return processes


def set_dropout(model: nn.Module, share: float | None) -> None:
    """Of all layers; None leaves the model's own. On a CPU the layers are replaced by faster ones."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Dropout):
                module.p = module.p if share is None else share
                if on_cpu:
                    setattr(parent, name, CPUDropout(module.p))


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """``work``, or a folder that goes when training ends."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="sharpen-") as scratch:
            yield Path(scratch)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say what is to be done where the disk that has ``folder`` is full, as an ``InputError``."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            words in str(error)
            for words in (
                "No space left",
                "File too large",
                "quota exceeded",
                "os error 28",
                "os error 27",
                "os error 122",
            )
        )
        if not full:
            raise
        kept = checkpoints.newest(folder)
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free / 2**20
        onward = f"goes on from {kept.name}" if kept else "goes on from the last checkpoint, or begins again"
        raise InputError(
            f"{folder}: not everything could be written, the disk is full ({error}; {free:,.0f} MiB are free). Make"
            f" room; the same command {onward}"
        ) from error
