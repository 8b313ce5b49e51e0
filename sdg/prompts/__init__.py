"""The prompts' templates. They make plain text: what is put into them needs no escaping."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from sharpen.evaluation.files import InputError


@cache
def template(name: str) -> jinja2.Template:
    """A file of this folder; a variable that it names and is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def users_template(path: Path | str) -> jinja2.Template:
    """A template of the user's, which can do nothing but make text. Raises ``InputError`` (file and line) for one that
    is not there or is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return SandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.message}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a template in UTF-8 ({error})") from None


def render(chosen: jinja2.Template, path: Path | str, **values: object) -> str:
    """The text of a user's template. Raises ``InputError`` for a variable that there is not, and for what a template
    may not do."""
    try:
        return chosen.render(**values)
    except jinja2.TemplateError as error:
        raise InputError(f"{path}: {error.message}; there are {', '.join(sorted(values))}") from None
