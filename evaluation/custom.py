"""A user's own miner, filter or strategy, from a file beside the recipe or an installed package."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.settings import Marker, Settings


def load_custom(name: str) -> Any:
    """What ``path/to/file.py:Name`` or ``package.module:Name`` stands for.

    Raises ``InputError`` if the file, the module or the name is not there, or if it cannot be imported.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise InputError(f"{name}: expected path/to/file.py:Name or package.module:Name")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:  # whatever a user's file raises when it is imported
        raise InputError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise InputError(f"{name}: {place} has no {attribute}")
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    module_name = f"sharpen_custom_{path.stem}_{sha256_file(path)[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and pickling look a class's module up here
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def _digest(name: str) -> str:
    """The name, and the sum of the file that it is in."""
    source = _source_of(name)
    if source is None:
        raise InputError(f"{name}: it has no source file, by which a change would be seen; wrap it in a function")
    return f"{name.rpartition(':')[2]}@{sha256_file(source)}"


def _source_of(name: str) -> Path | None:
    """The file with its class or function; of anything else, as a ``functools.partial``, that of the module."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(load_custom(name)))
    except TypeError:
        file = None
    place, _, _ = name.rpartition(":")
    file = file or (place if place.endswith(".py") else getattr(importlib.import_module(place), "__file__", None))
    return Path(file) if file else None


CustomName = Annotated[str, Marker(_digest, load_custom)]
"""``path/to/file.py:Name`` or ``package.module:Name``."""


class Custom(Settings):
    """``kind: custom``: what ``use`` names is called with ``options`` and gives the miner, filter or strategy.

    The sum of its source file is in the fingerprint, so what was made by it is made anew when the file changes.

    >>> Custom(use="collections:Counter", options={"a": 2}).make()
    Counter({'a': 2})
    """

    kind: Literal["custom"] = "custom"
    use: CustomName = Field(description="path/to/file.py:Name, beside the recipe, or package.module:Name.")
    options: dict[str, Any] = Field({}, description="Arguments that it is called with.")

    def check(self) -> None:
        """Raise ``InputError`` as ``make`` does, before anything is computed or paid for."""
        super().check()
        self.make()

    def make(self) -> Any:
        """Raises ``InputError`` if it cannot be imported or does not take the options."""
        factory = load_custom(self.use)
        try:
            return factory(**self.options)
        except TypeError as error:
            raise InputError(f"{self.use}: {error}; the options are {self.options}") from error
