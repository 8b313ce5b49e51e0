"""Documents a second of encoding, and whether the vectors stay the same.

    python scripts/benchmark.py encoding [--documents 300] [--model packaged:all-MiniLM-L6-v2] [--quality]

Prints a row each for SentenceTransformer.encode with its defaults (float32), the same under bf16 autocast where the
hardware multiplies in bf16, sharpen by torch, and sharpen by OpenVINO, with the ratio to the first, the cores that the
process had (fewer than there are where others were at work), and the cosine to the first one's vectors. Each is warmed
up and then measured --rounds times; the best counts, and compiling is said apart. --quality also encodes the whole
dataset by the first and by sharpen as it is, and compares nDCG@10 on --split.

About 3 minutes on two AVX2 cores; --quality on SciFact some 12 more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from statistics import fmean
from typing import TYPE_CHECKING, Annotated
from unittest.mock import patch

import typer

from benchmarks.common import MODEL, SEED, Table, note, quality_cells, timed

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from sharpen.evaluation.datasets import Task

WARM_UP = 32
"""Documents encoded before the clock runs."""
PEER = "sentence-transformers, defaults (float32)"
PACKAGES = ("torch", "sentence-transformers", "openvino")


def main(
    documents: Annotated[int, typer.Option(help="Drawn from the dataset.", min=WARM_UP)] = 300,
    model: Annotated[str, typer.Option(help="A folder, a hub name or packaged:<name>.")] = MODEL,
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "scifact",
    split: Annotated[str, typer.Option(help="Of --quality.")] = "train",
    rounds: Annotated[int, typer.Option(help="Measurements of each; the best counts.", min=1)] = 2,
    quality: Annotated[bool, typer.Option("--quality", help="Also compare nDCG@10.")] = False,
) -> None:
    from sentence_transformers import SentenceTransformer

    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.encoders.encode import encode
    from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder
    from sharpen.evaluation.encoders.precision import has_bf16, resolve_precision

    task = load_task(data, split)
    contents = [d.content for d in task.corpus.values()]
    texts = random.Random(SEED).sample(contents, min(documents, len(contents)))
    peer, ours = SentenceTransformer(resolve_encoder(model)), load_encoder(model)
    numbers = resolve_precision("auto", ours.device)
    table = Table(
        f"Encoding {len(texts):,} documents of {data} with {model.removeprefix('packaged:')}",
        ("", "documents/s", "ratio", "cores used", "cosine to float32: mean", "least"),
        PACKAGES,
    )
    measured = _Measurements(table, texts, rounds)
    measured.add(PEER, lambda texts: encode_by_peer(peer, texts))
    if has_bf16(peer.device):
        measured.add("sentence-transformers, bf16 autocast", lambda texts: encode_by_peer(peer, texts, bf16=True))
    else:
        table.row("sentence-transformers, bf16 autocast", "emulated here, not run", "", "", "", "")
    with without_openvino():
        measured.add(f"sharpen, torch ({numbers})", lambda texts: encode(ours, texts))
    with openvino_for_any_number():
        seconds = compile_seconds(ours)
        if seconds is None:
            table.row("sharpen, OpenVINO", "not installed, or not for this model and device", "", "", "", "")
        else:
            measured.add(f"sharpen, OpenVINO ({numbers})", lambda texts: encode(ours, texts))
    if seconds is not None:
        note(f"OpenVINO took {seconds:.1f} s to compile the model, once. {_threshold(ours, texts)}")
    if quality:
        ways = {PEER: lambda texts: encode_by_peer(peer, texts), "sharpen": lambda texts: encode(ours, texts)}
        _compare_quality(task, ways)


class _Measurements:
    """Rows of one table; the first one measured is what the others are compared with."""

    def __init__(self, table: Table, texts: list[str], rounds: int) -> None:
        self._table, self._texts, self._rounds = table, texts, rounds
        self._first: tuple[float, np.ndarray] | None = None

    def add(self, name: str, encode: Callable[[list[str]], np.ndarray]) -> None:
        encode(self._texts[:WARM_UP])
        watches = []
        for _ in range(self._rounds):
            with timed() as watch:
                vectors = encode(self._texts)
            watches.append(watch)
        best = min(watches, key=lambda watch: watch.seconds)
        self._first = self._first or (best.seconds, vectors)
        cosine = (self._first[1] * vectors).sum(axis=1)
        rate, ratio = f"{len(self._texts) / best.seconds:.1f}", f"{self._first[0] / best.seconds:.2f}"
        self._table.row(name, rate, ratio, f"{best.cores:.2f}", f"{cosine.mean():.5f}", f"{cosine.min():.5f}")


def encode_by_peer(model: SentenceTransformer, texts: list[str], bf16: bool = False) -> np.ndarray:
    """Unit vectors by ``SentenceTransformer.encode`` with its defaults."""
    import torch

    autocast = torch.autocast(model.device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
    with autocast:
        vectors = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()


@contextmanager
def without_openvino() -> Iterator[None]:
    """As if OpenVINO were not installed."""
    from sharpen.evaluation.encoders import openvino as backend

    with patch.object(backend, "openvino", None):
        yield


@contextmanager
def openvino_for_any_number() -> Iterator[None]:
    """OpenVINO for as few texts as there are, where sharpen by itself would not compile for them."""
    from sharpen.evaluation.encoders import openvino as backend

    with patch.object(backend, "MIN_PRODUCTS", 0):
        yield


def compile_seconds(model: SentenceTransformer) -> float | None:
    """What OpenVINO takes to compile the model, which is then kept; None where torch encodes."""
    from sharpen.evaluation.encoders.openvino import openvino_forward

    with timed() as watch:
        compiled = openvino_forward(model, ["a short text", "a text that is a little longer"])
    return watch.seconds if compiled else None


def _threshold(model: SentenceTransformer, texts: list[str]) -> str:
    import torch

    from sharpen.evaluation.encoders.openvino import MIN_PRODUCTS

    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    tokens = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
    each = weights * fmean(map(len, tokens))
    return f"By itself, sharpen does so from about {round(MIN_PRODUCTS / each, -2):,.0f} texts like these on."


def _compare_quality(task: Task, ways: dict[str, Callable[[list[str]], np.ndarray]]) -> None:
    from sharpen.evaluation.metrics import PRIMARY, evaluate
    from sharpen.evaluation.retrievers.dense import nearest

    table = Table(f"{PRIMARY} on {task.name}, {len(task.queries):,} queries", ("", PRIMARY, "difference, 95 %"))
    ids, first = list(task.corpus), None
    for name, encode in ways.items():
        vectors, queries = encode([d.content for d in task.corpus.values()]), encode(list(task.texts.values()))
        scores, rows = nearest(queries, vectors, 10)
        run = {
            q: dict(zip((ids[row] for row in of_query), values, strict=True))
            for q, of_query, values in zip(task.texts, rows.tolist(), scores.tolist(), strict=True)
        }
        values = evaluate(task.qrels, run, (PRIMARY,))[PRIMARY]
        first = first or values
        table.row(name, *quality_cells(values, first, task.groups))
