"""Settings: what a person may choose. One class is both a part of a recipe and the argument of the library that uses
it.

Every field says by its marker what stands for it in a fingerprint: its value (no marker), the content of the model or
the file that it names (``ENCODER``, ``FILE``), or nothing, where it does not change the result (``UNHASHED``). The same
markers find what is missing before anything is computed or paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

from sharpen.evaluation.contents import content
from sharpen.evaluation.files import InputError, sha256_file

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LanguageCode = Annotated[str, Field(pattern="^[a-z]{2,3}$")]
"""ISO 639-1, as ``de``."""


@dataclass(frozen=True)
class Marker:
    """What a field's value stands for. ``digest`` gives what a fingerprint has in its place (None: it is left out);
    ``check`` raises ``InputError`` if what it names is not there. ``of_machine``: it stands for what this
    machine is like."""

    digest: Callable[[Any], Any] | None
    check: Callable[[Any], None] = lambda _value: None
    of_machine: bool = False


def _model_digest(name: str) -> str:
    from sharpen.evaluation.encoders.load import model_digest  # loads torch, which reading a recipe does without

    return model_digest(name)


def _causal_lm_digest(name: str) -> str:
    from sharpen.evaluation.generative.model import causal_lm_digest  # loads torch

    return causal_lm_digest(name)


def _check_causal_lm(name: str) -> None:
    from sharpen.evaluation.generative.model import check_causal_lm

    check_causal_lm(name)


def _check_by(kind: str) -> Callable[[str], None]:
    """``check_<kind>`` of ``encoders.checks``, imported when it is called."""

    def check(name: str) -> None:
        from sharpen.evaluation.encoders import checks

        getattr(checks, f"check_{kind}")(name)

    return check


def _check_file(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")


UNHASHED = Marker(None)
"""A field that does not change the result: an address, a time-out, how often something is saved."""
ENCODER = Marker(_model_digest, _check_by("encoder"))
"""The name of a dense encoder: a folder, a hub name or ``packaged:<name>``. It is loaded, and tried, in the check."""
BASE_ENCODER = Marker(_model_digest, _check_by("base"))
"""Of one that is to be trained."""
CROSS_ENCODER = Marker(_model_digest, _check_by("cross_encoder"))
"""Of a reranker, or a committee's folder."""
RERANKER_BASE = Marker(_model_digest, _check_by("reranker_base"))
"""Of what a reranker is trained from."""
CAUSAL_LM = Marker(_causal_lm_digest, _check_causal_lm)
"""Of a language model that a generative retriever is trained from."""
FILE = Marker(lambda path: sha256_file(Path(path)), _check_file)
"""The path of a file."""

EncoderName = Annotated[str, ENCODER]
BaseName = Annotated[str, BASE_ENCODER]
CrossEncoderName = Annotated[str, CROSS_ENCODER]
RerankerBaseName = Annotated[str, RERANKER_BASE]
CausalLMName = Annotated[str, CAUSAL_LM]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, and nothing changes after it was checked.

    ``LATER``: fields that came later. They stand in a fingerprint only where they are neither their default nor None,
    so that what was made before is known again.

    >>> class Search(Settings):
    ...     depth: int = 10
    ...     patience: Annotated[int, UNHASHED] = 3
    >>> Search(depth=20).fingerprint()
    {'depth': 20}
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    LATER: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of_fields(cls, other: BaseModel) -> Self:
        """These settings with the values of one that has the same fields, and perhaps others."""
        return cls(**{name: getattr(other, name) for name in cls.model_fields})

    def fingerprint(self) -> Any:
        """What the result depends on, as JSON: values, and the content of what they name.

        Raises ``InputError`` as ``check`` does.
        """
        values = {}
        for name, field in type(self).model_fields.items():
            value, marker = getattr(self, name), _marker(field.metadata, field.annotation)
            if name in self.LATER and value in (None, field.default):
                continue
            if marker is None or value is None:
                values[name] = _fingerprint(value)
            elif marker.digest:
                values[name] = content(name, value, partial(_each, marker.digest, value), marker.of_machine)
        return values

    def check(self) -> None:
        """Raise ``InputError`` if a model or a file that is named is not there; the message begins with the field."""
        for name, field in type(self).model_fields.items():
            value, marker = getattr(self, name), _marker(field.metadata, field.annotation)
            try:
                if marker and value is not None:
                    _each(self.checker(name, marker), value)
                else:
                    _check(value)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

    def checker(self, _name: str, marker: Marker) -> Callable[[Any], None]:
        """What checks the value of a field: its marker's, unless another field decides it."""
        return marker.check


def _marker(metadata: Iterable[Any], annotation: Any = None) -> Marker | None:
    """A field's marker, which may stand within a union, as of ``EncoderName | None``."""
    if marker := next((m for m in metadata if isinstance(m, Marker)), None):
        return marker
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return next((marker for m in members if (marker := _marker(getattr(m, "__metadata__", ())))), None)


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    return [function(v) for v in value] if isinstance(value, tuple | list) else function(value)


def _fingerprint(value: Any) -> Any:
    """Nested settings by their own fingerprint, and anything else as JSON has it."""
    if hasattr(value, "fingerprint"):
        return value.fingerprint()
    if isinstance(value, dict):
        return {str(key): _fingerprint(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_fingerprint(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _check(value: Any) -> None:
    if isinstance(value, Settings):
        value.check()
    elif isinstance(value, dict):
        for v in value.values():
            _check(v)
    elif isinstance(value, tuple | list):
        for v in value:
            _check(v)
