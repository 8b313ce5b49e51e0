"""Fine-tune a cross-encoder on the triplets of the retriever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses

from sharpen.evaluation.beir import Corpus, Query, list_queries
from sharpen.evaluation.encoders.committee import COMMITTEE
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.training.collators import RerankerCollator, Texts, reported_pairs
from sharpen.training.committee import query_parts, train_members
from sharpen.training.retriever import as_triplets
from sharpen.training.samplers import GlobalBatchSampler
from sharpen.training.settings import RerankerSettings
from sharpen.training.trainer import (
    CheckpointingTrainer,
    TeacherScores,
    TrainingResult,
    TrainingRun,
    TrainingSetup,
    fit,
    processes_of_batch,
    save_trained,
    set_dropout,
)
from sharpen.training.triplets import NegativeRow, Triplet


def train_reranker(
    queries: Mapping[str, Query] | Iterable[Query],
    negatives: Iterable[NegativeRow] | Iterable[Triplet],
    corpus: Corpus,
    settings: RerankerSettings,
    output: Path | str = "reranker",
    seed: int = 13,
    run: TrainingRun | None = None,
) -> TrainingResult:
    """Train, and write a cross-encoder's folder (safetensors) to ``output``; the arguments are those of
    ``train_retriever``.

    ``settings.batch_size`` counts queries; with ``bce`` a batch has as many pairs as these have documents, of any
    queries. With ``settings.committee`` there are several of them, as ``train_members`` trains them: the folder is then
    that of a committee, which ``load_cross_encoder`` and all that takes a cross-encoder's folder load as one. Raises
    ``InputError`` as ``train_retriever`` does, if there are no negatives, and for more members than queries.

    ::

        reranker = train_reranker(queries, negatives, corpus, RerankerSettings(base="packaged:all-MiniLM-L6-v2"))
    """
    run, output = run or TrainingRun(), Path(output)
    queries = {query.id: query for query in list_queries(queries)}
    triplets, left_out = as_triplets(queries, negatives)
    if not triplets:
        raise InputError("no triplets to train the reranker on: no query was left with enough negatives")
    texts = Texts(queries, corpus)

    def train(rows: Sequence[Triplet], folder: Path, seed: int, run: TrainingRun) -> TrainingResult:
        setup = _setup(rows, texts, settings, seed, run)
        with reported_pairs(setup.model):
            result = fit(_Trainer, CrossEncoderTrainingArguments, setup)
        save_trained(setup.model, folder)
        return result

    if settings.committee > 1:
        result = train_members(train, query_parts(triplets, settings.committee, seed), output, seed, run)
    else:
        result = train(triplets, output, seed, run)
        if process_state().is_main_process:  # of an earlier committee, which would be loaded in its place
            (output / COMMITTEE).unlink(missing_ok=True)
    return replace(result, path=output, triplets=len(triplets), queries_left_out=left_out)


class _Trainer(CheckpointingTrainer, CrossEncoderTrainer):
    pass


def _setup(
    triplets: Sequence[Triplet], texts: Texts, settings: RerankerSettings, seed: int, run: TrainingRun
) -> TrainingSetup:
    negatives = len(triplets[0].negative_ids)
    if not negatives:
        raise InputError("reranker: it learns from negatives, and there are none; raise reranker.negatives")
    if settings.loss == "distillation" and run.teacher is None:
        raise InputError("reranker.loss: distillation learns a teacher's scores; give reranker.teacher")
    processes = processes_of_batch("reranker", settings.batch_size)
    transformers.set_seed(seed)
    model = load_cross_encoder(settings.base, new_head=True, max_seq_length=settings.max_seq_length)
    set_dropout(model, settings.dropout)
    dataset, loss = _to_dataset(triplets, settings, run.teacher), _loss(model, settings, negatives)
    per_batch = settings.batch_size * (1 + negatives if settings.loss == "bce" else 1)
    collator = RerankerCollator(model.preprocess)
    collator.set_texts(texts)
    sampler = GlobalBatchSampler(len(dataset), per_batch, processes, seed, settings.epochs)
    return TrainingSetup("reranker", model, loss, dataset, collator, sampler, settings, seed, run)


def _to_dataset(triplets: Sequence[Triplet], settings: RerankerSettings, teacher: TeacherScores | None) -> Dataset:
    """IDs in the columns that the loss expects."""
    documents = [(t.positive_id, *t.negative_ids) for t in triplets]
    queries = [t.query_id for t in triplets]
    columns: dict[str, list[Any]]
    match settings.loss:
        case "bce":
            pairs = [
                (q, i, float(n == 0)) for q, ids in zip(queries, documents, strict=True) for n, i in enumerate(ids)
            ]
            columns = dict(zip(("query", "document", "label"), map(list, zip(*pairs, strict=True)), strict=True))
        case "listwise":
            labels = [[1.0] + [0.0] * (len(ids) - 1) for ids in documents]
            columns = {"query": queries, "documents": [list(ids) for ids in documents], "label": labels}
        case "distillation":
            labels = [[teacher[q, i] for i in ids] for q, ids in zip(queries, documents, strict=True)]
            by_place = {f"document_{n}": [ids[n] for ids in documents] for n in range(len(documents[0]))}
            columns = {"query": queries, **by_place, "label": labels}
    return Dataset.from_dict(columns)


def _loss(model: Any, settings: RerankerSettings, negatives: int) -> torch.nn.Module:
    match settings.loss:
        case "bce":
            return losses.BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(negatives), device=model.device))
        case "listwise":
            return losses.LambdaLoss(model)
        case "distillation":
            return losses.MarginMSELoss(model)
