"""Fine-tune a bi-encoder on triplets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from sharpen.evaluation.beir import Corpus, Query, list_queries
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError
from sharpen.training.collators import RetrieverCollator, Texts
from sharpen.training.losses import make_loss
from sharpen.training.samplers import NoFalseNegativesSampler
from sharpen.training.settings import DISTILLING, LoraSettings, RetrieverSettings
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
from sharpen.training.triplets import NegativeRow, Triplet, make_triplets


def train_retriever(
    queries: Mapping[str, Query] | Iterable[Query],
    negatives: Iterable[NegativeRow] | Iterable[Triplet],
    corpus: Corpus,
    settings: RetrieverSettings,
    output: Path | str = "model",
    seed: int = 13,
    run: TrainingRun | None = None,
) -> TrainingResult:
    """Train, and write a sentence-transformers folder (safetensors) to ``output``.

    ``queries``: by ID, or any iterable of them. ``negatives``: mined rows, of which ``make_triplets`` makes triplets
    with as many negatives as most queries have (those with fewer are left out); or triplets. ``run``: checkpoints,
    progress, validation and a teacher's scores.

    Under ``accelerate launch`` every process must call this; they share each batch, and the first one writes. The loss
    itself is computed in float32, whatever the precision. Raises ``InputError`` if there are no triplets, if the base
    cannot be loaded, if settings do not fit, if the loss or a weight is not a number, if a checkpoint is damaged or if
    the disk is full; checkpoints that were written before stay as they are.

    ::

        settings = RetrieverSettings(base="packaged:all-MiniLM-L6-v2", epochs=2)
        model = train_retriever(queries, negatives, corpus, settings, output="model")
        print(model.path, model.kept_step)
    """
    run, output = run or TrainingRun(), Path(output)
    queries = {query.id: query for query in list_queries(queries)}
    triplets, left_out = as_triplets(queries, negatives)
    if not triplets:
        raise InputError(
            "no triplets to train on: no query was left with enough negatives; see the manifests of the stages before"
            " for where they went"
        )
    setup, adapters = _setup(triplets, Texts(queries, corpus), settings, seed, run)
    model = setup.model
    result = fit(_Trainer, SentenceTransformerTrainingArguments, setup)
    if adapters:
        adapters.merge_and_unload()
    given = {"query": settings.query_prompt, "document": settings.document_prompt}
    model.prompts = (model.prompts or {}) | {k: v for k, v in given.items() if v is not None}
    save_trained(model, output)
    return replace(result, path=output, triplets=len(triplets), queries_left_out=left_out)


class _Trainer(CheckpointingTrainer, SentenceTransformerTrainer):
    pass


def as_triplets(
    queries: Mapping[str, Query], negatives: Iterable[NegativeRow] | Iterable[Triplet]
) -> tuple[list[Triplet], int]:
    """Triplets as they are; of mined rows those with as many negatives as most queries have. And how many queries were
    left out, as they have fewer."""
    rows = list(getattr(negatives, "rows", negatives))
    if not rows or isinstance(rows[0], Triplet):
        return rows, 0
    kept = Counter(row.query_id for row in rows if row.verdict == "kept")
    if not kept:
        return [], len(queries)
    per_query, _ = max(Counter(kept.values()).items(), key=lambda item: (item[1], item[0]))
    return make_triplets(queries, rows, per_query)


def _setup(
    triplets: list[Triplet], texts: Texts, settings: RetrieverSettings, seed: int, run: TrainingRun
) -> tuple[TrainingSetup, Any]:
    """What is trained and by what, and the adapters, if any."""
    processes = processes_of_batch("training", settings.batch_size)
    if settings.loss in DISTILLING and run.teacher is None:
        raise InputError(f"training.loss: {settings.loss} learns a teacher's scores; give training.teacher")
    negatives = len(triplets[0].negative_ids)
    transformers.set_seed(seed)
    model = _load(settings, settings.base)
    set_dropout(model, settings.dropout)
    adapters = _add_adapters(model, settings.lora) if settings.lora else None
    loss = make_loss(
        settings, model, lambda: _load(settings, settings.guide or settings.base), negatives, gather=processes > 1
    )
    collator = RetrieverCollator(model.preprocess, prompts=_prompts(model, settings, negatives))
    collator.set_texts(texts, model.tokenizer.pad_token_id or 0)
    sampler = NoFalseNegativesSampler(triplets, texts.corpus, settings.batch_size, processes, seed, settings.epochs)
    scores = (
        {pair: score / settings.teacher_temperature for pair, score in run.teacher.items()}
        if run.teacher and settings.loss in DISTILLING
        else None
    )
    dataset = to_dataset(triplets, scores)
    return TrainingSetup("training", model, loss, dataset, collator, sampler, settings, seed, run), adapters


def to_dataset(triplets: Sequence[Triplet], scores: TeacherScores | None = None) -> Dataset:
    """Columns ``anchor``, ``positive``, ``negative_1`` ... of IDs, in the order that the losses expect; with a
    teacher's ``scores`` also ``label``: those of a row's positive and negatives, in this order.

    >>> to_dataset([Triplet("q", "a", ("b",))])[0]
    {'anchor': 'q', 'positive': 'a', 'negative_1': 'b'}
    """
    columns: dict[str, list[Any]] = {
        "anchor": [t.query_id for t in triplets],
        "positive": [t.positive_id for t in triplets],
    }
    for n in range(len(triplets[0].negative_ids)):
        columns[f"negative_{n + 1}"] = [t.negative_ids[n] for t in triplets]
    if scores is not None:
        columns["label"] = [[scores[t.query_id, i] for i in (t.positive_id, *t.negative_ids)] for t in triplets]
    return Dataset.from_dict(columns)


def _load(settings: RetrieverSettings, name: str) -> SentenceTransformer:
    return load_encoder(name, max_seq_length=settings.max_seq_length, attention=settings.attention)


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
        return get_peft_model(model[0].auto_model, config)
    except ValueError as error:  # target_modules that the model has not
        raise InputError(f"training.lora: {error}") from None


def _prompts(model: SentenceTransformer, settings: RetrieverSettings, negatives: int) -> dict[str, str]:
    """Column to the prompt that is put before its texts."""
    default = model.prompts or {}
    query = default.get("query") if settings.query_prompt is None else settings.query_prompt
    document = default.get("document") if settings.document_prompt is None else settings.document_prompt
    columns = {"anchor": query, "positive": document} | {f"negative_{n + 1}": document for n in range(negatives)}
    return {column: prompt for column, prompt in columns.items() if prompt}
