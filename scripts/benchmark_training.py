"""Train on the same triplets as SentenceTransformerTrainer does with its defaults, the same with bf16, and as sharpen
does, in one run, and print triplets per second and what share of the machine's bf16 matrix rate was reached.

    .venv/bin/python scripts/benchmark_training.py [--steps 8] [--shape minilm] [--shape distilbert] [--seeds 13 14 15]

The triplets are SciFact's train-split claims with one of their abstracts and one BM25 negative, texts of natural
lengths (most are cut to 256 tokens). --shape distilbert is DistilBERT's architecture with weights drawn at random: for
speed only. With --seeds, MiniLM is also trained for an epoch on 560 of the claims by each way and seed, and nDCG@10 of
the other claims over all abstracts is compared (some 50 minutes on 2 cores).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from statistics import fmean

import transformers
from benchmark_encoding import matrix_rate, operations
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
from sharpen.evaluation.datasets import find_dataset
from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder
from sharpen.evaluation.metrics import PRIMARY, evaluate
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.significance import compare
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.triplets import Triplet

WAYS = ("sentence-transformers, defaults", "sentence-transformers, bf16", "sharpen")
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shape", action="append", choices=["minilm", "distilbert"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    options = parser.parse_args()
    folder = find_dataset("scifact")
    corpus, queries = read_corpus(folder / "corpus.jsonl"), read_queries(folder / "queries.jsonl")
    qrels = read_qrels(folder / "qrels" / "train.tsv", queries)
    found = BM25(corpus).search({q: queries[q].text for q in qrels}, 30)
    rows = [
        Triplet(q, next(iter(qrels[q])), (next(d for d in ranking(found[q])[10:] if d not in qrels[q]),))
        for q in qrels
        if len(found[q]) > 20
    ]
    random.Random(0).shuffle(rows)
    with tempfile.TemporaryDirectory() as scratch:
        print("| model | way | triplets/s | of the bf16 matrix rate | ratio |\n| --- | --- | --- | --- | --- |")
        for shape in options.shape or ["minilm", "distilbert"]:
            base = (
                resolve_encoder("packaged:all-MiniLM-L6-v2")
                if shape == "minilm"
                else random_distilbert(Path(scratch) / "distilbert")
            )
            speed(shape, base, rows[: options.steps * BATCH], queries, corpus, Path(scratch))
        for seed in options.seeds:
            quality(seed, rows, queries, corpus, qrels, Path(scratch))


def speed(shape, base, rows, queries, corpus, scratch) -> None:
    model = load_encoder(base)
    rate = matrix_rate(model.device)

    def lengths(texts):
        return [
            len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
        ]

    texts = [queries[t.query_id].text for t in rows] + [
        corpus[i].content for t in rows for i in (t.positive_id, *t.negative_ids)
    ]
    work = 3 * sum(operations(model, n) for n in lengths(texts)) / len(rows)  # forward, and twice that backward
    seconds = {}  # a row; the first two steps warm up, and the last ones may be smaller, so rows are counted, not steps
    for way in WAYS:
        times: list[float] = []
        train(way, base, rows, queries, corpus, scratch / "model", 13, times)
        seconds[way] = (times[-1] - times[1]) / (len(rows) - 2 * BATCH)
    for way in WAYS:
        print(
            f"| {shape} | {way} | {1 / seconds[way]:.2f} | {work / seconds[way] / rate:.0%} |"
            f" {seconds[WAYS[0]] / seconds[way]:.2f} |",
            flush=True,
        )
    print(f"| {shape} | sharpen against bf16 | | | {seconds[WAYS[1]] / seconds[WAYS[2]]:.2f} |", flush=True)


def train(way, base, rows, queries, corpus, output, seed, times) -> None:
    """One epoch; the time at the end of each step goes into ``times``."""
    settings = RetrieverSettings(str(base), batch_size=BATCH)
    if way == "sharpen":
        train_retriever(
            rows, queries, corpus, settings, output, seed, progress=lambda _p: times.append(time.perf_counter())
        )
        return
    transformers.set_seed(seed)
    model = SentenceTransformer(str(base))
    columns = {
        "anchor": [queries[t.query_id].text for t in rows],
        "positive": [corpus[t.positive_id].content for t in rows],
        "negative": [corpus[t.negative_ids[0]].content for t in rows],
    }
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup,
            seed=seed,
            bf16=way.endswith("bf16"),
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        watch = _Times(times)
        SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[watch],
        ).train()
    model.save_pretrained(str(output), create_model_card=False)


def quality(seed, rows, queries, corpus, qrels, scratch) -> None:
    trained, held_out = rows[:560], {t.query_id for t in rows[560:]}
    texts = {q: queries[q].text for q in held_out}
    scores = {}
    for way in WAYS:
        train(way, resolve_encoder("packaged:all-MiniLM-L6-v2"), trained, queries, corpus, scratch / "model", seed, [])
        run = Dense(corpus, load_encoder(str(scratch / "model"))).search(texts, 11)
        scores[way] = evaluate({q: qrels[q] for q in held_out}, run, (PRIMARY,))[PRIMARY]
    for way in WAYS[:2]:
        d = compare(scores[way], scores["sharpen"])
        print(
            f"seed {seed}: {PRIMARY} of {len(held_out)} claims, sharpen {fmean(scores['sharpen'].values()):.4f}, {way}"
            f" {fmean(scores[way].values()):.4f}, difference {d.value:+.4f} ({d.interval[0]:+.4f} to"
            f" {d.interval[1]:+.4f})",
            flush=True,
        )


class _Times(transformers.TrainerCallback):
    def __init__(self, times: list[float]) -> None:
        self._times = times

    def on_step_end(self, args, state, control, **kwargs):
        self._times.append(time.perf_counter())


def random_distilbert(folder: Path) -> str:
    """DistilBERT with mean pooling, weights drawn at random, and BERT's tokenizer."""
    transformers.set_seed(0)
    inner = folder / "inner"
    DistilBertModel(DistilBertConfig()).save_pretrained(inner)
    AutoTokenizer.from_pretrained(resolve_encoder("packaged:all-MiniLM-L6-v2")).save_pretrained(inner)
    transformer = Transformer(str(inner), max_seq_length=256)
    SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")]).save_pretrained(
        str(folder), create_model_card=False
    )
    return str(folder)


if __name__ == "__main__":
    main()
