"""Reading a recipe: YAML with overrides and ``${ENV}`` references, checked against the schema, errors with their line."""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from evaluation.files import InputError
from recipes.schema import Recipe
from sdg.queries import Example

FOLDER = Path(__file__).parent
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, and its text with all defaults filled in and ``${ENV}`` references left as they were written."""

    path: Path
    recipe: Recipe
    resolved_yaml: str


def load_recipe(path_or_name: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file, or one that comes with sharpen by its name, and apply ``key.path=value`` overrides.

    Values of overrides are YAML. Raises ``InputError`` that names file, line and key, and the nearest right key.
    """
    path = find_recipe(path_or_name)
    raw = _parse(path)
    for override in overrides:
        _apply(raw, override)
    values = _substitute(raw, path, raw)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(_explain(path, raw, e, overrides) for e in error.errors())) from None
    recipe = _locate_files(recipe, path.parent, {override.partition("=")[0] for override in overrides})
    return LoadedRecipe(path, recipe, _dump(_restore(recipe.model_dump(mode="json"), raw)))


def find_recipe(path_or_name: str) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    bundled = FOLDER / f"{path_or_name}.yaml"
    if bundled.is_file():
        return bundled
    near = difflib.get_close_matches(path.stem, [p.stem for p in recipe_files()], n=1, cutoff=0.5)
    raise InputError(f"{path_or_name}: no such recipe file" + (f"; did you mean {near[0]}?" if near else "; `sharpen recipes` lists those that there are"))


def recipe_files() -> list[Path]:
    """The recipes that come with sharpen."""
    return sorted(p for p in FOLDER.rglob("*.yaml") if p.parent.name != "pools")


def first_line(path: Path) -> str:
    """What a recipe says it does: the first line of its opening comment."""
    return next((line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")), "")


def read_pool(path: Path) -> list[Example]:
    """Read a few-shot pool: a YAML list of ``{document, query}``. Raises ``InputError`` (file and line)."""
    rows = _yaml(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a list of examples, each with document and query")
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != {"document", "query"} or not all(isinstance(v, str) and v.strip() for v in row.values()):
            raise InputError(f"{path}, line {rows.lc.item(index)[0] + 1}: an example has the keys document and query, both text")
    return [Example(str(row["document"]).strip(), str(row["query"]).strip()) for row in rows]


def _parse(path: Path) -> dict:
    raw = _yaml(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys, starting with name:")
    return raw


def _yaml(path: Path) -> Any:
    try:
        return YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except YAMLError as error:  # control characters
        raise InputError(f"{path}: not valid YAML: {error}") from None


def _apply(raw: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: expected key.path=value, as in training.epochs=2")
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML: {getattr(error, 'problem', error)}") from None
    *parents, last = key.split(".")
    target = raw
    for parent in parents:
        if not isinstance(target.get(parent), dict):
            # `llm: embedded` and the like give way to the mapping that the override asks for
            target[parent] = {}
        target = target[parent]
    target[last] = value


def _substitute(value: Any, path: Path, raw: dict, keys: tuple = ()) -> Any:
    if isinstance(value, dict):
        return {k: _substitute(v, path, raw, (*keys, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, path, raw, (*keys, i)) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise InputError(f"{_place(path, raw, keys)}: the environment variable {match[1]} is not set")
        return found

    return _REFERENCE.sub(replace, value)


def _restore(resolved: Any, raw: Any) -> Any:
    """Put ``${ENV}`` references back where the recipe had them: what they stand for may be a secret."""
    if isinstance(resolved, dict) and isinstance(raw, dict):
        return {k: _restore(v, raw.get(k)) for k, v in resolved.items()}
    if isinstance(resolved, list) and isinstance(raw, list):
        return [_restore(v, r) for v, r in zip(resolved, raw, strict=False)]
    return str(raw) if isinstance(raw, str) and _REFERENCE.search(raw) else resolved


def _locate_files(recipe: Recipe, folder: Path, overridden: set[str]) -> Recipe:
    """Make the paths absolute: what a recipe names lies beside it, or else in the working directory; what an override
    names lies in the working directory. Names of datasets stay as they are."""

    def near(key: str, name: str) -> str:
        given_here = any(key == o or key.startswith(f"{o}.") for o in overridden)
        for place in [Path()] if given_here else [folder, Path()]:
            if (found := place / Path(name).expanduser()).exists():
                return str(found.resolve())
        return name

    data = recipe.evaluation.data
    return recipe.model_copy(update={
        "corpus": recipe.corpus.model_copy(update={"source": near("corpus.source", recipe.corpus.source)}),
        "queries": recipe.queries.model_copy(update={"pool": near("queries.pool", recipe.queries.pool)}),
        "evaluation": recipe.evaluation.model_copy(update={"data": data and near("evaluation.data", data)}),
    })


def _explain(path: Path, raw: dict, error: dict, overrides: Sequence[str]) -> str:
    keys = error["loc"]
    dotted = ".".join(map(str, keys))
    place = _place(path, raw, keys, overrides)
    if error["type"] == "extra_forbidden":
        known = _fields(keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys there are {', '.join(known)}"
        return f"{place}: unknown key {dotted!r}; {hint}"
    if error["type"] == "missing":
        return f"{place}: the key {dotted!r} is missing ({_describe(keys)})"
    message = error["msg"].removeprefix("Value error, ")
    # what the recipe says, not what it was resolved to: that may hold a secret
    written = _at(raw, keys)
    found = "" if written is None or isinstance(written, dict) else f", found {written!r}"
    return f"{place}: {dotted}: {message[0].lower()}{message[1:]}{found}"


def _place(path: Path, raw: dict, keys: Sequence, overrides: Iterable[str] = ()) -> str:
    dotted = ".".join(map(str, keys))
    for override in overrides:
        if dotted and override.partition("=")[0].startswith(dotted):
            return f"override {override!r}"
    line = None
    value: Any = raw
    for key in keys:
        try:
            line = (value.lc.item(key) if isinstance(value, list) else value.lc.key(key))[0] + 1
            value = value[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return f"{path}, line {line}" if line else str(path)


def _at(raw: Any, keys: Sequence) -> Any:
    for key in keys:
        try:
            raw = raw[key]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def _fields(keys: Sequence) -> list[str]:
    model: type[BaseModel] = Recipe
    for key in keys:
        field = model.model_fields.get(key)
        inner = [t for t in ((field.annotation, *get_args(field.annotation)) if field else ()) if isinstance(t, type) and issubclass(t, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _describe(keys: Sequence) -> str:
    model: type[BaseModel] = Recipe
    for key in keys[:-1]:
        model = model.model_fields[key].annotation
    return model.model_fields[keys[-1]].description or "required"


def _dump(values: dict) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.dump(values, stream)
    return stream.getvalue()
