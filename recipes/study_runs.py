"""The runs of a comparison: arms x datasets x seeds, each a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sharpen.evaluation.files import InputError, slug
from sharpen.recipes.load import LoadedRecipe, Override, load_recipe, with_values
from sharpen.recipes.schema.evaluation import AT_HAND, ReservedPart
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
                given = [*with_prepared(overrides, prepared.folder), f"seed={seed}", *more]
                run = _run(study, path, (arm, dataset, seed), given, f"{slug(arm, 'arm')}-{seed}")
                runs.append(replace(run, loaded=_with_reserved(run.loaded, reserved)))
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


def _reserved(runs: Sequence[StudyRun]) -> tuple[ReservedPart, ...]:
    """All that the study compares on, for every run, as no training then depends on what it is compared on."""
    parts = {(part.data, part.split) for run in runs if (part := run.loaded.recipe.evaluation).data}
    return tuple(ReservedPart(data=data, split=split) for data, split in sorted(parts)) if len(parts) > 1 else ()


def _with_reserved(loaded: LoadedRecipe, reserved: Sequence[ReservedPart]) -> LoadedRecipe:
    """With these beside those that the recipe or the arm reserves itself."""
    own = loaded.recipe.evaluation.reserved
    return with_values(loaded, "evaluation", reserved=(*own, *(part for part in reserved if part not in own)))


def _without_unused(loaded: LoadedRecipe) -> LoadedRecipe:
    """Without what a study's table has nothing of, and every arm would take as long for."""
    at_hand = [other.data for other in loaded.recipe.evaluation.others] == [AT_HAND]
    # with generative it has no effect, and is refused
    systems = {} if loaded.recipe.generative else {"systems": False}
    return with_values(loaded, "evaluation", **systems, **({"others": ()} if at_hand else {}))


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
