"""The runs of a comparison: arms x datasets x seeds, each a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sharpen.evaluation.files import InputError, slug
from sharpen.recipes.load import LoadedRecipe, Override, load_recipe
from sharpen.recipes.schema.evaluation import AT_HAND
from sharpen.recipes.stages import stages_of
from sharpen.recipes.study_file import Study, study_name, with_prepared


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


def runs_of(study: Study, path: Path, more: Sequence[str] = ()) -> list[StudyRun]:
    """Every run, dataset by dataset and seed by seed. Raises ``InputError`` that names the arm."""
    runs = []
    before = prepared_runs(study, path, more)
    reserved = _reserved(before)
    for dataset, prepared in zip(study.datasets or {"": ()}, before, strict=True):
        for seed in study.seeds:
            for arm, overrides in study.arms.items():
                given = [*with_prepared(overrides, prepared.folder), f"seed={seed}", *reserved]
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


def _reserved(runs: Sequence[StudyRun]) -> list[str]:
    """All that the study compares on, for every run, as no training then depends on what it is compared on."""
    parts = {(part.data, part.split) for run in runs if (part := run.loaded.recipe.evaluation).data}
    rows = [{"data": data, "split": split} for data, split in sorted(parts)]
    return [f"evaluation.reserved={json.dumps(rows)}"] if len(rows) > 1 else []


def _without_unused(loaded: LoadedRecipe) -> LoadedRecipe:
    """Without what a study's table has nothing of, and every arm would take as long for."""
    part = loaded.recipe.evaluation
    others = () if [other.data for other in part.others] == [AT_HAND] else part.others
    # with generative it has no effect, and is refused
    systems = {} if loaded.recipe.generative else {"systems": False}
    part = part.model_copy(update=systems | {"others": others})
    written = loaded.values["evaluation"] | systems
    if not others:
        written["others"] = []
    recipe = loaded.recipe.model_copy(update={"evaluation": part})
    return replace(loaded, recipe=recipe, values={**loaded.values, "evaluation": written})


def _run(study: Study, path: Path, place: tuple[str, str, int], overrides: Sequence[Override], folder: str) -> StudyRun:
    arm, dataset, seed = place
    near = path.parent / study.recipe
    file = str(near) if near.is_file() else study.recipe
    all_overrides = [*study.overrides, *study.datasets.get(dataset, ()), *overrides, f"name={study_name(path)}"]
    try:
        loaded = _without_unused(load_recipe(file, all_overrides))
    except InputError as error:
        raise InputError(f"{path}: {arm}{f', {dataset}' if dataset else ''}: {error}") from None
    recipe = loaded.recipe
    shown = dataset or Path(recipe.evaluation.data or "generated").name
    return StudyRun(arm, shown, seed, loaded, Path(recipe.runs) / recipe.name / slug(shown, "arm") / folder)
