"""Fine-tune a cross-encoder on the triplets of the retriever."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.training.settings import RerankerLoss, RerankerSettings
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
from sharpen.training.triplets import DealtSampler, Triplet


def train_reranker(
    triplets: Sequence[Triplet],
    queries: Mapping[str, Query],
    corpus: Corpus,
    settings: RerankerSettings,
    output: Path,
    seed: int,
    *,
    teacher: Mapping[tuple[str, str], float] | None = None,
    validation: Validation | None = None,
    work: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Training:
    """Train and write a cross-encoder's folder (safetensors) to ``output``; the arguments are those of
    ``train_retriever``.

    ``batch_size`` counts queries; with ``bce`` a batch has as many pairs as these have documents, of any queries.
    Raises ``InputError`` as that does.
    """
    if settings.loss not in get_args(RerankerLoss):
        raise InputError(f"reranker.loss: no loss {settings.loss!r}; there are {', '.join(get_args(RerankerLoss))}")
    if not triplets:
        raise InputError("no triplets to train the reranker on: no query was left with enough negatives")
    negatives = len(triplets[0].negative_ids)
    if not negatives:
        raise InputError("reranker: it learns from negatives, and there are none; raise reranker.negatives")
    if settings.loss == "distillation" and teacher is None:
        raise InputError("reranker.loss: distillation learns a teacher's scores; give reranker.teacher")
    processes = processes_of_batch("reranker", settings.batch_size)
    transformers.set_seed(seed)
    model = load_cross_encoder(settings.base, new_head=True, max_seq_length=settings.max_seq_length)
    set_dropout(model, settings.dropout)
    rows, loss = _rows(triplets, settings, teacher), _loss(model, settings, negatives)
    per_batch = settings.batch_size * (1 + negatives if settings.loss == "bce" else 1)
    collator = _TextCollator(model.preprocess)
    collator.set_texts(queries, corpus)
    sampler = DealtSampler(len(rows), per_batch, processes, seed, settings.epochs)
    done = fit(
        _Trainer,
        CrossEncoderTrainingArguments,
        model,
        loss,
        rows,
        collator,
        sampler,
        settings,
        seed,
        validation=validation,
        work=work,
        progress=progress,
    )
    if process_state().is_main_process:
        with disk_errors(output):
            model.save_pretrained(str(output), safe_serialization=True, create_model_card=False)
    return done


class _Trainer(Careful, CrossEncoderTrainer):
    pass


class _TextCollator(CrossEncoderDataCollator):
    """Looks the texts of a batch up by ID."""

    def set_texts(self, queries: Mapping[str, Query], corpus: Corpus) -> None:
        self._queries, self._corpus = queries, corpus

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        def text(column: str, value: Any) -> Any:
            if column == "query":
                return self._queries[value].text
            if column == "label":
                return value
            return [self._corpus[i].content for i in value] if isinstance(value, list) else self._corpus[value].content

        return super().__call__([{column: text(column, value) for column, value in row.items()} for row in features])


def _rows(
    triplets: Sequence[Triplet], settings: RerankerSettings, teacher: Mapping[tuple[str, str], float] | None
) -> Dataset:
    """IDs in the columns that the loss expects."""
    documents = [(t.positive_id, *t.negative_ids) for t in triplets]
    if settings.loss == "bce":
        pairs = [
            (t.query_id, i, float(n == 0))
            for t, ids in zip(triplets, documents, strict=True)
            for n, i in enumerate(ids)
        ]
        return Dataset.from_dict(
            dict(zip(("query", "document", "label"), map(list, zip(*pairs, strict=True)), strict=True))
        )
    queries = [t.query_id for t in triplets]
    if settings.loss == "listwise":
        return Dataset.from_dict(
            {
                "query": queries,
                "documents": [list(ids) for ids in documents],
                "label": [[1.0] + [0.0] * (len(ids) - 1) for ids in documents],
            }
        )
    columns = {f"document_{n}": [ids[n] for ids in documents] for n in range(len(documents[0]))}
    return Dataset.from_dict(
        {
            "query": queries,
            **columns,
            "label": [[teacher[t.query_id, i] for i in ids] for t, ids in zip(triplets, documents, strict=True)],
        }
    )


def _loss(model: Any, settings: RerankerSettings, negatives: int) -> torch.nn.Module:
    match settings.loss:
        case "bce":
            return losses.BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(negatives), device=model.device))
        case "listwise":
            return losses.LambdaLoss(model)
        case "distillation":
            return losses.MarginMSELoss(model)
