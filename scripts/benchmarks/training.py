"""Triplets a second of training a bi-encoder, and whether the model is as good.

    python scripts/benchmark.py training [--shape minilm] [--steps 4] [--batch-size 16] [--seeds "13 14 15"]

Prints a row each for SentenceTransformerTrainer with its defaults (float32), the same with bf16 where the hardware
multiplies in bf16, sharpen without training/fast_cpu, and sharpen with it, all on the same triplets: SciFact's claims
with one of their abstracts and one BM25 negative, most of them cut to 256 tokens. The first step warms up and is not
counted. Fewer cores used than there are: others were at work. --shape distilbert is DistilBERT's architecture with
weights drawn at random: for speed only. With --seeds, all-MiniLM-L6-v2 is also trained for an epoch on --triplets of
the claims by each of them, and nDCG@10 of the other claims over all abstracts is compared.

About 5 minutes on two AVX2 cores; --seeds some 40 minutes more for each seed.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unittest.mock import patch

import typer

from benchmarks.common import MODEL, SEED, Moment, Table, cores_used, quality_cells

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from sharpen.evaluation.datasets import Task
    from sharpen.evaluation.models import PairScores
    from sharpen.evaluation.retrievers.dense import Dense
    from sharpen.training import CandidateLists, RetrieverSettings, Triplet

PEER = "sentence-transformers, defaults (float32)"
PEER_BF16 = "sentence-transformers, bf16"
PLAIN = "sharpen, without fast_cpu"
FAST = "sharpen, with fast_cpu"
PACKAGES = ("torch", "sentence-transformers", "numba")
NEGATIVE_RANKS = slice(10, 30)
"""Of BM25's documents, those that a negative is taken from."""


class Shape(StrEnum):
    MINILM = "minilm"
    DISTILBERT = "distilbert"


DEFAULT_SIZES = {Shape.MINILM: (4, 16), Shape.DISTILBERT: (2, 8)}
"""Counted steps and batch size."""


def main(
    shape: Annotated[Shape, typer.Option(help="Of the encoder.")] = Shape.MINILM,
    steps: Annotated[int | None, typer.Option(help="Counted; 4, or 2 of distilbert.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Triplets; 16, or 8 of distilbert.", min=2)] = None,
    seeds: Annotated[str, typer.Option(help="Of the comparison of quality, as in '13 14 15'; none: not done.")] = "",
    triplets: Annotated[int, typer.Option(help="That --seeds trains on.", min=2)] = 560,
) -> None:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.encoders.load import resolve_encoder

    default_steps, default_batch = DEFAULT_SIZES[shape]
    steps, batch_size = steps or default_steps, batch_size or default_batch
    chosen_seeds = [int(number) for number in re.split(r"[\s,]+", seeds.strip()) if number]
    task = load_task("scifact", "train")
    rows = make_rows(task)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        base = resolve_encoder(MODEL) if shape == Shape.MINILM else random_distilbert(scratch / "distilbert")
        counted = distinct(rows)[: (steps + 1) * batch_size]
        _compare_speed(shape, Training(base, counted, task, scratch / "model", batch_size))
        for seed in chosen_seeds:
            training = Training(resolve_encoder(MODEL), rows[:triplets], task, scratch / "model", 32, seed)
            _compare_quality(training, {t.query_id for t in rows[triplets:]})


@dataclass(frozen=True)
class Training:
    """What is trained on what. One epoch; the model goes to ``output``.

    ``options``: of ``RetrieverSettings`` (default: MNRL). ``scores``: a teacher's, for the losses that learn them.
    ``index``: the vectors of the documents, where they are kept.
    """

    base: str
    rows: list[Triplet] | CandidateLists
    task: Task
    output: Path
    batch_size: int
    seed: int = SEED
    options: dict[str, Any] = field(default_factory=dict)
    scores: PairScores | None = None
    index: Dense | None = None

    def by(self, name: str) -> list[Moment]:
        """Train in the way of that name, and return the moment at the end of each step."""
        if name in (PEER, PEER_BF16):
            return self.by_peer(name == PEER_BF16)
        with without_fast_cpu() if name == PLAIN else nullcontext():
            return self.by_sharpen()

    def settings(self) -> RetrieverSettings:
        """Of sharpen; the peer has the same rate, warm-up, loss and scale."""
        from sharpen.training import RetrieverSettings

        return RetrieverSettings(base=self.base, batch_size=self.batch_size, **self.options)

    def by_sharpen(self) -> list[Moment]:
        """The moments at the end of each step of ``train_retriever``."""
        from sharpen.training import TrainingRun, train_retriever

        times: list[Moment] = []
        run = TrainingRun(progress=lambda _step: times.append(Moment.now()), teacher=self.scores, index=self.index)
        train_retriever(self.task.queries, self.rows, self.task.corpus, self.settings(), self.output, self.seed, run)
        return times

    def by_peer(self, bf16: bool, frozen_documents: bool = False) -> list[Moment]:
        """The same of ``SentenceTransformerTrainer``. ``frozen_documents``: by an encoder of their own, which is not
        trained (a ``Router``)."""
        import transformers
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )

        settings, columns, times = self.settings(), self._columns(), []
        transformers.set_seed(self.seed)
        model = with_frozen_documents(self.base) if frozen_documents else SentenceTransformer(self.base)
        routes = {c: "query" if c == "anchor" else "document" for c in columns if c != "label"}
        with tempfile.TemporaryDirectory() as scratch:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=scratch,
                num_train_epochs=1,
                per_device_train_batch_size=self.batch_size,
                learning_rate=settings.learning_rate,
                warmup_steps=settings.warmup,
                seed=self.seed,
                bf16=bf16,
                use_cpu=model.device.type == "cpu",
                dataloader_pin_memory=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                router_mapping=routes if frozen_documents else None,
            )
            trainer = SentenceTransformerTrainer(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_dict(columns),
                loss=peer_loss(model, settings),
                callbacks=[_clock(times)],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        model.save_pretrained(str(self.output), create_model_card=False)
        return times

    def _columns(self) -> dict[str, list]:
        """A text of each document of a row beside its query's, and what the teacher gives them."""
        if isinstance(self.rows, list):
            rows = [(t.query_id, [t.positive_id, *t.negative_ids]) for t in self.rows]
        else:
            rows = list(zip(self.rows.queries, self.rows.documents, strict=True))
        queries, corpus = self.task.queries, self.task.corpus
        columns: dict[str, list] = {"anchor": [queries[q].text for q, _ in rows]}
        for n in range(len(rows[0][1])):
            columns[f"document_{n}"] = [corpus[documents[n]].content for _, documents in rows]
        if self.scores:
            columns["label"] = [[self.scores[q, i] for i in documents] for q, documents in rows]
        return columns


def peer_loss(model: SentenceTransformer, settings: RetrieverSettings) -> Any:
    """sentence-transformers' own loss, as sharpen's of these settings."""
    from functools import partial

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    scaled_cosine = partial(_scaled_cosine, settings.scale)
    match settings.loss:
        case "mnrl":
            return losses.MultipleNegativesRankingLoss(model, scale=settings.scale)
        case "cached_mnrl":
            size = settings.mini_batch_size
            return losses.CachedMultipleNegativesRankingLoss(model, scale=settings.scale, mini_batch_size=size)
        case "gist":
            return losses.GISTEmbedLoss(model, SentenceTransformer(settings.base), temperature=1 / settings.scale)
        case "margin_mse":
            return losses.MarginMSELoss(model, similarity_fct=scaled_cosine)
        case "kl":
            return losses.DistillKLDivLoss(model, similarity_fct=scaled_cosine)
    raise ValueError(settings.loss)


def with_frozen_documents(base: str) -> SentenceTransformer:
    """An encoder of queries to be trained, and the base for documents, which stays as it is."""
    from sentence_transformers import SentenceTransformer

    from sharpen.evaluation.encoders.routes import with_routes

    documents = SentenceTransformer(base)
    documents.requires_grad_(False)
    return with_routes(SentenceTransformer(base), documents)


def _scaled_cosine(scale: float, a: Any, b: Any) -> Any:
    from sentence_transformers.util import pairwise_cos_sim

    return scale * pairwise_cos_sim(a, b)


def make_rows(task: Task, per_query: int = 1) -> list[Triplet]:
    """A triplet for each claim, with so many negatives, in an order drawn by a fixed seed."""
    from sharpen.evaluation.retrievers.bm25 import BM25
    from sharpen.evaluation.runs import ranking
    from sharpen.training import Triplet

    run = BM25(task.corpus).search(task.texts, NEGATIVE_RANKS.stop)
    rows = []
    for query, grades in task.qrels.items():
        negatives = [i for i in ranking(run[query])[NEGATIVE_RANKS] if i not in grades]
        if len(negatives) >= per_query:
            rows.append(Triplet(query, next(iter(grades)), tuple(negatives[:per_query])))
    random.Random(SEED).shuffle(rows)
    return rows


def distinct(rows: list[Triplet]) -> list[Triplet]:
    """Those that share no document with an earlier one: no sampler keeps them from one batch, so all batches are
    full."""
    chosen, used = [], set()
    for row in rows:
        documents = {row.positive_id, *row.negative_ids}
        if not documents & used:
            chosen.append(row)
            used |= documents
    return chosen


@contextmanager
def without_fast_cpu() -> Iterator[None]:
    """As if the folder ``training/fast_cpu`` were not there."""
    from sharpen.training import micro_batches

    with patch.object(micro_batches, "Replicas", None), patch.object(micro_batches, "prepared", None):
        yield


def random_distilbert(folder: Path) -> str:
    """DistilBERT with mean pooling, weights drawn at random, and BERT's tokenizer."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from sharpen.evaluation.encoders.load import resolve_encoder

    transformers.set_seed(SEED)
    inner = folder / "inner"
    transformers.DistilBertModel(transformers.DistilBertConfig()).save_pretrained(inner)
    transformers.AutoTokenizer.from_pretrained(resolve_encoder(MODEL)).save_pretrained(inner)
    transformer = Transformer(str(inner), max_seq_length=256)
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


def _clock(times: list[Moment]) -> Any:
    import transformers

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            times.append(Moment.now())

    return Clock()


def _ways() -> dict[str, str | None]:
    """All that are compared, with the reason where one cannot be run here."""
    from sharpen.evaluation.encoders.precision import has_bf16
    from sharpen.evaluation.processes import process_state
    from sharpen.training import micro_batches

    device = process_state().device
    return {
        PEER: None,
        PEER_BF16: None if has_bf16(device) else "emulated here, not run",
        PLAIN: None,
        FAST: None if micro_batches.Replicas and device.type == "cpu" else "not here",
    }


def _compare_speed(shape: Shape, training: Training) -> None:
    from sharpen.evaluation.encoders.precision import resolve_precision
    from sharpen.evaluation.processes import process_state

    counted = len(training.rows) - training.batch_size
    title = f"Training {shape}, {counted} triplets in batches of {training.batch_size}"
    table = Table(title, ("", "triplets/s", "ratio", "cores used"), PACKAGES)
    numbers, first = resolve_precision("auto", process_state().device), None
    for name, reason in _ways().items():
        if reason:
            table.row(name, reason, "", "")
            continue
        times = training.by(name)
        seconds, cores = times[-1].clock - times[0].clock, cores_used(times[0], times[-1])
        first = first or seconds
        label = name if name in (PEER, PEER_BF16) else f"{name} ({numbers})"
        table.row(label, f"{counted / seconds:.2f}", f"{first / seconds:.2f}", f"{cores:.2f}")


def _compare_quality(training: Training, held_out: set[str]) -> None:
    from sharpen.evaluation.encoders.load import load_encoder
    from sharpen.evaluation.metrics import PRIMARY, evaluate
    from sharpen.evaluation.retrievers.dense import Dense

    task = training.task
    texts = {q: text for q, text in task.texts.items() if q in held_out}
    qrels = {q: task.qrels[q] for q in texts}
    title = f"{PRIMARY} of {len(texts)} claims after {len(training.rows)} triplets, seed {training.seed}"
    table = Table(title, ("", PRIMARY, "difference, 95 %"))
    first = None
    for name, reason in _ways().items():
        if reason:
            continue
        training.by(name)
        run = Dense(task.corpus, load_encoder(str(training.output))).search(texts, 10)
        values = evaluate(qrels, run, (PRIMARY,))[PRIMARY]
        first = first or values
        table.row(name, *quality_cells(values, first, task.groups))
