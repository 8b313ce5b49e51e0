"""Reading YAML with the lines of its keys, so that errors can name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sharpen.evaluation.files import InputError


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; ``.lc`` of its mappings and lists has the lines. Raises ``InputError`` (file and
    line)."""
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
