"""Reading a recipe: YAML with overrides and ``${ENV}`` references, checked against the schema, errors with their
line."""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from sharpen.evaluation.files import InputError
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.negatives.llm import Example as NegativesExample
from sharpen.sdg.strategies.base import Example
from sharpen.sdg.strategies.multi_hop import Shown, read_example

FOLDER = Path(__file__).parent
PARTS = ("strategies", "negatives", "encoders", "training")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, and its text with all defaults filled in and ``${ENV}`` references left as they were
    written."""

    path: Path
    recipe: Recipe
    resolved_yaml: str


def load_recipe(path_or_name: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file, or one that comes with sharpen by its name, and apply overrides, from left to right.

    An override is ``key.path=value``, with a value in YAML, or a file (or the name of one that comes with sharpen) with
    a part of a recipe, whose keys take the place of the recipe's. Raises ``InputError`` that names file, line and key,
    and the nearest right key.
    """
    path = find_recipe(path_or_name)
    raw = _parse(path)
    parts = []
    for override in overrides:
        if "=" in override:
            _apply(raw, override)
        else:
            part = _find_part(override)
            parts.append((part, _parse(part)))
            _merge(raw, _beside(parts[-1][1], part.parent))
    overrides = [override for override in overrides if "=" in override]
    places = _Places(path, raw, parts, overrides)
    values = _substitute(raw, places)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        # of a list whose only item is wrong pydantic says, too, that it is empty
        found = [
            e
            for e in error.errors()
            if e["type"] != "too_short"
            or not any(o["loc"][: len(e["loc"])] == e["loc"] != o["loc"] for o in error.errors())
        ]
        raise InputError("\n".join(_explain(places, e) for e in found)) from None
    recipe = _locate_files(recipe, path.parent, {override.partition("=")[0] for override in overrides})
    return LoadedRecipe(path, recipe, _dump(_restore(recipe.model_dump(mode="json"), raw)))


@dataclass(frozen=True)
class _Places:
    """Where a key was written: an override, a part, or the recipe itself, which has it all merged."""

    path: Path
    raw: dict
    parts: Sequence[tuple[Path, dict]]
    overrides: Sequence[str]

    def of(self, keys: Sequence) -> str:
        dotted = ".".join(map(str, keys))
        for override in reversed(self.overrides):
            key = override.partition("=")[0]
            if dotted and (key.startswith(dotted) or dotted.startswith(f"{key}.")):
                return f"override {override!r}"
        for path, raw in reversed(self.parts):
            if keys and _at(raw, keys[:2] if len(keys) > 1 else keys) is not None:
                return _line(path, raw, keys)
        return _line(self.path, self.raw, keys)


def find_recipe(path_or_name: str) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    bundled = FOLDER / f"{path_or_name}.yaml"
    if bundled.is_file():
        return bundled
    near = difflib.get_close_matches(path.stem, [p.stem for p in recipe_files()], n=1, cutoff=0.5)
    raise InputError(
        f"{path_or_name}: no such recipe file"
        + (f"; did you mean {near[0]}?" if near else "; `sharpen recipes` lists those that there are")
    )


def _find_part(name: str) -> Path:
    for path in (Path(name), FOLDER / f"{name}.yaml"):
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
        if p.parent.name not in ("pools", *PARTS) and p.name != "expected.yaml" and p not in comparison_files()
    )


def comparison_files() -> list[Path]:
    """The comparisons that come with sharpen, for `sharpen compare`."""
    return sorted([*(FOLDER / "studies").glob("*.yaml"), *FOLDER.glob("study_*/c*.yaml")])


def part_files() -> list[Path]:
    """The parts of recipes that come with sharpen, to be added to one on the command line: query strategies, encoders,
    trainings."""
    return [path for folder in PARTS for path in sorted((FOLDER / folder).glob("*.yaml"))]


def first_line(path: Path) -> str:
    """What a recipe says it does: the first line of its opening comment."""
    return next(
        (line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")),
        "",
    )


def read_pool(path: Path, multi_hop: bool = False) -> list[Example] | list[Shown]:
    """Read a few-shot pool: a YAML list of ``{document, query}``, or ``{document, queries, answers}`` where several are
    asked for at once; for ``multi_hop`` questions of ``{segments, artifacts, pairs}``. Raises ``InputError`` (file and
    line)."""
    rows = _yaml(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f"{path}: expected a list of examples, each with"
            f" {'segments, artifacts and pairs' if multi_hop else 'document and query'}"
        )
    read = _multi_hop_example if multi_hop else _example
    return [read(row, f"{path}, line {rows.lc.item(index)[0] + 1}") for index, row in enumerate(rows)]


def read_negatives_pool(path: Path) -> list[NegativesExample]:
    """Read a pool of ``{query, document, negatives}``. Raises ``InputError`` (file and line)."""
    rows = _yaml(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a list of examples, each with query, document and negatives")
    examples = []
    for index, row in enumerate(rows):
        texts = [row.get("query"), row.get("document"), *(row.get("negatives") or ())] if isinstance(row, dict) else []
        if (
            not isinstance(row, dict)
            or set(row) != {"query", "document", "negatives"}
            or not row["negatives"]
            or not all(isinstance(t, str) and t.strip() for t in texts)
        ):
            raise InputError(
                f"{path}, line {rows.lc.item(index)[0] + 1}: an example has the keys query, document (which answers it)"
                " and negatives (a list of texts that do not)"
            )
        examples.append(
            NegativesExample(*(" ".join(t.split()) for t in texts[:2]), tuple(" ".join(t.split()) for t in texts[2:]))
        )
    return examples


def _multi_hop_example(row: Any, place: str) -> Shown:
    try:
        return read_example(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, first['loc'])) or 'an example'}: {first['msg']}") from None
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None


def _example(row: Any, place: str) -> Example:
    if (
        not isinstance(row, dict)
        or len({"query", "queries"} & set(row)) != 1
        or not {"document"} <= set(row) <= {"document", "query", "queries", "answer", "answers"}
    ):
        raise InputError(
            f"{place}: an example has the keys document and query (or queries), and where answers are asked for answer"
            " (or answers)"
        )
    lists = {key: value if isinstance(value, list) else [value] for key, value in row.items()}
    queries, answers = lists.get("queries", lists.get("query")), lists.get("answers", lists.get("answer", []))
    if not queries or not all(
        isinstance(text, str) and text.strip() for text in [*lists["document"], *queries, *answers]
    ):
        raise InputError(f"{place}: document, queries and answers are text")
    if answers and len(answers) != len(queries):
        raise InputError(
            f"{place}: {len(queries)} queries with {len(answers)} answers; one answer for each is expected"
        )
    strip = lambda texts: tuple(str(text).strip() for text in texts)  # noqa: E731
    return Example(str(row["document"]).strip(), strip(queries), strip(answers))


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
    key, _, text = override.partition("=")
    if not key:
        raise InputError(f"override {override!r}: expected key.path=value, as in training.epochs=2")
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise InputError(
            f"override {override!r}: the value is not valid YAML: {getattr(error, 'problem', error)}"
        ) from None
    *parents, last = key.split(".")
    target = raw
    for n, parent in enumerate(parents):
        if isinstance(target, list):
            target = target[_place(target, parent, override)]
            if not isinstance(target, dict | list):
                raise InputError(f"override {override!r}: {parent} is no place with keys below it")
            continue
        following = [*parents, last][n + 1]
        if not isinstance(target.get(parent), list if following.isdigit() else dict):
            # `llm: embedded` and the like give way to the mapping that the override asks for
            target[parent] = {}
        target = target[parent]
    target[_place(target, last, override) if isinstance(target, list) else last] = value


def _place(items: list, key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise InputError(f"override {override!r}: {key} is no place in a list of {len(items)}, counted from 0")
    return int(key)


def _merge(raw: dict, part: dict) -> None:
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            _merge(raw[key], value)
        else:
            raw[key] = value


def _beside(part: Any, folder: Path) -> Any:
    """The part, with the pools that lie beside it as absolute paths."""
    if isinstance(part, dict):
        return {
            key: (
                str((folder / value).resolve())
                if key == "pool" and isinstance(value, str) and (folder / value).exists()
                else _beside(value, folder)
            )
            for key, value in part.items()
        }
    return [_beside(item, folder) for item in part] if isinstance(part, list) else part


def _substitute(value: Any, places: _Places, keys: tuple = ()) -> Any:
    if isinstance(value, dict):
        return {k: _substitute(v, places, (*keys, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, places, (*keys, i)) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise InputError(f"{places.of(keys)}: the environment variable {match[1]} is not set")
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

    data, labelled, chosen_by = recipe.evaluation.data, recipe.labelled, recipe.training.validation
    if chosen_by and chosen_by.data:
        chosen_by = chosen_by.model_copy(update={"data": near("training.validation", chosen_by.data)})
    return recipe.model_copy(
        update={
            "corpus": recipe.corpus.model_copy(update={"source": near("corpus.source", recipe.corpus.source)}),
            "queries": recipe.queries.model_copy(
                update={
                    "pool": recipe.queries.pool and near("queries.pool", recipe.queries.pool),
                    "strategies": tuple(
                        s.model_copy(update={"pool": s.pool and near("queries.strategies", s.pool)})
                        for s in recipe.queries.strategies
                    ),
                }
            ),
            "negatives": recipe.negatives.model_copy(
                update={
                    "miners": tuple(
                        (
                            m.model_copy(update={"pool": near("negatives.miners", m.pool)})
                            if m.kind == "llm" and m.pool
                            else m
                        )
                        for m in recipe.negatives.miners
                    ),
                }
            ),
            "training": recipe.training.model_copy(update={"validation": chosen_by}),
            "labelled": labelled and labelled.model_copy(update={"data": near("labelled.data", labelled.data)}),
            "evaluation": recipe.evaluation.model_copy(
                update={
                    "data": data and near("evaluation.data", data),
                    "others": tuple(
                        other.model_copy(update={"data": near("evaluation.others", other.data)})
                        for other in recipe.evaluation.others
                    ),
                }
            ),
        }
    )


def _explain(places: _Places, error: dict) -> str:
    # a part that is of several kinds has its kind in the path of an error, as a step of its own
    keys = tuple(key for n, key in enumerate(error["loc"]) if _kind(places.raw, error["loc"][:n]) != key)
    dotted = ".".join(map(str, keys))
    place = places.of(keys)
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        kinds = re.findall(r"'(\w+)'", error["ctx"].get("expected_tags", "")) or list(_kinds(keys))
        said = error["ctx"].get("tag", "")
        near = difflib.get_close_matches(said, kinds, n=1)
        return (
            f"{places.of((*keys, 'kind'))}: {dotted}.kind: "
            + (f"no kind {said!r}; " if said else "missing; ")
            + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}")
        )
    if error["type"] == "extra_forbidden":
        known = _fields(places.raw, keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys there are {', '.join(known)}"
        return f"{place}: unknown key {dotted!r}; {hint}"
    if error["type"] == "missing":
        return f"{place}: the key {dotted!r} is missing ({_describe(places.raw, keys)})"
    message = error["msg"].removeprefix("Value error, ")
    # what the recipe says, not what it was resolved to: that may hold a secret
    written = _at(places.raw, keys)
    found = "" if written is None or isinstance(written, dict) else f", found {written!r}"
    said = message[0].lower() + message[1:]
    if error["type"] == "literal_error" and isinstance(written, str):
        values = re.findall(r"'([^']+)'", error["ctx"]["expected"])
        found += f"; did you mean {near[0]!r}?" if (near := difflib.get_close_matches(written, values, n=1)) else ""
    return f"{place}: {dotted}: {said}{found}" if dotted else f"{place}: {said}"


def _line(path: Path, raw: dict, keys: Sequence) -> str:
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


def _fields(raw: Any, keys: Sequence) -> list[str]:
    return list(_model_at(raw, keys).model_fields)


def _model_at(raw: Any, keys: Sequence) -> type[BaseModel]:
    """The part of the schema that a path of keys leads to, where there are several kinds the one that ``raw`` says; an
    empty one where it leads nowhere."""
    model: type[BaseModel] = Recipe
    for n, key in enumerate(keys):
        if isinstance(key, int):  # in a list, whose items are of the model found for it
            model = _kinds(keys[: n + 1]).get(_kind(raw, keys[: n + 1]), model)
            continue
        field = model.model_fields.get(key)
        model = next(iter(_parts(field.annotation if field else None)), BaseModel)
    return model


def _kinds(keys: Sequence) -> dict[str, type[BaseModel]]:
    """Of a list whose items are of several kinds, the schema of each."""
    *parents, name = [key for key in keys if isinstance(key, str)]
    model: type[BaseModel] = Recipe
    for key in parents:
        model = next(iter(_parts(model.model_fields[key].annotation if key in model.model_fields else None)), BaseModel)
    field = model.model_fields.get(name)
    parts = _parts(field.annotation if field else None)
    return (
        {get_args(part.model_fields["kind"].annotation)[0]: part for part in parts}
        if len(parts) > 1 and all("kind" in part.model_fields for part in parts)
        else {}
    )


def _kind(raw: Any, keys: Sequence) -> Any:
    found = _at(raw, keys)
    return found.get("kind") if keys and isinstance(keys[-1], int) and isinstance(found, dict) else None


def _parts(annotation: Any) -> list[type[BaseModel]]:
    return [t for t in _types(annotation) if isinstance(t, type) and issubclass(t, BaseModel)]


def _types(annotation: Any) -> list[Any]:
    return [annotation, *(inner for argument in get_args(annotation) for inner in _types(argument))]


def _describe(raw: Any, keys: Sequence) -> str:
    field = _model_at(raw, keys[:-1]).model_fields.get(keys[-1])
    return (field and field.description) or "required"


def _dump(values: dict) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.dump(values, stream)
    return stream.getvalue()
