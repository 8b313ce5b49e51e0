"""Rows a second of each training method, beside sentence-transformers' own classes of the same loss.

    python scripts/benchmark.py methods [--methods "mnrl kl queries_alone"] [--steps 3] [--rounds 2] [--batch-size 16]

Trains all-MiniLM-L6-v2 by mnrl, gist, cached_mnrl (embedding 8 rows at a time), margin_mse and kl on SciFact's claims
with BM25's negatives (one of each claim; four for the two that learn a teacher's scores), and by queries_alone (kl over
BM25's first 64 documents, whose vectors are kept). The peer is SentenceTransformerTrainer with its class of the loss
on the same rows, at the same batch size, lengths, precision and seed. The two take turns, --rounds times; the first
step of each turn warms up and is not counted. A ratio above 1: sharpen is faster. Fewer cores used than there are:
others were at work.

Of queries_alone there are two peers: DistillKLDivLoss over a query and 64 documents encodes both sides, and trains both
unless a Router gives the documents an encoder of their own that is frozen. No loss of sentence-transformers 6 learns
such a distribution over vectors that are there already. Its batches have --list-batch-size queries: four of them, with
64 documents each, take the peer more than 24 GiB.

About 30 minutes on two AVX2 cores.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.common import MODEL, Moment, Table, cores_used, note, timed
from benchmarks.training import PACKAGES, Training, distinct, make_rows

if TYPE_CHECKING:
    from sharpen.evaluation.datasets import Task

QUERIES_ALONE = "queries_alone"
LIST_SIZE = 64
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "mnrl": ({}, 1),
    "gist": ({"loss": "gist"}, 1),
    "cached_mnrl": ({"loss": "cached_mnrl", "mini_batch_size": 8}, 1),
    "margin_mse": ({"loss": "margin_mse"}, 4),
    "kl": ({"loss": "kl"}, 4),
}
"""Settings of sharpen's, and negatives of a row."""
SHARPEN = "sharpen"
Way = Callable[[], list[Moment]]
"""Trains, and returns the moment at the end of each step."""


def main(
    methods: Annotated[str, typer.Option(help="Some of them; none: all.")] = "",
    steps: Annotated[int, typer.Option(help="Counted, of each turn.", min=1)] = 3,
    rounds: Annotated[int, typer.Option(help="Turns of each.", min=1)] = 2,
    batch_size: Annotated[int, typer.Option(help="Rows.", min=2)] = 16,
    list_batch_size: Annotated[int, typer.Option(help="Queries of queries_alone.", min=2)] = 2,
) -> None:
    from sharpen.evaluation.datasets import load_task
    from sharpen.evaluation.encoders.load import resolve_encoder
    from sharpen.evaluation.encoders.precision import resolve_precision
    from sharpen.evaluation.processes import process_state

    chosen = [name for name in re.split(r"[\s,]+", methods.strip()) if name] or [*METHODS, QUERIES_ALONE]
    if unknown := set(chosen) - {*METHODS, QUERIES_ALONE}:
        raise typer.BadParameter(f"no method {unknown.pop()!r}; there are {', '.join([*METHODS, QUERIES_ALONE])}")
    numbers = resolve_precision("auto", process_state().device)
    task, base = load_task("scifact", "train"), resolve_encoder(MODEL)
    columns = ("method", "batch", "sentence-transformers, rows/s", "sharpen, rows/s", "ratio", "of each round")
    table = Table(f"Training all-MiniLM-L6-v2 in {numbers}", (*columns, "cores used"), PACKAGES)
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            size = list_batch_size if name == QUERIES_ALONE else batch_size
            make = partial(_queries_alone, notes) if name == QUERIES_ALONE else partial(_on_negatives, name)
            training = make(task, base, Path(folder) / "model", size, (steps + 1) * size)
            ways: dict[str, Way] = {"": partial(training.by_peer, numbers == "bf16")}
            if name == QUERIES_ALONE:
                ways = {
                    ", peer trains both sides": ways[""],
                    ", peer's documents frozen": partial(training.by_peer, numbers == "bf16", frozen_documents=True),
                }
            _compare(table, name, training, ways, rounds)
    for sentence in notes:  # after the table, whose rows they would part
        note(sentence)


@dataclass
class _Turns:
    """What one way took: of each of its turns the seconds, and the cores that it had."""

    seconds: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    def take(self, way: Way) -> None:
        times = way()
        self.seconds.append(times[-1].clock - times[0].clock)
        self.cores.append(cores_used(times[0], times[-1]))

    def rate(self, rows: int) -> float:
        return rows * len(self.seconds) / sum(self.seconds)


def _compare(table: Table, name: str, training: Training, peers: dict[str, Way], rounds: int) -> None:
    """Peers and sharpen in turns, and a row for each peer."""
    ways = peers | {SHARPEN: training.by_sharpen}
    turns = {way: _Turns() for way in ways}
    for _ in range(rounds):
        for way, train in ways.items():
            turns[way].take(train)
    counted, ours = len(training.rows) - training.batch_size, turns[SHARPEN]
    for peer in peers:
        theirs = turns[peer]
        each = [f"{a / b:.2f}" for a, b in zip(theirs.seconds, ours.seconds, strict=True)]
        cores = " / ".join(f"{sum(t.cores) / rounds:.2f}" for t in (theirs, ours))
        rates = theirs.rate(counted), ours.rate(counted)
        ratio = f"{rates[1] / rates[0]:.2f}"
        table.row(f"{name}{peer}", training.batch_size, *(f"{r:.2f}" for r in rates), ratio, ", ".join(each), cores)


def _on_negatives(name: str, task: Task, base: str, output: Path, batch_size: int, count: int) -> Training:
    from sharpen.evaluation.models import Models
    from sharpen.evaluation.scorers import BM25_SCORER
    from sharpen.training.settings import DISTILLING

    options, per_query = METHODS[name]
    rows = distinct(make_rows(task, per_query))[:count]
    scores = None
    if options.get("loss") in DISTILLING:
        pairs = [(t.query_id, i) for t in rows for i in (t.positive_id, *t.negative_ids)]
        scores = Models().score(BM25_SCORER, pairs, task.queries, task.corpus)
    return Training(base, rows, task, output, batch_size, options=options, scores=scores)


def _queries_alone(notes: list[str], task: Task, base: str, output: Path, batch_size: int, count: int) -> Training:
    from sharpen.evaluation.retrievers.bm25 import BM25
    from sharpen.evaluation.retrievers.dense import Dense
    from sharpen.training import CandidateLists

    texts = dict(list(task.texts.items())[: 2 * count])  # some have no list: few documents share a word with them
    run = BM25(task.corpus).search(texts, LIST_SIZE)
    found = {q: scores for q, scores in run.items() if len(scores) == LIST_SIZE}
    lists = CandidateLists.of(dict(list(found.items())[:count]), LIST_SIZE)
    listed = {i: task.corpus[i] for documents in lists.documents for i in documents}
    with timed() as watch:
        index = Dense(listed, base)
    notes.append(f"The vectors of the {len(listed):,} documents of {QUERIES_ALONE} took {watch.seconds:.1f} s, once.")
    options = {"loss": "kl", "candidates": LIST_SIZE, "documents": "kept"}
    scores = {(q, i): run[q][i] for q, documents in zip(lists.queries, lists.documents, strict=True) for i in documents}
    return Training(base, lists, task, output, batch_size, options=options, scores=scores, index=index)
