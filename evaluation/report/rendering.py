"""The templates of pages and charts."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sharpen.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A template of this package with its values, which are escaped."""
    return _environment().get_template(template).render(**values)


def source(template: str) -> str:
    """A template's text as it is."""
    return _environment().loader.get_source(_environment(), template)[0].strip()
