"""Comparing ways of making negatives, or of anything else in a recipe: arms x seeds x datasets."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ValidationError
from rich.console import Console

from sharpen.evaluation.arms import ArmResult, ArmRun, arm_results, arms_table
from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.files import InputError, slug, write_json, write_text
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.charts import arms_chart
from sharpen.evaluation.significance import Groups
from sharpen.recipes.engine import Run, run_stages
from sharpen.recipes.finished import task_of
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import LoadedRecipe, Override, load_recipe
from sharpen.recipes.run import prepare_run, run_recipe
from sharpen.recipes.schema.evaluation import AT_HAND
from sharpen.recipes.stages import check_recipe, stages_of
from sharpen.recipes.stages.rows import triplets_of
from sharpen.recipes.study_file import Study, read_study, study_name, with_prepared
from sharpen.sdg.negatives.record import fraction_filtered

WEIGHTS = ("training", "model", "reranker")
"""Stages whose folders hold models, which a study would fill a disk with."""
QUIET = Console(quiet=True)


@dataclass(frozen=True, eq=False)
class StudyRun:
    """One run of a study: an arm on a dataset with a seed. ``dataset``: as it is shown."""

    arm: str
    dataset: str
    seed: int
    loaded: LoadedRecipe
    folder: Path

    @cached_property
    def digest(self) -> str:
        """What the scores depend on: the stages with what their parts stand for."""
        parts = [(stage.name, stage.version, part.fingerprint()) for stage, part in stages_of(self.loaded.recipe)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class StudyScores(BaseModel):
    """What is kept of a run: nDCG@10 by query before and after, and what it took.

    ``available``: rows that the arm could have trained on. ``seconds``: of the stages that the arm does not share with
    the first one: mining, teaching, training. ``filtered``: fraction of the candidates that filters took for relevant.
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


def compare_arms(path: Path, console: Console, more: Sequence[str] = ()) -> list[ArmResult]:
    """Run what is not done of a study, print its table and write ``comparison.md``, ``comparison.json`` and
    ``comparison.svg`` into its folder.

    Stages that runs have in common are done once. A run that is done stays so: a killed study goes on where it was.
    ``more``: overrides for all runs. Raises ``InputError`` for a file, a recipe or data that is not as it should be,
    before anything runs.
    """
    study = read_study(path)
    runner = _Runner(study, path, console, runs_of(study, path, more), prepared_runs(study, path, more))
    runner.check()
    runner.prepare()
    done: dict[str, dict[str, list[ArmRun]]] = {arm: {} for arm in study.arms}
    for seed in study.seeds:
        for run, scores in runner.run_seed(seed):
            done[run.arm].setdefault(run.dataset, []).append(scores.as_arm_run())
            before, after = (fmean(side.values()) for side in (scores.before, scores.after))
            console.print(
                f"{run.dataset}, seed {seed}, {run.arm}: {PRIMARY} {before:.4f} before, {after:.4f} after,"
                f" {scores.triplets:,} triplets",
                highlight=False,
                soft_wrap=True,
            )
    groups = {run.dataset: _groups(run) for run in reversed(runner.runs)}
    results = arm_results(done, groups, study.baseline)
    _write(study, results, runner.runs[0].folder.parents[1], console)
    return results


def runs_of(study: Study, path: Path, more: Sequence[str] = ()) -> list[StudyRun]:
    """Every run, dataset by dataset and seed by seed. Raises ``InputError`` that names the arm."""
    runs = []
    for dataset, prepared in zip(study.datasets or {"": ()}, prepared_runs(study, path, more), strict=True):
        for seed in study.seeds:
            for arm, overrides in study.arms.items():
                given = [*with_prepared(overrides, prepared.folder), f"seed={seed}"]
                runs.append(_run(study, path, (arm, dataset, seed), [*given, *more], f"{slug(arm, 'arm')}-{seed}"))
    return runs


def prepared_runs(study: Study, path: Path, more: Sequence[str] = ()) -> list[StudyRun]:
    """What runs before the arms of each dataset, with the first seed; nothing of it has to be run where the study does
    not say so."""
    overrides = study.prepare.overrides if study.prepare else ()
    seed = study.seeds[0]
    return [
        _run(study, path, ("prepared", dataset, seed), [*overrides, f"seed={seed}", *more], "prepared")
        for dataset in study.datasets or {"": ()}
    ]


def _run(study: Study, path: Path, place: tuple[str, str, int], overrides: Sequence[Override], folder: str) -> StudyRun:
    arm, dataset, seed = place
    near = path.parent / study.recipe
    file = str(near) if near.is_file() else study.recipe
    all_overrides = [*study.overrides, *study.datasets.get(dataset, ()), *overrides, f"name={study_name(path)}"]
    try:
        loaded = load_recipe(file, all_overrides)
        if [other.data for other in loaded.recipe.evaluation.others] == [AT_HAND]:
            # a study's table has nothing of it, and every arm would take as long
            loaded = load_recipe(file, [*all_overrides, "evaluation.others=[]"])
    except InputError as error:
        raise InputError(f"{path}: {arm}{f', {dataset}' if dataset else ''}: {error}") from None
    recipe = loaded.recipe
    shown = dataset or Path(recipe.evaluation.data or "generated").name
    return StudyRun(arm, shown, seed, loaded, Path(recipe.runs) / recipe.name / slug(shown, "arm") / folder)


@dataclass
class _Runner:
    """Runs a study's runs, sharing what is in memory and on the disk."""

    study: Study
    path: Path
    console: Console
    runs: list[StudyRun]
    prepared: list[StudyRun]
    cache: dict[Any, Any] = field(default_factory=dict)

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
            run_stages(self._prepare(run), until=self.study.prepare.until)
        for run in self.runs:
            if run.seed == self.study.seeds[0]:
                check_recipe(run.loaded.recipe)

    def run_seed(self, seed: int) -> Iterator[tuple[StudyRun, StudyScores]]:
        """The runs of one seed, with what each scored."""
        runs = [run for run in self.runs if run.seed == seed]
        kept = {run: _kept_scores(run) for run in runs}
        available = {run: scores.available for run, scores in kept.items() if scores}
        if len(available) < len(runs):
            # all are mined before any is trained, to know how many rows there are for each
            available = {run: self._mine(run) for run in runs}
        earlier_arm: list[StudyRun] = []
        for arm in self.study.arms:
            of_arm = [run for run in runs if run.arm == arm]
            for run in of_arm:
                least = min(rows for other, rows in available.items() if other.dataset == run.dataset)
                recipe = run.loaded.recipe
                equal = self.study.equal_triplets and not recipe.training.candidates and not recipe.generative
                number = least if equal else available[run]
                scores = kept[run]
                if scores is None or scores.triplets != number:
                    scores = self._train(run, number, available[run])
                yield run, scores
            # an arm that differs in what comes after the training takes the model of the one before it
            self._remove_weights(earlier_arm)
            earlier_arm = of_arm
        self._remove_weights(earlier_arm)

    def _mine(self, run: StudyRun) -> int:
        self._say(f"mining {run.dataset}, seed {run.seed}, {run.arm}")
        prepared, recipe = self._prepare(run), run.loaded.recipe
        until = "pairs" if recipe.generative else "teacher" if recipe.training.candidates else "negatives"
        manifests = run_stages(prepared, until=until)
        if recipe.generative:  # every query is an example, and so are the documents' texts
            rows = manifests[until]["counts"]["train"]
        elif recipe.training.candidates:
            rows = manifests[until]["counts"]["training_lists"]
        else:
            rows = len(triplets_of(recipe, prepared.inputs(), recipe.negatives.per_query, recipe.training.triplets)[0])
        if not rows:
            manifest = run.folder / until / "manifest.json"
            raise InputError(f"{run.arm}, seed {run.seed}: no row to train on is left; see {manifest}")
        return rows

    def _train(self, run: StudyRun, number: int, available: int) -> StudyScores:
        self._say(f"running {run.dataset}, seed {run.seed}, {run.arm}")
        recipe = run.loaded.recipe
        if number < available:
            recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"triplets": number})})
        loaded = LoadedRecipe(run.loaded.path, recipe, run.loaded.resolved_yaml)
        run_recipe(loaded, QUIET, self._prepare(run, recipe))
        return _keep_scores(run, number, available)

    def _prepare(self, run: StudyRun, recipe: Any = None) -> Run:
        siblings = [other.folder for other in (*self.prepared, *self.runs)]
        return prepare_run(recipe or run.loaded.recipe, QUIET, run.folder, siblings, self.cache)

    def _remove_weights(self, runs: Sequence[StudyRun]) -> None:
        for folder in (run.folder / name for run in runs for name in WEIGHTS if not self.study.keep_models):
            shutil.rmtree(folder, ignore_errors=True)

    def _say(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, soft_wrap=True)


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
        money=counts.get("money"),
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
