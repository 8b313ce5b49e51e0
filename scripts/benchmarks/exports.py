"""A model in each format that it is exported to: size, speed, and what is lost of nDCG@10.

    python scripts/benchmark.py exports [--model packaged:all-MiniLM-L6-v2] [--data scifact] [--documents 1000]

Exports the model to each --format into a temporary folder, encodes the documents and the judged queries of --data by
what serves the format (torch, ONNX Runtime, OpenVINO, llama.cpp), and searches exactly. Prints a row each, with bytes
on disk, documents a second, documents a second of a core (the server's among them; it tells more where others are at
work), mean and least cosine to float32, and nDCG@10 on --split with the paired interval of its difference to float32.
Then the vectors of float32 themselves in 8 bits, and in one bit with rescoring: bytes a document, and nDCG@10.
--documents: so many, half of them judged ones, with the queries whose judged documents are all among them; 0: all.

About 10 minutes on two AVX2 cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.common import MODEL, SEED, Table, quality_cells, subset

if TYPE_CHECKING:
    import numpy as np

    from sharpen.evaluation.datasets import Task
    from sharpen.evaluation.retrievers.dense import Dense

PACKAGES = ("torch", "sentence-transformers", "onnxruntime", "openvino", "xllamacpp", "faiss-cpu")
FLOAT32 = "float32 (torch)"
ALL_FORMATS = ["onnx", "openvino", "int8", "gguf"]
CHECKED = 32
"""Texts of each side by which an export is checked as it is written."""
WARM_UP = 16
NDCG = "ndcg@10"


def main(
    model: Annotated[str, typer.Option(help="A folder, a hub name or packaged:<name>.")] = MODEL,
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "scifact",
    split: Annotated[str, typer.Option(help="Whose queries are searched by.")] = "test",
    documents: Annotated[int, typer.Option(help="0: all.", min=0)] = 1_000,
    format: Annotated[list[str], typer.Option(help="Again for another one.")] = ALL_FORMATS,
) -> None:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.encoders.encode import encode
    from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder
    from sharpen.evaluation.retrievers.dense import Dense

    task = subset(load_task(data, split), documents or None)
    texts, ours = [d.content for d in task.corpus.values()], load_encoder(model, device="cpu")
    weights = sum(p.stat().st_size for p in Path(resolve_encoder(model)).rglob("*.safetensors"))
    title = f"{model.removeprefix('packaged:')} on {len(texts):,} documents, {len(task.texts)} queries of {data}"
    columns = ("", "MB", "documents/s", "a core second", "cosine: mean", "least", "nDCG@10", "difference (95 %)")
    table = Table(title, columns, PACKAGES)
    encode(ours, texts[:WARM_UP], precision="float32")
    with _measured() as speed:
        dense = Dense(task.corpus, ours, precision="float32")
    first = _ndcg(task, dense.encode_queries(list(task.texts.values())), dense.vectors)
    table.row(FLOAT32, f"{weights / 1e6:.1f}", *speed(texts), "", "", *quality_cells(first, first, task.groups))
    for name in format:
        _export_row(table, task, model, name, (dense.vectors, first))
    _vector_rows(task, dense, first)


def _export_row(table: Table, task: Task, model: str, name: str, expected: tuple[np.ndarray, dict[str, float]]) -> None:
    import random

    from sharpen.evaluation.export.formats import export_model
    from sharpen.evaluation.export.reading import open_export

    texts, queries = [d.content for d in task.corpus.values()], list(task.texts.values())
    sample = [random.Random(SEED).sample(side, min(CHECKED, len(side))) for side in (queries, texts)]
    vectors, first = expected
    with tempfile.TemporaryDirectory() as folder:
        info = export_model(model, name, Path(folder) / name, *sample)
        with open_export(Path(folder) / name) as encoder:
            encoder.encode(texts[:WARM_UP], "document")
            with _measured() as speed:
                found = encoder.encode(texts, "document")
            of_queries = encoder.encode(queries, "query")
    cosines = (found * vectors).sum(axis=1)
    table.row(
        name,
        f"{info.bytes / 1e6:.1f}",
        *speed(texts),
        f"{cosines.mean():.5f}",
        f"{cosines.min():.5f}",
        *quality_cells(_ndcg(task, of_queries, found), first, task.groups),
    )


@contextmanager
def _measured() -> Iterator[Callable[[list[str]], tuple[str, str]]]:
    """A block that yields what gives, once it has ended, texts a second, and texts a second of a core."""
    start = time.perf_counter(), _cpu_seconds()
    end: list[float] = []
    yield lambda texts: (f"{len(texts) / (end[0] - start[0]):.1f}", f"{len(texts) / (end[1] - start[1]):.1f}")
    end += [time.perf_counter(), _cpu_seconds()]


def _cpu_seconds() -> float:
    """Of this process and those that it started."""
    import psutil

    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def _vector_rows(task: Task, dense: Dense, first: dict[str, float]) -> None:
    from sharpen.evaluation.metrics import evaluate
    from sharpen.evaluation.retrievers.base import search_task
    from sharpen.evaluation.retrievers.quantized import RESCORED, Quantized

    columns = ("vectors", "bytes a document", "nDCG@10", "difference (95 %)")
    table = Table("Its vectors of float32, searched in fewer bytes", columns, ("faiss-cpu",))
    documents = len(task.corpus)
    table.row("float32", dense.vectors.nbytes // documents, *quality_cells(first, first, task.groups))
    for bits, name in (("int8", "int8"), ("binary", f"binary, {RESCORED} times as many found by bits and rescored")):
        index = Quantized(dense, bits)
        values = evaluate(task.qrels, search_task(task, index), [NDCG])[NDCG]
        table.row(name, index.nbytes // documents, *quality_cells(values, first, task.groups))


def _ndcg(task: Task, queries: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    """By query."""
    from sharpen.evaluation.metrics import evaluate
    from sharpen.evaluation.retrievers.base import RUN_DEPTH, task_run
    from sharpen.evaluation.retrievers.dense import nearest

    ids = list(task.corpus)
    scores, rows = nearest(queries, vectors, RUN_DEPTH + 1)
    run = {
        q: {ids[r]: s for r, s in zip(row, of, strict=True) if r >= 0}
        for q, row, of in zip(task.texts, rows.tolist(), scores.tolist(), strict=True)
    }
    return evaluate(task.qrels, task_run(task, run), [NDCG])[NDCG]
