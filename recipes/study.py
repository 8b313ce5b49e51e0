"""Comparing ways of making negatives, or of anything else in a recipe: arms x seeds x datasets."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ValidationError
from rich.console import Console

from sharpen.evaluation.arms import ArmResult, ArmRun, arm_results, arms_table
from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.files import InputError, write_json, write_text
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.charts import arms_chart
from sharpen.evaluation.significance import Groups
from sharpen.recipes.engine import ASKED, Run, run_stages
from sharpen.recipes.finished import task_of
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import with_values
from sharpen.recipes.run import prepare_run, run_recipe
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages import check_recipe, stages_of
from sharpen.recipes.stages.rows import triplets_of
from sharpen.recipes.study_file import Study, read_study
from sharpen.recipes.study_plan import StageKey, made_of, print_plan, stage_keys
from sharpen.recipes.study_runs import StudyRun, prepared_runs, runs_of
from sharpen.recipes.study_workers import Task, run_tasks, worker_pool
from sharpen.sdg.llm.budget import paid_in_all
from sharpen.sdg.negatives.record import fraction_filtered

WEIGHTS = ("training", "model", "reranker")
"""Stages whose folders hold models, which a study would fill a disk with."""
QUIET = Console(quiet=True)
_cache: dict[Any, Any] = {}
"""What this process's runs leave in memory."""


class StudyScores(BaseModel):
    """What is kept of a run: nDCG@10 by query before and after, and what it took.

    ``available``: rows that the arm could have trained on. ``seconds`` and ``money``: of the stages that the arm does
    not share with the first one: mining, teaching, training. ``filtered``: fraction of the candidates that filters took
    for relevant.
    """

    digest: str
    triplets: int
    available: int
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    money: str | None = None
    filtered: float | None = None

    def as_arm_run(self) -> ArmRun:
        return ArmRun(**self.model_dump(exclude={"digest", "available"}))


def compare_arms(path: Path, console: Console, more: Sequence[str] = (), jobs: int = 1) -> list[ArmResult]:
    """Run what is not done of a study, print its table and write ``comparison.md``, ``comparison.json`` and
    ``comparison.svg`` into its folder.

    Stages that runs have in common are done once. A run that is done stays so: a killed study goes on where it was.
    ``more``: overrides for all runs. ``jobs``: runs at a time, each in a process with a GPU of its own or a share of
    the cores; one of them at a time asks an LLM, so that none asks what another one has asked. Raises ``InputError``
    for a file, a recipe or data that is not as it should be, before anything runs.
    """
    study = read_study(path)
    runner = _Runner(study, path, console, runs_of(study, path, more), prepared_runs(study, path, more), jobs)
    _cache.clear()
    runner.check()
    runner.prepare()
    done: dict[StudyRun, ArmRun] = {}
    with worker_pool(jobs) as pool:
        for seed in study.seeds:
            for run, scores in runner.run_seed(seed, pool):
                done[run] = scores.as_arm_run()
                before, after = (fmean(side.values()) for side in (scores.before, scores.after))
                console.print(
                    f"{run.dataset}, seed {seed}, {run.arm}: {PRIMARY} {before:.4f} before, {after:.4f} after,"
                    f" {scores.triplets:,} triplets",
                    highlight=False,
                    soft_wrap=True,
                )
    by_arm: dict[str, dict[str, list[ArmRun]]] = {arm: {} for arm in study.arms}
    for run in runner.runs:  # in the order of the file, whichever ended first
        by_arm[run.arm].setdefault(run.dataset, []).append(done[run])
    groups = {run.dataset: _groups(run) for run in reversed(runner.runs)}
    results = arm_results(by_arm, groups, study.baseline)
    _write(study, results, runner.runs[0].folder.parents[1], console)
    return results


def show_plan(path: Path, console: Console, more: Sequence[str] = ()) -> None:
    """Print what a study runs: its stages as a tree with their numbers, and a table of what is shared, done and left.

    Models and datasets need not be here. Raises ``InputError`` for a file or a recipe that is not as it should be.
    """
    study = read_study(path)
    runs = runs_of(study, path, more)
    done = {run: made_of(run, _kept_scores(run) is not None) for run in runs if run.folder.exists()}
    print_plan(path, runs, done, console)


@dataclass
class _Runner:
    """Runs a study's runs, sharing what is on the disk."""

    study: Study
    path: Path
    console: Console
    runs: list[StudyRun]
    prepared: list[StudyRun]
    jobs: int = 1

    def check(self) -> None:
        """Raise ``InputError`` for what can be known beforehand."""
        if any(run.loaded.recipe.evaluation.data is None for run in self.runs):
            raise InputError(
                f"{self.path}: evaluation.data: arms are compared on the same queries, and each seed would hold out"
                " others of its own; name data to evaluate on"
            )
        if self.study.prepare:
            for run in self.prepared:
                check_recipe(run.loaded.recipe)
                names = [stage.name for stage, _ in stages_of(run.loaded.recipe)]
                if self.study.prepare.until not in names:
                    raise InputError(
                        f"{self.path}: prepare.until: no stage {self.study.prepare.until!r}; there are"
                        f" {', '.join(names)}"
                    )

    def prepare(self) -> None:
        """Run what comes before the arms; only then is all there that arms name."""
        for run in self.prepared if self.study.prepare else ():
            self._say(f"preparing {run.dataset}")
            run_stages(_prepare(run, self._siblings), until=self.study.prepare.until)
        for run in self.runs:
            if run.seed == self.study.seeds[0]:
                check_recipe(run.loaded.recipe)

    def run_seed(self, seed: int, pool: ProcessPoolExecutor | None) -> Iterator[tuple[StudyRun, StudyScores]]:
        """The runs of one seed, with what each scored."""
        runs = [run for arm in self.study.arms for run in self.runs if run.seed == seed and run.arm == arm]
        kept = {run: _kept_scores(run) for run in runs}
        available = {run: scores.available for run, scores in kept.items() if scores}
        stages = {run: stage_keys(run) for run in runs}
        if len(available) < len(runs):
            # all are mined before any is trained, to know how many rows there are for each
            available = self._mine_all([run for run in self.runs if run in stages], stages, pool)
        tasks = []
        for run in runs:
            recipe = run.loaded.recipe
            number = available[run]
            if self.study.equal_triplets and _takes_triplets(recipe):
                same = [other for other in available if other.dataset == run.dataset]
                number = min(available[other] for other in same if _takes_triplets(other.loaded.recipe))
            if (scores := kept[run]) and scores.triplets == number:
                yield run, scores
            else:
                names = list(stages[run])
                after_mining = names[names.index(_mined_until(recipe)) + 1 :]
                tasks.append(_task(run, stages[run], after_mining, (self._siblings, number, available[run])))
        yield from self._train_all(tasks, stages, pool)

    def _mine_all(
        self,
        runs: Sequence[StudyRun],
        stages: dict[StudyRun, dict[str, StageKey]],
        pool: ProcessPoolExecutor | None,
    ) -> dict[StudyRun, int]:
        """How many rows to train on each run has."""
        times = Counter(stage.key for run in runs for stage in stages[run].values())
        tasks, shared = [], {}
        for run in runs:
            names = list(stages[run])
            names = names[: names.index(_mined_until(run.loaded.recipe)) + 1]
            common = [name for name in names if times[stages[run][name].key] > 1]
            if pool and common:  # the others wait for what they share, and not for all that the first one mines
                until = stages[run][common[-1]].key
                shared.setdefault(until, _task(run, stages[run], common, (self._siblings, common[-1])))
            tasks.append(_task(run, stages[run], names, (self._siblings, names[-1])))
        done = run_tasks([*shared.values(), *tasks], _mine, pool, self.jobs, partial(self._say_run, "mining"))
        return {task.run: rows for task, rows in done if rows is not None}

    def _train_all(
        self,
        tasks: Sequence[Task],
        stages: dict[StudyRun, dict[str, StageKey]],
        pool: ProcessPoolExecutor | None,
    ) -> Iterator[tuple[StudyRun, StudyScores]]:
        weights = {task.run: [stages[task.run][n].key for n in WEIGHTS if n in stages[task.run]] for task in tasks}
        left = Counter(key for keys in weights.values() for key in keys)
        finished: list[StudyRun] = []
        for task, scores in run_tasks(tasks, _train, pool, self.jobs, partial(self._say_run, "running")):
            yield task.run, scores
            left.subtract(weights[task.run])
            finished.append(task.run)
            # one that differs in what comes after the training takes the model of the one before it
            for run in [run for run in finished if not any(left[key] for key in weights[run])]:
                self._remove_weights(run)
                finished.remove(run)

    @property
    def _siblings(self) -> list[Path]:
        return [other.folder for other in (*self.prepared, *self.runs)]

    def _remove_weights(self, run: StudyRun) -> None:
        for name in WEIGHTS if not self.study.keep_models else ():
            shutil.rmtree(run.folder / name, ignore_errors=True)

    def _say_run(self, what: str, run: StudyRun) -> None:
        self._say(f"{what} {run.dataset}, seed {run.seed}, {run.arm}")

    def _say(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, soft_wrap=True)


def _task(run: StudyRun, stages: dict[str, StageKey], names: Sequence[str], arguments: tuple[Any, ...]) -> Task:
    made = [stages[name] for name in names]
    return Task(run, arguments, frozenset(s.key for s in made), frozenset(s.key for s in made if s.asks))


def _mined_until(recipe: Recipe) -> str:
    """The stage after which it is known how many rows there are."""
    if recipe.training.candidates and not recipe.generative:
        return "teacher"
    return "negatives" if recipe.mines else "pairs"


def _takes_triplets(recipe: Recipe) -> bool:
    """Whether its rows are triplets, of which it can be given fewer."""
    return recipe.generative is None and recipe.training.takes_negatives


def _prepare(run: StudyRun, siblings: Sequence[Path], recipe: Recipe | None = None) -> Run:
    of_study = run.folder.parents[1]  # whose runs search the same corpora
    return prepare_run(recipe or run.loaded.recipe, QUIET, run.folder, siblings, _cache, of_study)


def _mine(run: StudyRun, siblings: Sequence[Path], until: str) -> int | None:
    """Run its stages until this one; the number of rows that it can be trained on, if that is known then."""
    prepared, recipe = _prepare(run, siblings), run.loaded.recipe
    manifests = run_stages(prepared, until=until)
    if until != _mined_until(recipe):
        return None
    if recipe.generative:  # every query is an example, and so are the documents' texts
        rows = manifests[until]["counts"]["train"]
    elif recipe.training.candidates:
        rows = manifests[until]["counts"]["training_lists"]
    elif not recipe.training.takes_negatives:
        rows = sum(map(len, prepared.inputs().qrels("train").values()))
    else:
        rows = len(triplets_of(recipe, prepared.inputs(), recipe.negatives.per_query, recipe.training.triplets)[0])
    if not rows:
        manifest = run.folder / until / "manifest.json"
        raise InputError(f"{run.arm}, seed {run.seed}: no row to train on is left; see {manifest}")
    return rows


def _train(run: StudyRun, siblings: Sequence[Path], number: int, available: int) -> StudyScores:
    """Run it to its end on ``number`` of the rows ``available``."""
    loaded = run.loaded if number == available else with_values(run.loaded, "training", triplets=number)
    run_recipe(loaded, QUIET, _prepare(run, siblings, loaded.recipe))
    return _keep_scores(run, number, available)


def _keep_scores(run: StudyRun, number: int, available: int) -> StudyScores:
    inputs = Inputs(run.folder)
    names = ("negatives", "reranker", "teacher", "training", "model")
    manifests = {name: manifest for name in names if (manifest := inputs.manifest(name))}
    before, after = (inputs.scores(stage, stage)[PRIMARY] for stage in ("before", "after"))
    counts = manifests["negatives"]["counts"] if "negatives" in manifests else {}
    scores = StudyScores(
        digest=run.digest,
        triplets=number,
        available=available,
        before=before,
        after=after,
        seconds=sum(manifest["seconds"] for manifest in manifests.values()),
        money=paid_in_all(row for manifest in manifests.values() for row in manifest.get(ASKED, ())) or None,
        filtered=fraction_filtered(counts),
    )
    write_json(run.folder / "scores.json", scores.model_dump(mode="json"))
    return scores


def _kept_scores(run: StudyRun) -> StudyScores | None:
    try:
        scores = StudyScores.model_validate_json((run.folder / "scores.json").read_text(encoding="utf-8"))
        return scores if scores.digest == run.digest else None
    except (OSError, ValidationError, InputError):
        return None


def _groups(run: StudyRun) -> Groups:
    part = run.loaded.recipe.evaluation
    if (run.folder / "corpus" / "corpus.jsonl").exists():
        return task_of(run.loaded.recipe, Inputs(run.folder)).groups
    return load_task(part.data, part.split, None, part.unknown_documents).groups


def _write(study: Study, results: Sequence[ArmResult], target: Path, console: Console) -> None:
    lines = arms_table(results, study.baseline, study.published)
    compared = [r for r in results if r.arm != study.baseline]
    rows = [(r.arm, (r.difference or r.gain).value, (r.difference or r.gain).interval) for r in compared]
    write_json(target / "comparison.json", [r.model_dump(mode="json") for r in results])
    write_text(target / "comparison.md", "\n".join(lines) + "\n")
    write_text(target / "comparison.svg", arms_chart(rows, study.baseline or "the untuned model"))
    console.print("\n" + "\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nwritten to {target}", highlight=False, soft_wrap=True)
