"""The prompts' templates. They make plain text: what is put into them needs no escaping."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2


@cache
def template(name: str) -> jinja2.Template:
    """A file of this folder; a variable that it names and is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)
