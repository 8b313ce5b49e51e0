"""Reading a recipe: YAML with overrides and ``${ENV}`` references, checked against the schema, errors with their
line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.yaml_files import read_yaml
from sharpen.recipes.explain import explain
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.yaml_text import (
    PATH_KEYS,
    Places,
    apply_override,
    beside,
    dump_yaml,
    merge,
    restore,
    substitute,
    with_files_beside,
)
from sharpen.sdg.llm.settings import JOURNAL

FOLDER = Path(__file__).parent
RUN_DEPTH = 3
"""Levels below the folder of runs at which a run lies at most: study, dataset, arm."""
PARTS = ("strategies", "negatives", "encoders", "training", "engines")

Override = str | Mapping[str, Any]
"""``key.path=value``, the name of a file with a part of a recipe, or such a part."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, and its text with all defaults filled in and ``${ENV}`` references left as they were written,
    but for names of data, models and runs."""

    path: Path
    recipe: Recipe
    values: Mapping[str, Any]

    @cached_property
    def resolved_yaml(self) -> str:
        """Written when it is asked for, as that takes longer than all else."""
        return dump_yaml(self.values)


def load_recipe(path_or_name: str, overrides: Sequence[Override] = ()) -> LoadedRecipe:
    """Read a recipe file, one that comes with sharpen by its name, or that of a run by its folder, and apply overrides,
    from left to right. A run goes on in its folder, wherever that was carried.

    An override is ``key.path=value``, with a value in YAML, or a file (or the name of one that comes with sharpen) with
    a part of a recipe, or such a part itself, whose keys take the place of the recipe's. Raises ``InputError`` that
    names file, line and key, and the nearest right key.
    """
    path = find_recipe(path_or_name)
    raw = _parse(path)
    if path.parent == (run := Path(path_or_name)):  # and not a folder that is called like a recipe
        run = run if run.name else run.resolve()
        journal = _journal_of(run, raw)
        raw |= {"runs": str(run.parent), "name": run.name, "journal": str(journal) if journal else None}
    parts = []
    for override in overrides:
        if isinstance(override, Mapping):
            merge(raw, override)
        elif "=" in override:
            apply_override(raw, override)
        else:
            part = _find_part(override)
            parts.append((part, _parse(part)))
            merge(raw, with_files_beside(parts[-1][1], part.parent))
    assignments = [o for o in overrides if isinstance(o, str) and "=" in o]
    places = Places(path, raw, parts, assignments)
    values = substitute(raw, places)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(explain(places, e) for e in _telling(error))) from None
    recipe = _locate_files(recipe, path.parent, {assignment.partition("=")[0] for assignment in assignments})
    return LoadedRecipe(path, recipe, restore(recipe.model_dump(mode="json"), raw))


def _journal_of(run: Path, raw: Mapping[str, Any]) -> Path | None:
    """Of a run's folder, wherever that was carried or linked: where the answers are that it has paid for. None where
    they lie beside it, or nowhere."""
    if (said := raw.get("journal")) and Path(str(said)).is_file():
        return Path(str(said))
    if (run.parent / JOURNAL).exists():
        return None
    folders = (Path(str(raw.get("runs") or "runs")), *run.resolve().parents[:RUN_DEPTH])
    return next((file.resolve() for folder in folders if (file := folder / JOURNAL).is_file()), None)


def with_values(loaded: LoadedRecipe, part: str, **values: Any) -> LoadedRecipe:
    """With these settings in one of the recipe's parts, and in its text."""
    settings = getattr(loaded.recipe, part).model_copy(update=values)
    changed = settings.model_dump(mode="json", include=set(values))
    texts = {**loaded.values, part: {**loaded.values[part], **changed}}
    return replace(loaded, recipe=loaded.recipe.model_copy(update={part: settings}), values=texts)


def _telling(error: ValidationError) -> list[dict]:
    """pydantic's errors without those that follow from others: of a list whose only item is wrong it says, too, that it
    is empty."""
    errors = error.errors()
    return [
        e
        for e in errors
        if e["type"] != "too_short" or not any(o["loc"][: len(e["loc"])] == e["loc"] != o["loc"] for o in errors)
    ]


def find_recipe(path_or_name: str) -> Path:
    path = Path(path_or_name)
    for file in (path, path / "recipe.yaml"):
        if file.is_file():
            return file
    bundled = FOLDER / f"{path_or_name}.yaml"
    if bundled.is_file():
        return bundled
    near = difflib.get_close_matches(path.stem, [p.stem for p in recipe_files()], n=1, cutoff=0.5)
    raise InputError(
        f"{path_or_name}: no such recipe file"
        + (f"; did you mean {near[0]}?" if near else "; `sharpen recipes` lists those that there are")
    )


def _find_part(name: str) -> Path:
    for path in (Path(name), FOLDER / "parts" / f"{name}.yaml"):
        if path.is_file():
            return path
    raise InputError(
        f"override {name!r}: expected key.path=value, as in training.epochs=2, or a file with a part of a recipe"
    )


def recipe_files() -> list[Path]:
    """The recipes that come with sharpen."""
    return sorted(
        p
        for p in FOLDER.rglob("*.yaml")
        if p.parent.name not in ("pools", "accelerate")
        and not p.is_relative_to(FOLDER / "parts")
        and p.name != "expected.yaml"
        and p not in comparison_files()
    )


def comparison_files() -> list[Path]:
    """The comparisons that come with sharpen, for `sharpen compare`."""
    return sorted(p for p in (FOLDER / "studies").rglob("*.yaml") if p.name != "recipe.yaml")


def part_files() -> list[Path]:
    """The parts of recipes that come with sharpen, to be added to one on the command line: query strategies, encoders,
    trainings."""
    return [path for folder in PARTS for path in sorted((FOLDER / "parts" / folder).glob("*.yaml"))]


def first_line(path: Path) -> str:
    """What a recipe says it does: the first line of its opening comment."""
    return next(
        (line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")),
        "",
    )


def _parse(path: Path) -> dict:
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys, starting with name:")
    return raw


def _locate_files(settings: Any, folder: Path, overridden: set[str], key: str = "") -> Any:
    """Make paths absolute: what a recipe names lies beside it, or else in the working directory; what an override names
    lies in the working directory. Names of datasets and packages stay as they are."""
    if isinstance(settings, tuple):
        return tuple(_locate_files(item, folder, overridden, f"{key}.{n}") for n, item in enumerate(settings))
    if not isinstance(settings, Settings):
        return settings
    update = {}
    for name in type(settings).model_fields:
        value, dotted = getattr(settings, name), f"{key}.{name}".lstrip(".")
        if name in PATH_KEYS and isinstance(value, str):
            is_override = any(dotted == o or dotted.startswith(f"{o}.") for o in overridden)
            update[name] = beside(value, *([Path()] if is_override else [folder, Path()]))
        else:
            update[name] = _locate_files(value, folder, overridden, dotted)
    return settings.model_copy(update=update)
