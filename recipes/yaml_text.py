"""The text of a recipe: YAML, overrides, parts, and ``${ENV}`` references."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sharpen.evaluation.files import InputError

PATH_KEYS = ("pool", "prompt_file", "data", "source", "use", "file", "known", "decisions")
"""Keys whose values name files, or data that may be one's own files."""
NAMES = (*PATH_KEYS, "base", "run")
"""Keys whose values say what a run was made from."""
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Places:
    """Where a key was written: an override, a part, or the recipe itself.

    ``raw``: all of it merged. ``parts``: files with a part of a recipe, and what they have. ``overrides``: those of the
    form key.path=value.
    """

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
            if keys and value_at(raw, keys[:2] if len(keys) > 1 else keys) is not None:
                return line_of(path, raw, keys)
        return line_of(self.path, self.raw, keys)


def apply_override(raw: dict, override: str) -> None:
    """Put the value of ``key.path=value`` into ``raw``. Raises ``InputError`` that names the override."""
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


def merge(raw: dict, part: dict) -> None:
    """Put the keys of ``part`` in the place of those of ``raw``, mapping by mapping."""
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            merge(raw[key], value)
        else:
            raw[key] = value


def with_files_beside(part: Any, folder: Path) -> Any:
    """The part, with what it names and what lies in ``folder`` as absolute paths."""
    if isinstance(part, dict):
        return {
            key: (
                beside(value, folder)
                if key in PATH_KEYS and isinstance(value, str)
                else with_files_beside(value, folder)
            )
            for key, value in part.items()
        }
    return [with_files_beside(item, folder) for item in part] if isinstance(part, list) else part


def beside(name: str, *folders: Path) -> str:
    """``name`` (of a file, or ``file.py:Name``) as an absolute path in the first of the folders that has it, or as it
    is."""
    path, colon, attribute = name.partition(".py:")
    for folder in folders:
        if (place := folder / Path(path + ".py" if colon else name).expanduser()).exists():
            return f"{place.resolve()}:{attribute}" if colon else str(place.resolve())
    return name


def substitute(value: Any, places: Places, keys: tuple = ()) -> Any:
    """``value`` with what ``${NAME}`` and ``${NAME:-default}`` stand for. Raises ``InputError`` for one that is not
    set."""
    if isinstance(value, dict):
        return {k: substitute(v, places, (*keys, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [substitute(v, places, (*keys, i)) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match) -> str:
        value = os.environ.get(match[1], match[2])
        if value is None:
            raise InputError(f"{places.of(keys)}: the environment variable {match[1]} is not set")
        return value

    return _REFERENCE.sub(replace, value)


def restore(resolved: Any, raw: Any) -> Any:
    """Put ``${ENV}`` references back where the recipe had them: what they stand for may be a secret. Data, models and
    runs stay as they are: the run was made from these, whatever the variable says later."""
    if isinstance(resolved, dict) and isinstance(raw, dict):
        return {k: v if k in NAMES and isinstance(v, str) else restore(v, raw.get(k)) for k, v in resolved.items()}
    if isinstance(resolved, list) and isinstance(raw, list):
        return [restore(v, r) for v, r in zip(resolved, raw, strict=False)]
    return str(raw) if isinstance(raw, str) and _REFERENCE.search(raw) else resolved


def names_in(values: Any, keys: tuple = ()) -> Iterator[tuple[tuple, str]]:
    """What a recipe says that a run is made from (data, models, files, runs), with the path of keys to it.

    >>> list(names_in({"corpus": {"source": "docs", "encoding": "utf-8"}}))
    [(('corpus', 'source'), 'docs')]
    """
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        if isinstance(value, str) and key in NAMES:
            yield (*keys, key), value
        else:
            yield from names_in(value, (*keys, key))


def line_of(path: Path, raw: dict, keys: Sequence) -> str:
    """The file, with the line of the last of the keys that is there."""
    line = None
    value: Any = raw
    for key in keys:
        try:
            line = (value.lc.item(key) if isinstance(value, list) else value.lc.key(key))[0] + 1
            value = value[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return f"{path}, line {line}" if line else str(path)


def value_at(raw: Any, keys: Sequence) -> Any:
    """What a path of keys leads to; None where it leads nowhere."""
    for key in keys:
        try:
            raw = raw[key]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def dump_yaml(values: dict) -> str:
    """As YAML, a key a line."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.dump(values, stream)
    return stream.getvalue()
