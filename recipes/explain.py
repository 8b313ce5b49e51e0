"""What is wrong with a recipe, in a sentence with the place and the nearest right key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel

from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.yaml_text import Places, value_at

RENAMED = {
    "base_share": ("base_weight",),
    "first_stage_share": ("first_stage_weight",),
    "max_share": ("max_fraction",),
    "at_most": ("max_queries",),
    "share": ("weight", "fraction"),
}
"""Keys that had another name before 0.2."""


def explain(places: Places, error: dict) -> str:
    """One of pydantic's errors, with the file and line, override or part that it is about."""
    keys = _keys(error["loc"])
    dotted, place = ".".join(map(str, keys)), places.of(keys)
    match error["type"]:
        case "union_tag_not_found" | "union_tag_invalid":
            return f"{places.of((*keys, 'kind'))}: {dotted}.kind: {_no_such_kind(error, keys)}"
        case "extra_forbidden":
            return f"{place}: unknown key {dotted!r}; {_nearest_key(places.raw, keys)}"
        case "missing":
            return f"{place}: the key {dotted!r} is missing ({_describe(places.raw, keys)})"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    # what the recipe says, not what it was resolved to: that may hold a secret
    written = value_at(places.raw, keys)
    if written is not None and not isinstance(written, dict):
        message += f", found {written!r}"
    if error["type"] == "string_type" and (quoted := _quoted(places, dotted, written)):
        message += f"; {quoted}"
    if error["type"] == "literal_error" and isinstance(written, str):
        values = re.findall(r"'([^']+)'", error["ctx"]["expected"])
        if near := difflib.get_close_matches(written, values, n=1):
            message += f"; did you mean {near[0]!r}?"
    return f"{place}: {dotted}: {message}" if dotted else f"{place}: {message}"


def _quoted(places: Places, dotted: str, written: Any) -> str:
    """How to write what YAML takes for a number, a date, a truth value or a mapping, where a text is asked for."""
    override = next((o for o in reversed(places.overrides) if o.partition("=")[0] == dotted), None)
    if override:
        text = override.partition("=")[2]
    elif isinstance(written, dict) and len(written) == 1 and None in written.values():  # `key: query: `
        text = f"{next(iter(written))}: "
    elif isinstance(written, int | float | date):  # a truth value is an int
        text = str(written).lower() if isinstance(written, bool) else str(written)
    else:
        return ""
    quoted = json.dumps(text, ensure_ascii=False)
    return f"quote it, as '{dotted}={quoted}'" if override else f"quote it, as {dotted.rpartition('.')[2]}: {quoted}"


def _no_such_kind(error: dict, keys: Sequence) -> str:
    kinds = re.findall(r"'(\w+)'", error["ctx"].get("expected_tags", "")) or list(_kinds(keys))
    written = error["ctx"].get("tag", "")
    near = difflib.get_close_matches(written, kinds, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}"
    return f"no kind {written!r}; {hint}" if written else f"missing; {hint}"


def _keys(loc: Sequence) -> tuple:
    """The path of keys to an error: a part that is of several kinds has its kind there as a step of its own."""
    return tuple(key for n, key in enumerate(loc) if not (n and isinstance(loc[n - 1], int) and key in _kinds(loc[:n])))


def _nearest_key(raw: dict, keys: Sequence) -> str:
    *parents, key = keys
    known = _fields(raw, parents)
    for name in RENAMED.get(key, ()):
        if name in known:
            return f"it is called {name} now"
    kinds = _kinds(parents) if parents and isinstance(parents[-1], int) else {}
    if owners := [kind for kind, model in kinds.items() if key in model.model_fields]:
        return f"that belongs to {' and '.join(owners)}"
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"the keys there are {', '.join(known)}"


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
    value = value_at(raw, keys)
    return value.get("kind") if keys and isinstance(keys[-1], int) and isinstance(value, dict) else None


def _parts(annotation: Any) -> list[type[BaseModel]]:
    return [t for t in _types(annotation) if isinstance(t, type) and issubclass(t, BaseModel)]


def _types(annotation: Any) -> list[Any]:
    return [annotation, *(inner for argument in get_args(annotation) for inner in _types(argument))]


def _describe(raw: Any, keys: Sequence) -> str:
    field = _model_at(raw, keys[:-1]).model_fields.get(keys[-1])
    return (field and field.description) or "required"
