"""Evaluation beside BEIR's, with the same scores out.

    python scripts/benchmark.py evaluation [--part model --part scoring --part search] [--data scifact]

model: an encoder on --documents of a collection from reading the files to nDCG@10, by beir (DenseRetrievalExactSearch
and EvaluateRetrieval) and by sharpen. scoring: nDCG@10, hit rate, recall, MAP and precision of a run of --queries x
1,000 documents, by pytrec_eval and by sharpen. search: the 100 nearest of --passages vectors, exactly, by
sentence_transformers.util.semantic_search and by sharpen. Prints a row for each of the two, each measured in a process
of its own (imports are not counted), with the ratio and the most memory.

About 4 minutes on two AVX2 cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.common import MODEL, SEED, Table, in_fresh_process, peak_gib, subset, timed

if TYPE_CHECKING:
    import numpy as np

    from sharpen.evaluation.beir import Qrels, Run

DEPTH = 1000
DIMENSION = 384
SEARCHES = 500
"""Queries of ``search``."""
NEAREST = 100
METRICS = {
    "ndcg@10": "ndcg_cut_10",
    "hit_rate@10": "success_10",
    "recall@100": "recall_100",
    "map@10": "map_cut_10",
    "precision@10": "P_10",
}
"""Ours to trec_eval's."""


class Part(StrEnum):
    MODEL = "model"
    SCORING = "scoring"
    SEARCH = "search"


ALL_PARTS = list(Part)


def main(
    part: Annotated[list[Part], typer.Option(help="Again for another one.")] = ALL_PARTS,
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "scifact",
    split: Annotated[str, typer.Option(help="Whose queries are searched by.")] = "test",
    documents: Annotated[int, typer.Option(help="Of model; 0: all.", min=0)] = 600,
    queries: Annotated[int, typer.Option(help="Of scoring.", min=1)] = 2_000,
    passages: Annotated[int, typer.Option(help="Of search.", min=NEAREST)] = 200_000,
    model: Annotated[str, typer.Option(help="A folder, a hub name or packaged:<name>.")] = MODEL,
) -> None:
    if Part.MODEL in part:
        with tempfile.TemporaryDirectory() as folder:
            number, asked = in_fresh_process(write_subset, Path(folder), data, split, documents or None)
            title = f"Evaluating {model.removeprefix('packaged:')} on {number:,} documents, {asked} queries of {data}"
            ways = {"beir": model_by_beir, "sharpen": model_by_sharpen}
            _compare(title, "nDCG@10", ways, folder, split, model)
    if Part.SCORING in part:
        ways = {"pytrec_eval": score_by_pytrec_eval, "sharpen": score_by_sharpen}
        _compare(f"Scoring {queries:,} queries x {DEPTH:,} documents", "mean of all metrics", ways, queries)
    if Part.SEARCH in part:
        ways = {"sentence-transformers, semantic_search": search_by_peer, "sharpen": search_by_sharpen}
        title = f"Exact search of {SEARCHES} queries in {passages:,} vectors of {DIMENSION} numbers"
        _compare(title, "mean similarity", ways, passages)


def _compare(title: str, value: str, ways: dict[str, Callable], *arguments: object) -> None:
    """The first way is the peer. Each gives its seconds, a value and its memory in GiB."""
    table = Table(title, ("", "seconds", "ratio", value, "memory, GiB"), ("beir", "pytrec_eval-terrier", "faiss-cpu"))
    first = None
    for name, way in ways.items():
        seconds, result, gib = in_fresh_process(way, *arguments)
        first = first or seconds
        table.row(name, f"{seconds:.2f}", f"{first / seconds:.2f}", f"{result:.6f}", f"{gib:.2f}")


def write_subset(folder: Path, data: str, split: str, documents: int | None) -> tuple[int, int]:
    """A BEIR folder of a part of a collection; the numbers of its documents and queries."""
    from sharpen.evaluation.beir import write_corpus, write_qrels, write_queries
    from sharpen.evaluation.datasets import load_task

    task = subset(load_task(data, split), documents)
    (folder / "qrels").mkdir()
    write_corpus(folder / "corpus.jsonl", task.corpus)
    write_queries(folder / "queries.jsonl", task.queries.values())
    write_qrels(folder / "qrels" / f"{split}.tsv", task.qrels)
    return len(task.corpus), len(task.queries)


def model_by_beir(folder: str, split: str, model: str) -> tuple[float, float, float]:
    from beir.datasets.data_loader import GenericDataLoader
    from beir.retrieval.evaluation import EvaluateRetrieval
    from beir.retrieval.models import SentenceBERT
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

    from sharpen.evaluation.encoders.load import resolve_encoder

    with timed() as watch:
        corpus, queries, qrels = GenericDataLoader(folder).load(split=split)
        search = DenseRetrievalExactSearch(SentenceBERT(resolve_encoder(model)))
        retriever = EvaluateRetrieval(search, score_function="cos_sim")
        ndcg, *_ = retriever.evaluate(qrels, retriever.retrieve(corpus, queries), [10, 100])
    return watch.seconds, ndcg["NDCG@10"], peak_gib()


def model_by_sharpen(folder: str, split: str, model: str) -> tuple[float, float, float]:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.metrics import PRIMARY, evaluate
    from sharpen.evaluation.retrievers.base import search_task
    from sharpen.evaluation.retrievers.dense import Dense

    with timed() as watch:
        task = load_task(folder, split)
        run = search_task(task, Dense(task.corpus, model), DEPTH)
        scores = evaluate(task.qrels, run)[PRIMARY]
    return watch.seconds, fmean(scores.values()), peak_gib()


def make_run(queries: int) -> tuple[Qrels, Run]:
    """Scores at random, and six relevant documents of each query, of which the run has three at least."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    ids = [f"d{i}" for i in range(100_000)]

    def draw(count: int) -> list[str]:
        return [ids[i] for i in rng.choice(len(ids), count, replace=False)]

    run = {f"q{n}": dict(zip(draw(DEPTH), rng.random(DEPTH).tolist(), strict=True)) for n in range(queries)}
    return {q: dict.fromkeys([*list(scores)[:3], *draw(3)], 1) for q, scores in run.items()}, run


def score_by_pytrec_eval(queries: int) -> tuple[float, float, float]:
    import pytrec_eval

    qrels, run = make_run(queries)
    with timed() as watch:
        values = pytrec_eval.RelevanceEvaluator(
            qrels, {"ndcg_cut.10", "success.10", "recall.100", "map_cut.10", "P.10"}
        ).evaluate(run)
    return watch.seconds, fmean(values[q][name] for name in METRICS.values() for q in run), peak_gib()


def score_by_sharpen(queries: int) -> tuple[float, float, float]:
    from sharpen.evaluation.metrics import evaluate

    qrels, run = make_run(queries)
    with timed() as watch:
        values = evaluate(qrels, run, list(METRICS))
    return watch.seconds, fmean(values[metric][q] for metric in METRICS for q in run), peak_gib()


def make_vectors(passages: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of queries and passages, at random."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    vectors = np.empty((passages, DIMENSION), dtype=np.float32)
    queries = rng.standard_normal((SEARCHES, DIMENSION), dtype=np.float32)
    for start in range(0, passages, 10_000):  # little more in memory than the result
        block = vectors[start : start + 10_000]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True), vectors


def search_by_peer(passages: int) -> tuple[float, float, float]:
    import torch
    from sentence_transformers.util import semantic_search

    queries, vectors = map(torch.from_numpy, make_vectors(passages))
    with timed() as watch:
        hits = semantic_search(queries, vectors, top_k=NEAREST)
    return watch.seconds, fmean(hit["score"] for of_query in hits for hit in of_query), peak_gib()


def search_by_sharpen(passages: int) -> tuple[float, float, float]:
    from sharpen.evaluation.retrievers.dense import nearest

    queries, vectors = make_vectors(passages)
    with timed() as watch:
        scores, _rows = nearest(queries, vectors, NEAREST)
    return watch.seconds, float(scores.mean(dtype=float)), peak_gib()
