"""Encode a corpus of natural lengths as sentence-transformers does by default, the same under bf16 autocast, and as
sharpen does, in one run, and print documents per second, what became of the vectors, and what share of the machine's
matrix rate was reached.

.venv/bin/python scripts/benchmark_encoding.py [--data scifact] [--documents 1500] [--model packaged:all-MiniLM-L6-v2]

The three take turns, each twice, after a first pass over a few documents; the better time counts. nDCG@10 is of all
documents of the dataset with vectors made in fp32 by sentence-transformers and with sharpen's, on --split. The matrix
rate is that of torch's bf16 product of two 4096 x 4096 matrices; of the encoder only the arithmetic of real tokens is
counted.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
from sharpen.evaluation.datasets import find_dataset
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder
from sharpen.evaluation.encoders.precision import autocast
from sharpen.evaluation.metrics import PRIMARY, evaluate
from sharpen.evaluation.significance import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scifact")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", default="packaged:all-MiniLM-L6-v2")
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument(
        "--quality",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also encode everything in fp32 and compare nDCG@10",
    )
    options = parser.parse_args()
    corpus = read_corpus(find_dataset(options.data) / "corpus.jsonl")
    texts = random.Random(0).sample([d.content for d in corpus.values()], min(options.documents, len(corpus)))
    model, theirs = load_encoder(options.model), SentenceTransformer(resolve_encoder(options.model))
    ways: dict[str, Callable[[list[str]], np.ndarray]] = {
        "sentence-transformers, defaults": lambda texts: by_default(theirs, texts, bf16=False),
        "sentence-transformers, bf16 autocast": lambda texts: by_default(theirs, texts, bf16=True),
        "sharpen": lambda texts: encode(model, texts),
    }
    seconds = dict.fromkeys(ways, np.inf)
    vectors = {}
    for way in ways.values():
        way(texts[:64])
    for _ in range(2):
        for name, way in ways.items():
            started = time.perf_counter()
            vectors[name] = way(texts)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    rate = matrix_rate(model.device)
    tokens = [len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]]
    work = sum(operations(model, n) for n in tokens)
    plain, half, ours = ways
    print(
        f"{len(texts):,} documents of {np.mean(tokens):.0f} tokens, {model.device.type}, {torch.get_num_threads()}"
        f" threads; bf16 products at {rate / 1e9:,.0f} Gflop/s\n"
    )
    print(
        "| | documents/s | of the matrix rate | ratio | cosine to fp32, mean and least |\n| --- | --- | --- | --- |"
        " --- |"
    )
    for name in ways:
        cosine = (vectors[plain] * vectors[name]).sum(axis=1)
        print(
            f"| {name} | {len(texts) / seconds[name]:.1f} | {work / seconds[name] / rate:.0%} |"
            f" {seconds[plain] / seconds[name]:.2f} | {cosine.mean():.5f}, {cosine.min():.5f} |"
        )
    print(f"\nsharpen against bf16 autocast: {seconds[half] / seconds[ours]:.2f}")
    if options.quality:
        print(quality({name: ways[name] for name in (plain, ours)}, options.data, options.split))


def by_default(model: SentenceTransformer, texts: list[str], bf16: bool) -> np.ndarray:
    with autocast(model.device) if bf16 else nullcontext():
        vectors = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()


def matrix_rate(device: torch.device, size: int = 4096) -> float:
    """Operations per second of a product of two square bf16 matrices, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in "ab")
    best = np.inf
    for _ in range(10):
        started = time.perf_counter()
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def operations(model: SentenceTransformer, tokens: int) -> float:
    """Multiplications and additions of one text's matrix products, forward: of the linear layers and of attention."""
    config = model[0].auto_model.config
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * width)
    per_token = 2 * (4 * width * width + 2 * width * inner) + 4 * tokens * width
    return config.num_hidden_layers * tokens * per_token


def quality(ways: dict[str, Callable[[list[str]], np.ndarray]], data: str, split: str) -> str:
    folder = find_dataset(data)
    corpus, queries = read_corpus(folder / "corpus.jsonl"), read_queries(folder / "queries.jsonl")
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv", queries)
    scores = []
    for way in ways.values():
        documents, asked = way([d.content for d in corpus.values()]), way([queries[q].text for q in qrels])
        ids, similar = list(corpus), asked @ documents.T
        best = np.argsort(-similar, axis=1)[:, :11]
        run = {q: {ids[i]: float(similar[row, i]) for i in best[row] if ids[i] != q} for row, q in enumerate(qrels)}
        scores.append(evaluate(qrels, run, (PRIMARY,))[PRIMARY])
    d = compare(*scores)
    return (
        f"{PRIMARY} on {data} {split}, {len(qrels)} queries: fp32 {np.mean(list(scores[0].values())):.4f}, sharpen"
        f" {np.mean(list(scores[1].values())):.4f}, difference {d.value:+.4f} ({d.interval[0]:+.4f} to"
        f" {d.interval[1]:+.4f})"
    )


if __name__ == "__main__":
    main()
