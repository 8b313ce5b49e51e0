"""What a comparison's file says: a recipe, seeds, datasets, and arms with their overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from sharpen.evaluation.files import InputError, slug
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.yaml_files import read_yaml
from sharpen.recipes.load import Override
from sharpen.recipes.yaml_text import with_files_beside

Overrides = tuple[str | dict[str, Any], ...]
"""As on the command line, or parts of a recipe."""


def _as_overrides(value: Any) -> Any:
    """A part of a recipe alone stands for a list with it."""
    return [value] if isinstance(value, Mapping) else value or ()


class Prepared(Settings):
    """A run that comes before the arms, say one that trains the reranker that some of them mine with."""

    overrides: Overrides = ()
    until: str = Field(description="The stage that it ends with.")


class Study(Settings):
    recipe: str = Field(description="The recipe that all arms share.")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (13, 14, 15)
    overrides: Overrides = Field((), description="For all arms, as on the command line.")
    define: dict[str, Any] = Field({}, description="Values with a YAML anchor, which arms refer to by its alias.")
    arms: Annotated[dict[str, Overrides], Field(min_length=1)] = Field(description="Name to overrides.")
    baseline: str | None = Field(
        None, description="The arm that the others are compared with. null: each is compared with the untuned model."
    )
    datasets: dict[str, Overrides] = Field({}, description="Name to overrides; empty: the recipe's own.")
    prepare: Prepared | None = Field(
        None,
        description="A run of each dataset that the arms make use of; {prepared} in an override is its folder.",
    )
    equal_triplets: bool = Field(
        True, description="All arms train on as many rows as the one that has fewest, drawn by query."
    )
    keep_models: bool = Field(False, description="Leave the models in the runs' folders.")
    published: dict[str, float] = Field(
        {}, description="Arm to nDCG@10 on average, as somebody else has found it; shown beside."
    )

    @field_validator("arms", "datasets", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return (
            {name: _as_overrides(overrides) for name, overrides in value.items()} if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _names_fit(self):
        for name in (self.baseline, *self.published):
            if name is not None and name not in self.arms:
                raise ValueError(f"there is no arm {name!r}; there are {', '.join(self.arms)}")
        if len({slug(name, "arm") for name in self.arms}) < len(self.arms):
            raise ValueError(
                "two arms differ in signs only, and would have the same folder; name one of them otherwise"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        return self


def read_study(path: Path) -> Study:
    """Raises ``InputError`` that names the file and the key."""
    if not path.exists():
        raise InputError(f"{path}: no such file; give a comparison, as recipes/studies/small/compare.yaml")
    try:
        return Study.model_validate(with_files_beside(_plain(read_yaml(path)), path.parent))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}") from None


def with_prepared(overrides: Sequence[Override], folder: Path) -> list[Override]:
    """The overrides with the folder of the prepared run in place of ``{prepared}``."""
    return [_replace(override, str(folder.resolve())) for override in overrides]


def study_name(path: Path) -> str:
    """Of the study's runs: that of its file; of several in a folder of their own, that of the folder, too."""
    folder = path.parent.resolve().name
    if path.stem == "compare":
        name = folder
    else:
        name = f"{folder}-{path.stem}" if (path.parent / "compare.yaml").exists() else path.stem
    return slug(name, "arm")


def _replace(value: Any, folder: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(item, folder) for item in value]
    return value.replace("{prepared}", folder) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Without the lines that ruamel keeps, as values merged into a recipe would point at another file's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
