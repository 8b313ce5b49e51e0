"""Fine-tune a bi-encoder on triplets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Corpus, Query, list_queries
from sharpen.evaluation.encoders.families import AnyEncoder, check_trainable_family, load_family
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.routes import prompt_of
from sharpen.evaluation.encoders.soundness import check_recomputable, check_trainable, check_transformer
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.training.collators import RetrieverCollator, Texts
from sharpen.training.curriculum import easy_first
from sharpen.training.distributions import teacher_logits
from sharpen.training.families import TRAINERS, check_one_process, family_loss
from sharpen.training.lists import CandidateLists, KeptDocumentsLoss, check_lists
from sharpen.training.lora import add_adapters, device_of_base, merge_adapters
from sharpen.training.losses import make_loss
from sharpen.training.samplers import GlobalBatchSampler, NoFalseNegativesSampler
from sharpen.training.settings import DISTILLING, RetrieverSettings
from sharpen.training.trainer import (
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
from sharpen.training.vectors import VectorsLoss


def train_retriever(
    queries: Mapping[str, Query] | Iterable[Query],
    negatives: Iterable[NegativeRow] | Iterable[Triplet] | CandidateLists,
    corpus: Corpus,
    settings: RetrieverSettings,
    output: Path | str = "model",
    seed: int = 13,
    run: TrainingRun | None = None,
) -> TrainingResult:
    """Train, and write a sentence-transformers folder (safetensors) to ``output``: of a ``SentenceTransformer``, or by
    ``settings.family`` a ``SparseEncoder`` or a ``MultiVectorEncoder``.

    ``queries``: by ID, or any iterable of them. ``negatives``: mined rows, of which ``make_triplets`` makes triplets
    with as many negatives as most queries have (those with fewer are left out); triplets; or, with
    ``settings.candidates``, lists with a teacher's scores. ``run``: checkpoints, progress, validation, a teacher's
    scores, and the base's vectors of the documents, which are made where they are asked for and not given.

    With ``settings.documents: kept`` the model that is written encodes queries only; ``with_routes`` puts it together
    with the base, which encodes the documents.

    Under ``accelerate launch`` every process must call this; they share each batch, and the first one writes. The loss
    itself is computed in float32, whatever the precision. Raises ``InputError`` if there is nothing to train on, if the
    base cannot be loaded, if settings do not fit, if the loss or a weight is not a number, if a checkpoint is damaged
    or if the disk is full; checkpoints that were written before stay as they are.

    ::

        settings = RetrieverSettings(base="packaged:all-MiniLM-L6-v2", epochs=2)
        model = train_retriever(queries, negatives, corpus, settings, output="model")
        print(model.path, model.kept_step)
    """
    run, output = run or TrainingRun(), Path(output)
    queries = {query.id: query for query in list_queries(queries)}
    if isinstance(negatives, CandidateLists):
        rows, left_out = negatives, len(queries) - len(negatives)
        check_lists(rows, queries)
    else:
        rows, left_out = as_triplets(queries, negatives)
    if not rows:
        raise InputError(
            "no triplets to train on: no query was left with enough negatives; see the manifests of the stages before"
            " for where they went"
        )
    setup, adapters = _setup(rows, Texts(queries, corpus), settings, seed, run)
    model = setup.model
    result = fit(*TRAINERS[settings.family], setup)
    if settings.weights == "bf16":
        model.to("cpu").float()  # what bf16 would lose of adapters, and of a mixture with the base
    if adapters:
        merge_adapters(adapters)
    given = {"query": settings.query_prompt, "document": settings.document_prompt}
    model.prompts = (model.prompts or {}) | {k: v for k, v in given.items() if v is not None}
    save_trained(model, output)
    return replace(result, path=output, triplets=len(rows), queries_left_out=left_out)


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
    rows: list[Triplet] | CandidateLists, texts: Texts, settings: RetrieverSettings, seed: int, run: TrainingRun
) -> tuple[TrainingSetup, Any]:
    """What is trained and by what, and the adapters, if any."""
    check_one_process(settings.family)
    processes = processes_of_batch("training", settings.batch_size)
    lists = rows if isinstance(rows, CandidateLists) else None
    if settings.loss in DISTILLING and run.teacher is None and lists is None:
        raise InputError(f"training.loss: {settings.loss} learns a teacher's scores; give training.teacher")
    if settings.loss == "embedding":
        if run.vectors is None:
            raise InputError("training.loss: embedding learns encoders' vectors; give training.teacher")
        rows = [Triplet(row.query_id, row.positive_id, ()) for row in rows]
    negatives = lists.size - 1 if lists else len(rows[0].negative_ids)
    transformers.set_seed(seed)
    model = _load_base(settings)
    set_dropout(model, settings.dropout)
    _save_memory(model, settings)
    adapters = add_adapters(model[0].auto_model, settings.lora) if settings.lora else None
    model.to(process_state().device)  # the other modules, too, of a base that was loaded on the CPU to be quantised
    collator = RetrieverCollator(model.preprocess, prompts=_prompts(model, settings, negatives))
    collator.set_texts(texts, model)
    batches = (settings.batch_size, processes, seed, settings.epochs)
    if lists:
        sampler = GlobalBatchSampler(len(lists), *batches)
    else:
        first = easy_first(model, rows, texts, settings) if settings.order == "easy_first" else None
        sampler = NoFalseNegativesSampler(rows, texts, *batches, first=first)
    callbacks = ()
    if settings.family != "dense":
        loss, callbacks = family_loss(settings, model, negatives)
        dataset = _dataset(rows, settings, run)
    elif settings.documents == "kept":
        loss = _kept_documents_loss(settings, model, lists, texts.corpus, run)
        dataset = Dataset.from_dict({"anchor": lists.queries, "label": range(len(lists))})
    elif settings.loss == "embedding":
        loss = VectorsLoss(model, run.vectors, rows, settings)
        dataset = to_dataset(rows).add_column("label", list(range(len(rows))))
    else:
        guide = settings.guide or settings.base
        loss = make_loss(settings, model, lambda: _load(settings, guide), negatives, gather=processes > 1)
        dataset = _dataset(rows, settings, run)
    setup = TrainingSetup("training", model, loss, dataset, collator, sampler, settings, seed, run, callbacks=callbacks)
    return setup, adapters


def _save_memory(model: SentenceTransformer, settings: RetrieverSettings) -> None:
    """Weights in bf16, and gradient checkpointing, as ``settings`` have them. Raises ``InputError`` for a model that
    has no checkpointing."""
    if settings.weights == "bf16":
        for weight in model.parameters():  # not the buffers: rotary positions are too coarse in bf16
            weight.data = weight.data.to(torch.bfloat16)
    if settings.gradient_checkpointing:
        check_recomputable(model, settings.base)
        inner = model[0].auto_model
        # its name in transformers 6, and in those before 5.20
        enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def _kept_documents_loss(
    settings: RetrieverSettings, model: SentenceTransformer, lists: CandidateLists, corpus: Corpus, run: TrainingRun
) -> KeptDocumentsLoss:
    index = run.index
    if index is None:
        base = _load(settings, settings.base)
        index = Dense(corpus, base, settings.query_prompt, settings.document_prompt, precision=settings.precision)
    return KeptDocumentsLoss(model, lists, index.vectors, {i: row for row, i in enumerate(index.ids)}, settings)


def _dataset(rows: list[Triplet] | CandidateLists, settings: RetrieverSettings, run: TrainingRun) -> Dataset:
    """Columns of IDs, with a teacher's scores divided by its temperature where the loss learns them."""
    if isinstance(rows, CandidateLists):
        triplets = [Triplet(q, d[0], tuple(d[1:])) for q, d in zip(rows.queries, rows.documents, strict=True)]
        return to_dataset(triplets).add_column("label", teacher_logits(rows.scores, settings).tolist())
    if settings.loss not in DISTILLING:
        return to_dataset(rows)
    return to_dataset(rows, scores_of_rows(rows, run.teacher, settings))


def scores_of_rows(rows: Sequence[Triplet], teacher: TeacherScores, settings: RetrieverSettings) -> list[list[float]]:
    """What the teacher gives each row's positive and negatives, in this order, as the loss takes it."""
    scores = [[teacher[row.query_id, i] for i in (row.positive_id, *row.negative_ids)] for row in rows]
    return teacher_logits(np.array(scores), settings).tolist()


def to_dataset(triplets: Sequence[Triplet], labels: list[list[float]] | None = None) -> Dataset:
    """Columns ``anchor``, ``positive``, ``negative_1`` ... of IDs, in the order that the losses expect, and ``label``
    where ``labels`` are given: a teacher's scores of each row's positive and negatives, in this order.

    >>> to_dataset([Triplet("q", "a", ("b",))])[0]
    {'anchor': 'q', 'positive': 'a', 'negative_1': 'b'}
    """
    columns: dict[str, list[Any]] = {
        "anchor": [t.query_id for t in triplets],
        "positive": [t.positive_id for t in triplets],
    }
    for n in range(len(triplets[0].negative_ids)):
        columns[f"negative_{n + 1}"] = [t.negative_ids[n] for t in triplets]
    if labels is not None:
        columns["label"] = labels
    return Dataset.from_dict(columns)


def _load_base(settings: RetrieverSettings) -> AnyEncoder:
    if settings.family == "dense":
        model = _load(settings, settings.base, device_of_base(settings.lora))
        check_trainable(model, settings.base)
        for key in settings.keys_of_layers:
            check_transformer(model, settings.base, key)
        return model
    model = load_family(
        settings.base, settings.family, max_seq_length=settings.max_seq_length, attention=settings.attention
    )
    check_trainable_family(model, settings.base)
    return model


def _load(settings: RetrieverSettings, name: str, device: str | None = None) -> SentenceTransformer:
    return load_encoder(name, device, max_seq_length=settings.max_seq_length, attention=settings.attention)


def _prompts(model: AnyEncoder, settings: RetrieverSettings, negatives: int) -> dict[str, str]:
    """Column to the prompt that is put before its texts."""
    query = prompt_of(model, "query", settings.query_prompt)
    document = prompt_of(model, "document", settings.document_prompt)
    columns = {"anchor": query, "positive": document} | {f"negative_{n + 1}": document for n in range(negatives)}
    return {column: prompt for column, prompt in columns.items() if prompt}
