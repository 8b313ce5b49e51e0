"""The keys of a recipe as Markdown, from the schema: ``python -m sharpen.recipes.keys`` writes them into README.md."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sharpen.evaluation.settings import Settings
from sharpen.recipes.schema.recipe import Recipe

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


@dataclass(frozen=True)
class _Section:
    """A part of a recipe: the path of keys to it, and its keys. ``same_as``: the path where the same keys stand.
    ``lacks``: those of the keys of all kinds that this one has not."""

    path: str
    fields: dict[str, FieldInfo]
    same_as: str = ""
    lacks: Sequence[str] = ()


def keys_markdown() -> str:
    """A section for each part of a recipe, with a table of its keys, their defaults and what they mean."""
    lines: list[str] = []
    for section in _sections(Recipe, "", {}):
        lines += [f"### {section.path or 'recipe'}", ""]
        if section.lacks:
            lines += [f"Without {', '.join(f'`{key}`' for key in section.lacks)}.", ""]
        if section.same_as:
            lines += [f"As `{section.same_as}`.", ""]
        elif not section.fields:
            lines += ["No keys of its own.", ""]
        else:
            lines += ["| key | default | |", "| --- | --- | --- |"]
            lines += [f"| `{name}` | {_default(field)} | {_meaning(field)} |" for name, field in section.fields.items()]
            lines.append("")
    return "\n".join(lines)


def update(path: Path = README) -> None:
    """Put the keys between the marks of the file."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{keys_markdown()}\n{END}{after}", encoding="utf-8")


def _sections(model: type[BaseModel], path: str, seen: dict[type, str]) -> Iterator[_Section]:
    if model in seen:
        yield _Section(path, {}, seen[model])
        return
    seen[model] = path
    yield _Section(path, _fields([model]))
    yield from _inner_sections([model], path, seen)


def _inner_sections(models: list[type[BaseModel]], path: str, seen: dict[type, str]) -> Iterator[_Section]:
    """Of the parts within: of several kinds, first what all have, then each one's own."""
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    for name, field in fields.items():
        inner = _models(field.annotation)
        place = f"{path}.{name}".lstrip(".")
        if len(inner) <= 1:
            for model in inner:
                yield from _sections(model, place, seen)
            continue
        shared = _fields(inner)
        yield _Section(f"{place}[]", shared)
        for model in inner:
            (kind,) = get_args(model.model_fields["kind"].annotation)
            own = _fields([model])
            specific = {key: value for key, value in own.items() if not _is_same(value, shared.get(key))}
            lacks = [key for key in shared if key not in own]
            yield _Section(f"{place}[] of kind {kind}", specific, lacks=lacks)
        yield from _inner_sections(inner, f"{place}[]", seen)


def _fields(models: list[type[BaseModel]]) -> dict[str, FieldInfo]:
    """The keys that the models have in common, but for the kind that tells them apart. Of many, a quarter may lack
    them, as a user's own does."""
    needed = len(models) - (max(1, len(models) // 4) if len(models) > 2 else 0)
    fields: dict[str, FieldInfo] = {}
    for model in models:
        for name, field in model.model_fields.items():
            fields.setdefault(name, field)  # what a key means is said by the first
    if "kind" in fields and len(get_args(fields["kind"].annotation)) == 1:
        del fields["kind"]  # it names the part, and is in the heading
    return {name: field for name, field in fields.items() if sum(name in m.model_fields for m in models) >= needed}


def _is_same(field: FieldInfo, other: FieldInfo | None) -> bool:
    return other is not None and (field.description, field.default) == (other.description, other.default)


def _models(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()
    if _models(field.annotation):
        return "" if value is not None and value != () else _code(value)
    return _code(value)


def _code(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = json.dumps(value, default=str, ensure_ascii=False)
    return f"`{text}`"


def _meaning(field: Any) -> str:
    choices = _choices(field.annotation)
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return " ".join(part for part in (f"{', '.join(f'`{c}`' for c in choices)}." if choices else "", meaning) if part)


def _choices(annotation: Any) -> list[str]:
    origin = get_origin(annotation)
    if origin is Literal:
        return [str(value) for value in get_args(annotation)]
    if origin in (Union, types.UnionType, Annotated, tuple):
        return [choice for argument in get_args(annotation) for choice in _choices(argument)]
    return []


if __name__ == "__main__":
    update()
