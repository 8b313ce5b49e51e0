"""Training in rounds of one epoch, each on negatives that were mined with the model as it is then (ANCE; Xiong et al.
2021)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Corpus, Query, list_queries
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError, write_json
from sharpen.evaluation.processes import process_state
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingResult, TrainingRun
from sharpen.training.triplets import Triplet

Mine = Callable[[SentenceTransformer | None], tuple[list[Triplet], int]]
"""Gives the triplets of an epoch and how many queries have none, as ``make_triplets`` does, mined with the model as it
is then; None before the first, for the base. Under ``accelerate launch`` every process calls it."""


def train_with_refresh(
    queries: Mapping[str, Query] | Iterable[Query],
    mine: Mine,
    corpus: Corpus,
    settings: RetrieverSettings,
    output: Path | str = "model",
    seed: int = 13,
    run: TrainingRun | None = None,
) -> TrainingResult:
    """Train ``settings.epochs`` epochs, each on what ``mine`` gives, and write the best one's model to ``output``.

    Each epoch has a constant learning rate, as the schedule has it at the epoch's beginning, and the seed ``seed`` plus
    its number; the first one has all of the warm-up. With ``run.validation`` the best epoch's model is kept, else the
    last one's. With ``run.work`` each epoch has a folder of its own there, so that a training that was killed goes on
    in its last epoch. The result's log and steps are those of all epochs together.

    Raises ``InputError`` as ``train_retriever`` does, for adapters (they are merged after an epoch) and for a teacher
    (whose scores are of the first triplets only).
    """
    run, output = run or TrainingRun(), Path(output)
    if settings.lora:
        raise InputError("negatives.refresh: adapters are merged after the first epoch; take training.lora: null")
    if run.teacher:
        raise InputError("negatives.refresh: a teacher has scored the first negatives only; take a loss without one")
    queries = list_queries(queries)
    rounds: list[TrainingResult] = []
    with _work_folder(run, output) as work:
        for number in range(settings.epochs):
            folder = work / f"epoch-{number + 1}"
            base = work / f"epoch-{number}" / "model" if number else None
            finished = _read_result(folder)
            if finished is None:
                current = base and load_encoder(
                    str(base), max_seq_length=settings.max_seq_length, attention=settings.attention
                )
                triplets, left_out = mine(current)
                finished = train_retriever(
                    queries,
                    triplets,
                    corpus,
                    _round_settings(settings, number, base),
                    folder / "model",
                    seed + number,
                    replace(run, work=folder / "checkpoints" if run.work else None),
                )
                finished = replace(finished, queries_left_out=left_out)
                _write_result(folder, finished)
            rounds.append(finished)
        best = _best_round(rounds, run)
        if process_state().is_main_process:
            shutil.copytree(work / f"epoch-{best + 1}" / "model", output, dirs_exist_ok=True)
        process_state().wait_for_everyone()
    return replace(_joined(rounds, best), path=output)


@contextmanager
def _work_folder(run: TrainingRun, output: Path) -> Iterator[Path]:
    """``run.work``, or a folder beside ``output``, which all processes know, that goes when training ends."""
    if run.work:
        yield run.work
        return
    folder = output.with_name(f".{output.name}-epochs")

    def remove() -> None:
        if process_state().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        process_state().wait_for_everyone()

    remove()
    yield folder
    remove()


def _round_settings(settings: RetrieverSettings, number: int, base: Path | None) -> RetrieverSettings:
    """Those of one epoch."""
    changes = {
        "epochs": 1,
        "base": str(base) if base else settings.base,
        "learning_rate": settings.learning_rate * _remaining_rate(settings.schedule, number / settings.epochs),
        "schedule": "constant",
        "warmup": 0.0 if number else min(1.0, settings.warmup * settings.epochs),
    }
    if "gist" in settings.loss:
        changes["guide"] = settings.guide or settings.base
    return settings.model_copy(update=changes)


def _remaining_rate(schedule: str, progress: float) -> float:
    """Fraction of the learning rate at ``progress``, 0 to 1, of a training.

    >>> _remaining_rate("cosine", 0.5)
    0.5
    """
    return {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}[schedule]


def _best_round(rounds: list[TrainingResult], run: TrainingRun) -> int:
    """By the best score of each; the last of equal ones, and without validation the last."""

    def score(number: int) -> float:
        return max((row[run.validation.metric] for row in rounds[number].validated), default=0.0)

    return max(range(len(rounds)), key=lambda n: (score(n) if run.validation else 0.0, n))


def _joined(rounds: list[TrainingResult], best: int) -> TrainingResult:
    """The rounds as one training."""
    starts = [sum(result.last_step for result in rounds[:n]) for n in range(len(rounds))]

    def shifted(rows: list[dict[str, float]], n: int) -> list[dict[str, float]]:
        return [row | {"step": row["step"] + starts[n]} for row in rows]

    numbered = list(enumerate(rounds))
    return TrainingResult(
        log=[row | {"epoch": row["epoch"] + n} for n, result in numbered for row in shifted(result.log, n)],
        validated=[row for n, result in numbered for row in shifted(result.validated, n)],
        kept_step=starts[best] + rounds[best].kept_step,
        last_step=starts[-1] + rounds[-1].last_step,
        steps=sum(result.steps for result in rounds),
        triplets=rounds[-1].triplets,
        queries_left_out=rounds[-1].queries_left_out,
    )


def _write_result(folder: Path, result: TrainingResult) -> None:
    if process_state().is_main_process:
        write_json(folder / "training.json", result.to_dict())


def _read_result(folder: Path) -> TrainingResult | None:
    """The result of an epoch that is finished, the same on every process: each reads the files only when the first one
    has written them."""
    process_state().wait_for_everyone()
    path = folder / "training.json"
    return TrainingResult(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
