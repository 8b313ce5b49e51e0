"""Evaluation beside its peers: a model on a collection from reading to nDCG@10 (`beir`'s DenseRetrievalExactSearch and
EvaluateRetrieval), scoring a large run (`pytrec_eval`), and exact search in a large corpus (memory).

.venv/bin/python scripts/benchmark_evaluation.py [--parts model scoring search] [--data scifact] [--model
packaged:all-MiniLM-L6-v2]

The two ways of `model` run in processes of their own, one after the other; imports are not counted. All three take some
ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import fmean

import numpy as np

QUERIES, DEPTH = 10_000, 1000
PASSAGES, DIMENSION = 1_000_000, 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=["model", "scoring", "search"], default=["model", "scoring", "search"]
    )
    parser.add_argument("--data", default="scifact")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="packaged:all-MiniLM-L6-v2")
    parser.add_argument("--one", choices=list(ONE), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ONE[options.one](options)))
        return
    measured = {name: _run(name, options) for part in options.parts for name in PARTS[part]}
    if "model" in options.parts:
        theirs, ours = measured["beir"], measured["sharpen"]
        print(
            f"\n{options.model} on {options.data}, split {options.split}\n\n| way | seconds | share of beir's time |"
            " nDCG@10 |\n| --- | --- | --- | --- |"
        )
        for name, row in (("beir", theirs), ("sharpen", ours)):
            print(f"| {name} | {row['seconds']:.1f} | {row['seconds'] / theirs['seconds']:.3f} | {row['ndcg']:.4f} |")
    if "scoring" in options.parts:
        row = measured["scoring"]
        print(
            f"\nscoring {QUERIES:,} queries x {DEPTH:,} documents: pytrec_eval {row['pytrec_eval']:.2f} s, sharpen"
            f" {row['sharpen']:.2f} s, ratio {row['pytrec_eval'] / row['sharpen']:.2f}; largest difference"
            f" {row['difference']:.1e}"
        )
    if "search" in options.parts:
        row = measured["search"]
        print(
            f"\nexact search, {PASSAGES:,} passages of {DIMENSION} numbers, {row['queries']:,} queries, 100 documents"
            f" each: {row['seconds']:.1f} s, {row['gib']:.2f} GiB"
        )


def _run(name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        "--data",
        options.data,
        "--split",
        options.split,
        "--model",
        options.model,
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def by_beir(options: argparse.Namespace) -> dict[str, float]:
    from beir.datasets.data_loader import GenericDataLoader
    from beir.retrieval.evaluation import EvaluateRetrieval
    from beir.retrieval.models import SentenceBERT
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

    from sharpen.evaluation.datasets import find_dataset
    from sharpen.evaluation.encoders.load import resolve_encoder

    started = time.perf_counter()
    corpus, queries, qrels = GenericDataLoader(str(find_dataset(options.data))).load(split=options.split)
    retriever = EvaluateRetrieval(
        DenseRetrievalExactSearch(SentenceBERT(resolve_encoder(options.model))), score_function="cos_sim"
    )
    ndcg, *_ = retriever.evaluate(qrels, retriever.retrieve(corpus, queries), [10, 100])
    return {"seconds": time.perf_counter() - started, "ndcg": ndcg["NDCG@10"]}


def by_sharpen(options: argparse.Namespace) -> dict[str, float]:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.encoders.load import load_encoder
    from sharpen.evaluation.metrics import PRIMARY, evaluate
    from sharpen.evaluation.retrievers.base import search_task
    from sharpen.evaluation.retrievers.dense import Dense

    started = time.perf_counter()
    task = load_task(options.data, options.split)
    run = search_task(task, Dense(task.corpus, load_encoder(options.model)), 1000)
    scores = evaluate(task.qrels, run)[PRIMARY]
    return {"seconds": time.perf_counter() - started, "ndcg": fmean(scores.values())}


def scoring(options: argparse.Namespace) -> dict[str, float]:
    import pytrec_eval

    from sharpen.evaluation.metrics import evaluate

    rng = np.random.default_rng(13)
    ids = [f"d{i}" for i in range(100_000)]
    draw = lambda count: [ids[i] for i in rng.choice(len(ids), count, replace=False)]  # noqa: E731
    run = {f"q{n}": dict(zip(draw(DEPTH), rng.random(DEPTH).tolist(), strict=True)) for n in range(QUERIES)}
    qrels = {q: dict.fromkeys([*list(scores)[:3], *draw(3)], 1) for q, scores in run.items()}
    metrics = {
        "ndcg@10": "ndcg_cut_10",
        "hit_rate@10": "success_10",
        "recall@100": "recall_100",
        "map@10": "map_cut_10",
        "precision@10": "P_10",
    }
    seconds, theirs, mine = {"pytrec_eval": np.inf, "sharpen": np.inf}, {}, {}
    for _ in range(2):
        started = time.perf_counter()
        theirs = pytrec_eval.RelevanceEvaluator(
            qrels, {"ndcg_cut.10", "success.10", "recall.100", "map_cut.10", "P.10"}
        ).evaluate(run)
        seconds["pytrec_eval"] = min(seconds["pytrec_eval"], time.perf_counter() - started)
        started = time.perf_counter()
        mine = evaluate(qrels, run, list(metrics))
        seconds["sharpen"] = min(seconds["sharpen"], time.perf_counter() - started)
    return seconds | {"difference": max(abs(mine[m][q] - theirs[q][name]) for m, name in metrics.items() for q in run)}


def search(options: argparse.Namespace) -> dict[str, float]:
    from sharpen.evaluation.retrievers.dense import nearest

    rng = np.random.default_rng(13)
    vectors = np.empty((PASSAGES, DIMENSION), dtype=np.float32)
    for start in range(0, PASSAGES, 10_000):
        vectors[start : start + 10_000] = rng.standard_normal(
            (min(10_000, PASSAGES - start), DIMENSION), dtype=np.float32
        )
    queries = rng.standard_normal((1000, DIMENSION), dtype=np.float32)
    started = time.perf_counter()
    _, rows = nearest(queries, vectors, 100)
    seconds = time.perf_counter() - started
    assert all(int((vectors @ queries[n]).argmax()) == rows[n, 0] for n in range(5))
    return {
        "seconds": seconds,
        "queries": len(queries),
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


PARTS = {"model": ("beir", "sharpen"), "scoring": ("scoring",), "search": ("search",)}
ONE = {"beir": by_beir, "sharpen": by_sharpen, "scoring": scoring, "search": search}

if __name__ == "__main__":
    main()
