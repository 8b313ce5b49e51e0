"""The keys of a recipe as Markdown, from the schema: ``python -m sharpen.recipes.keys`` writes them into README.md."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sharpen.evaluation.settings import Settings
from sharpen.recipes.schema.recipe import Recipe

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def keys_markdown() -> str:
    """A section for each part of a recipe, with a table of its keys, their defaults and what they mean."""
    lines: list[str] = []
    seen: set[tuple[str, type]] = set()
    for heading, model in _parts(Recipe, ""):
        if (heading, model) in seen:
            continue
        seen.add((heading, model))
        lines += [f"### {heading or 'The recipe'}", "", "| key | default | |", "| --- | --- | --- |"]
        lines += [
            f"| `{name}` | {_default(field)} | {_meaning(field)} |"
            for name, field in model.model_fields.items()
            if name != "kind"
        ]
        lines.append("")
    return "\n".join(lines)


def update(path: Path = README) -> None:
    """Put the keys between the marks of the file."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{keys_markdown()}\n{END}{after}", encoding="utf-8")


def _parts(model: type[BaseModel], heading: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield heading, model
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            kind = inner.model_fields.get("kind")
            suffix = f" ({get_args(kind.annotation)[0]})" if kind is not None else ""
            yield from _parts(inner, f"{heading}.{name}{suffix}".lstrip("."))


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
