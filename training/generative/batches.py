"""What both stages have in common: batches that are the same for any number of processes, and how training ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.model import GenerativeModel, save_generative
from sharpen.evaluation.processes import process_state
from sharpen.training import checkpoints
from sharpen.training.generative.settings import GenerativeOptimization
from sharpen.training.lora import add_adapters, merge_adapters
from sharpen.training.trainer import CheckpointingTrainer, TrainingSetup, on_one_device, set_dropout


class SampledTrainer(CheckpointingTrainer):
    """Over a trainer of transformers: takes its batches from the sampler of a setup."""

    @classmethod
    def of(cls, setup: TrainingSetup, arguments_type: type, arguments: dict[str, Any], **others: Any) -> Self:
        """As ``CheckpointingTrainer.of``."""
        trainer = cls(
            model=setup.model,
            args=on_one_device(
                arguments_type(**(arguments | {"ddp_find_unused_parameters": False} | cls.options(setup)))
            ),
            train_dataset=setup.dataset,
            data_collator=setup.collator,
            processing_class=setup.tokenizer,
            **others,
        )
        trainer.setup = setup
        return trainer

    @classmethod
    def options(cls, setup: TrainingSetup) -> dict[str, Any]:
        """Arguments of this kind of trainer."""
        return {}

    def get_train_dataloader(self) -> DataLoader:
        self.accelerator.even_batches = False  # the sampler's parts are even
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.setup.sampler,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def floating_point_ops(self, inputs: Any) -> int:
        """0: transformers asks in every step, and cannot tell for rows that are packed."""
        return 0


def prepare_weights(model: PreTrainedModel, settings: GenerativeOptimization, part: str) -> Any:
    """Dropout as ``settings`` have it, and adapters in place, if any: PEFT's view of the model, else None. Raises
    ``InputError`` by the recipe's ``part``."""
    set_dropout(model, settings.dropout)
    if not settings.lora:
        return None
    adapters = add_adapters(model, settings.lora, "CAUSAL_LM", part)
    if type(model.get_output_embeddings()) is not nn.Linear:
        raise InputError(f"{part}.lora: targets has the output layer, which is not adapted; leave it out")
    return adapters


def save_merged(retriever: GenerativeModel, adapters: Any, output: Path) -> None:
    """Write the folder by the first process, with adapters merged. Raises ``InputError`` if the disk is full."""
    if adapters:
        merge_adapters(adapters)
    retriever.model.eval()
    if process_state().is_main_process:
        with checkpoints.disk_errors(output):
            save_generative(output, retriever)
