"""The training loop that all trainings have in common: transformers' own, made safe to kill."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_model, save_model
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from torch import nn

from sharpen.evaluation.encoders.precision import resolve_precision
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.training import checkpoints, sharding
from sharpen.training.launch import check_launch
from sharpen.training.micro_batches import accelerated
from sharpen.training.optimization import Optimization
from sharpen.training.samplers import GlobalBatchSampler
from sharpen.training.sharding import will_shard
from sharpen.training.tracking import ProgressCallback, StepProgress, guard_trackers
from sharpen.training.validation import Validation
from sharpen.training.vectors import TeacherVectors

WEIGHTS, OPTIMIZER, SCHEDULER = "model.safetensors", "optimizer.pt", "scheduler.pt"
TeacherScores = Mapping[tuple[str, str], float]
"""(Query ID, document ID) to a score; higher is more relevant."""


@dataclass(frozen=True)
class TrainingRun:
    """What a training is lent, beside data and settings.

    ``work``: folder of the checkpoints; a call with the same arguments and a ``work`` that an earlier one left goes on
    from its last checkpoint, and ends with the same weights. None: no checkpoints. ``progress`` is called after each
    step. ``validation``: None keeps the last state. ``teacher``: scores of each row's documents, for the losses that
    learn them. ``vectors``: encoders' vectors of the rows' texts, for the loss that learns these. ``index``: the base's
    vectors of the documents, for a training that keeps them.

    >>> TrainingRun(work=Path("checkpoints")).validation is None
    True
    """

    work: Path | None = None
    progress: Callable[[StepProgress], None] | None = None
    validation: Validation | None = None
    teacher: TeacherScores | None = None
    vectors: TeacherVectors | None = None
    index: Dense | None = None


@dataclass(frozen=True)
class TrainingResult:
    """A trained model's folder (``path``), and how it came about.

    ``log`` has rows of step, epoch, loss and learning_rate, ``validated`` of step and the validation's metric.
    ``kept_step``: whose weights were kept. ``last_step``: the last one trained. ``steps``: how many there would have
    been without an early end. ``triplets`` and ``queries_left_out``: rows trained on, and queries with too few
    negatives for one. Usable wherever a path is.
    """

    log: list[dict[str, float]]
    validated: list[dict[str, float]]
    kept_step: int
    last_step: int
    steps: int
    resumed_from: int | None = None
    path: Path | None = None
    triplets: int = 0
    queries_left_out: int = 0

    def __fspath__(self) -> str:
        return str(self.path)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what another place or another attempt would change (``path``, ``resumed_from``).

        >>> TrainingResult([], [], kept_step=2, last_step=4, steps=8).to_dict()["kept_step"]
        2
        """
        return {key: value for key, value in asdict(self).items() if key not in ("path", "resumed_from")}


@dataclass(frozen=True)
class TrainingSetup:
    """A model with what it is trained on. ``part``: the recipe's, by which errors name keys. ``loss``: None for a
    trainer that has its own. ``settings``: with a precision. ``tokenizer``: for a
    trainer that asks for it. ``callbacks``: of the loss."""

    part: str
    model: nn.Module
    loss: nn.Module | None
    dataset: Dataset
    collator: Any
    sampler: GlobalBatchSampler
    settings: Optimization
    seed: int
    run: TrainingRun
    tokenizer: Any = None
    callbacks: tuple[transformers.TrainerCallback, ...] = ()


def fit(trainer_type: type, arguments_type: type, setup: TrainingSetup) -> TrainingResult:
    """Train the model in place and leave it in the best state.

    ``trainer_type``: a trainer of transformers under ``CheckpointingTrainer``. Raises ``InputError`` as
    ``train_retriever`` does.
    """
    check_launch([setup.part])
    processes = process_state().num_processes
    if not len(setup.sampler):
        raise InputError(f"{setup.part}: {len(setup.dataset)} rows are too few for {processes} processes")
    steps = -(-len(setup.sampler) // processes // setup.settings.accumulate)
    validation = setup.run.validation
    device = next(setup.model.parameters()).device
    as_it_is = will_shard() or isinstance(setup.model, SparseEncoder | MultiVectorEncoder)
    faster = nullcontext() if as_it_is else accelerated(setup.model)
    with work_folder(setup.run.work) as folder, faster:
        if process_state().is_main_process:
            checkpoints.remove_torn(folder)
        process_state().wait_for_everyone()
        last = checkpoints.newest(folder)
        trainer = _trainer(trainer_type, arguments_type, setup, folder, steps)
        if last and validation and checkpoints.stopped_early(last, validation.patience):
            trainer.state = transformers.TrainerState.load_from_json(str(last / "trainer_state.json"))
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            trainer.check()
            trainer.whole_model()
        setup.model.to(device)  # while weights are shared out, it is on the CPU
        last_step = kept_step = trainer.state.global_step
        if validation and trainer.state.best_global_step:
            kept_step = trainer.state.best_global_step
            if process_state().is_main_process:  # which writes the model; the others may not have the folder
                checkpoints.load_best(setup.model, folder, kept_step)
        process_state().wait_for_everyone()
    return TrainingResult(
        log=_log(trainer.state.log_history, setup.settings.epochs),
        validated=_validated(trainer.state.log_history, validation),
        kept_step=kept_step,
        last_step=last_step,
        steps=steps,
        resumed_from=int(last.name.rpartition("-")[2]) if last else None,
    )


def _trainer(
    trainer_type: type, arguments_type: type, setup: TrainingSetup, folder: Path, steps: int
) -> CheckpointingTrainer:
    validation, whole = setup.run.validation, setup.model
    if will_shard():
        model, loss = sharding.copied(setup.model, setup.loss)
        setup = replace(setup, model=model, loss=loss)
    trainer = trainer_type.of(
        setup,
        arguments_type,
        {"output_dir": str(folder), **_arguments(setup, steps, next(setup.model.parameters()).device)},
        # asked for, but validation does without it
        eval_dataset=setup.dataset.select(range(1)) if validation else None,
        callbacks=[ProgressCallback(setup.run.progress), *setup.callbacks],
    )
    guard_trackers(trainer, trainer.args.report_to)
    trainer.prepare(setup.part, validation, folder, whole)
    if validation and validation.patience:
        trainer.add_callback(transformers.EarlyStoppingCallback(validation.patience))
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _arguments(setup: TrainingSetup, steps: int, device: torch.device) -> dict[str, Any]:
    settings, validation = setup.settings, setup.run.validation
    return {
        "num_train_epochs": 1,  # the sampler goes through all epochs in one pass
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": settings.learning_rate,
        "warmup_steps": math.ceil(steps * settings.warmup),  # 1.0 would be a single step
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        "bf16": resolve_precision(settings.precision, device) == "bf16",
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type != "cpu",
        "seed": setup.seed,
        "logging_steps": max(1, steps // 50),
        "logging_nan_inf_filter": False,  # it would log the mean of the losses before in place of a NaN
        "save_strategy": "steps" if setup.run.work else "no",
        "save_steps": settings.checkpoint_steps,
        "save_total_limit": 2,  # the last, and the one before it or the best
        "eval_strategy": "steps" if validation else "no",
        "eval_steps": -(-steps // validation.evaluations) if validation else None,
        "metric_for_best_model": f"eval_{validation.metric}" if validation else None,
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # how often in a row it got no better
        # trackio's callback names project and run by itself; it gets the curves at the end
        "report_to": [tracker for tracker in settings.trackers if tracker != "trackio"],
        "disable_tqdm": True,
    }


def _log(history: list[dict[str, float]], epochs: int) -> list[dict[str, float]]:
    return [
        {k: e[k] for k in ("step", "loss", "learning_rate")} | {"epoch": e["epoch"] * epochs}  # the trainer's is 1
        for e in history
        if "loss" in e
    ]


def _validated(history: list[dict[str, float]], validation: Validation | None) -> list[dict[str, float]]:
    if validation is None:
        return []
    name = f"eval_{validation.metric}"
    return [{"step": e["step"], validation.metric: e[name]} for e in history if name in e]


class CheckpointingTrainer:
    """Over a trainer of transformers, sentence-transformers' by default: checkpoints that are whole, in safetensors;
    validation by a score; an error as soon as a loss is NaN or infinite."""

    @classmethod
    def of(cls, setup: TrainingSetup, arguments_type: type, arguments: dict[str, Any], **others: Any) -> Self:
        """The trainer of a setup; ``others``: that are the same for every trainer of transformers."""
        return cls(
            model=setup.model,
            args=on_one_device(arguments_type(batch_sampler=lambda *_args, **_kwargs: setup.sampler, **arguments)),
            train_dataset=setup.dataset,
            loss=setup.loss,
            data_collator=setup.collator,
            **others,
        )

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = will_shard()  # not as accelerate has it, which shards on no CPU

    def prepare(self, part: str, validation: Validation | None, folder: Path, whole: nn.Module) -> None:
        """Before ``train``: the recipe's part, what to validate by, where checkpoints go, and the model that gets the
        weights, which is the trained one if this is not sharded."""
        self._part, self._validation, self._folder, self._whole = part, validation, folder, whole
        if self.is_fsdp_enabled:
            sharding.enable_sharding(self.accelerator, self.model)
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
        problem = f"the loss was not a number at step {step}" if step else ""
        if not problem and not all(sharding.gathered(p.detach().sum()).isfinite() for p in self.model.parameters()):
            problem = f"a weight is not a number after step {self.state.global_step}"
        if problem:
            kept = checkpoints.newest(self._folder) if self.args.save_strategy != "no" else None
            raise InputError(
                f"{self._part}: {problem}; lower {self._part}.learning_rate (the base model is unharmed, and no model"
                f" was written{f'; {kept} is the last checkpoint' if kept else ''})"
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self.check()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        model = self.whole_model()
        home = next(model.parameters()).device
        name, value = f"eval_{self._validation.metric}", self._validation.score(model.to(self.args.device))
        model.to(home)
        best = self.state.best_metric
        if best is None or value > best or (value == best and self._validation.later):
            self.state.best_global_step = self.state.global_step
            if self.is_world_process_zero():
                with checkpoints.disk_errors(self._folder, of_training=True):
                    checkpoints.save_best(model, self._folder, self.state.global_step)
        self.log({name: value})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {name: value})
        return {name: value}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.check()
        with checkpoints.disk_errors(self._folder, of_training=True):
            super()._save_checkpoint(*args, **kwargs)
            process_state().wait_for_everyone()  # each process writes the state of its random numbers
            if self.is_world_process_zero():
                checkpoints.seal(self._folder / f"checkpoint-{self.state.global_step}")
                # until now an older checkpoint could have needed them
                checkpoints.remove_other_best(self._folder, self.state.best_global_step)

    def whole_model(self) -> nn.Module:
        """The model with all its weights. Every process must call this."""
        if not sharding.is_sharded(self.model):
            return self.model
        sharding.gather_weights(self.model, self._whole)
        return self._whole

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        model = self.whole_model()
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_model(model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str, _model: nn.Module | None = None) -> None:
        is_sharded = sharding.is_sharded(self.model)
        load_model(self._whole if is_sharded else self.model, Path(checkpoint_path) / WEIGHTS)
        if is_sharded:
            sharding.scatter_weights(self._whole, self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not sharding.is_sharded(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)
        states = {OPTIMIZER: sharding.optimizer_state(self.optimizer), SCHEDULER: self.lr_scheduler.state_dict()}
        for name, state in states.items() if self.args.should_save else ():
            torch.save(state, Path(output_dir) / name)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not sharding.is_sharded(self.model):
            return super()._load_optimizer_and_scheduler(checkpoint)
        optimizer, scheduler = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER, SCHEDULER)
        )
        sharding.load_optimizer_state(self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)


def on_one_device(arguments: transformers.TrainingArguments) -> transformers.TrainingArguments:
    """The arguments, for one device a process: by itself transformers spreads a batch over all GPUs of a machine
    (``DataParallel``), without accelerate's precision. Several are for ``accelerate launch``."""
    if arguments.device and arguments.n_gpu > 1:  # counted when the device is asked for
        arguments._n_gpu = 1
    return arguments


def processes_of_batch(part: str, batch_size: int) -> int:
    """How many processes share a batch of the recipe's ``part``. Raises ``InputError`` if it cannot be split evenly."""
    processes = process_state().num_processes
    if batch_size % processes:
        raise InputError(f"{part}.batch_size: {batch_size} cannot be split evenly among {processes} processes")
    return processes


def set_dropout(model: nn.Module, p: float | None) -> None:
    """Of all layers; None leaves the model's own.

    >>> model = nn.Sequential(nn.Dropout(0.1))
    >>> set_dropout(model, 0.0)
    >>> model[0].p
    0.0
    """
    for module in model.modules():
        if p is not None and isinstance(module, nn.Dropout):
            module.p = p


def save_trained(model: Any, output: Path) -> None:
    """Write the model's folder (safetensors), by the first process. Raises ``InputError`` if the disk is full."""
    if process_state().is_main_process:
        with checkpoints.disk_errors(output):
            model.save_pretrained(str(output), safe_serialization=True, create_model_card=False)


@contextmanager
def work_folder(work: Path | None) -> Iterator[Path]:
    """``work``, or a folder that goes when training ends."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="sharpen-") as scratch:
            yield Path(scratch)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work
