"""Several rerankers on parts of the queries, as one (UDAPDR, Saad-Falcon et al. 2023)."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from sharpen.evaluation.encoders.committee import write_committee
from sharpen.evaluation.files import InputError, atomic_folder, link_or_copy, visible_files, write_json
from sharpen.evaluation.processes import from_main, process_state
from sharpen.training import checkpoints
from sharpen.training.trainer import TrainingResult, TrainingRun, work_folder
from sharpen.training.triplets import Triplet

LOG = "training_log.json"
"""In a member's folder; it is written last, so a folder in the place of a member is a whole one."""
TrainOne = Callable[[Sequence[Triplet], Path, int, TrainingRun], TrainingResult]
"""Trains on rows into a folder, by a seed."""


def query_parts(triplets: Sequence[Triplet], members: int, seed: int) -> list[list[Triplet]]:
    """The rows of as many parts of the queries as there are members: no query is in two of them, and they differ by one
    query at most. Drawn by ``seed``. Raises ``InputError`` if there are fewer queries than members.

    >>> rows = [Triplet(f"q{n // 2}", f"d{n}", ("e",)) for n in range(6)]
    >>> [[row.positive_id for row in part] for part in query_parts(rows, members=2, seed=1)]
    [['d0', 'd1', 'd2', 'd3'], ['d4', 'd5']]
    """
    queries = sorted({t.query_id for t in triplets})
    if len(queries) < members:
        raise InputError(
            f"reranker.committee: {members} members each learn from queries of their own, and there are"
            f" {len(queries):,}; lower it, or raise queries.documents"
        )
    random.Random(seed).shuffle(queries)
    part_of = {query: place % members for place, query in enumerate(queries)}
    return [[t for t in triplets if part_of[t.query_id] == part] for part in range(members)]


def train_members(
    train: TrainOne, parts: Sequence[Sequence[Triplet]], output: Path, seed: int, run: TrainingRun
) -> TrainingResult:
    """Train a member on each part, from the seeds ``seed``, ``seed + 1``, ..., and write them to ``output``: a folder
    each, and the file that makes them a committee.

    With ``run.work`` a killed training goes on: members that are whole are not trained again. The steps of the result
    are those of all members, one after the other.
    """
    names = [f"member-{n}" for n in range(1, len(parts) + 1)]
    with work_folder(run.work) as work:
        results, is_done = [], []
        for n, (name, part) in enumerate(zip(names, parts, strict=True)):
            own = replace(run, work=run.work and work / f"{name}.work")
            log = _log_of(work / name)
            is_done.append(log is not None)
            results.append(_train_member(train, part, work / name, seed + n, own) if log is None else log)
        if process_state().is_main_process:
            with checkpoints.disk_errors(output):
                for name in names:
                    shutil.rmtree(output / name, ignore_errors=True)  # of an earlier committee
                    for file in visible_files(work / name):
                        link_or_copy(file, output / file.relative_to(work))
                write_committee(output, names)
        process_state().wait_for_everyone()
    return _together(results, is_done)


def _train_member(
    train: TrainOne, part: Sequence[Triplet], target: Path, seed: int, run: TrainingRun
) -> TrainingResult:
    is_main = process_state().is_main_process
    with atomic_folder(target) if is_main else nullcontext(target) as folder:
        result = train(part, folder, seed, run)
        if is_main:
            write_json(folder / LOG, result.to_dict())
    if is_main and run.work:
        shutil.rmtree(run.work, ignore_errors=True)
    return result


def _log_of(member: Path) -> TrainingResult | None:
    """Of one that is whole."""
    path = member / LOG
    is_whole = process_state().is_main_process and path.exists()
    values = from_main(json.loads(path.read_text(encoding="utf-8")) if is_whole else None)
    return values and TrainingResult(**values)


def _together(results: Sequence[TrainingResult], is_done: Sequence[bool]) -> TrainingResult:
    starts = [sum(result.last_step for result in results[:n]) for n in range(len(results) + 1)]
    resumed = starts[sum(is_done)]
    trained = [result for result, done in zip(results, is_done, strict=True) if not done]
    resumed += (trained[0].resumed_from or 0) if trained else 0
    return TrainingResult(
        log=[row | {"step": row["step"] + start} for start, r in zip(starts, results, strict=False) for row in r.log],
        validated=[],
        kept_step=starts[-1],
        last_step=starts[-1],
        steps=sum(result.steps for result in results),
        resumed_from=resumed or None,
    )
