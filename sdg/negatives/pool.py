"""The few-shot pool of the LLM miner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sharpen.evaluation.files import InputError

KEYS = {"query", "document", "negatives"}


@dataclass(frozen=True)
class NegativesExample:
    """A query, a passage that answers it, and passages that do not."""

    query: str
    document: str
    negatives: tuple[str, ...]


def read_negatives_pool(path: Path) -> list[NegativesExample]:
    """Read a YAML list of ``{query, document, negatives}``. Raises ``InputError`` (file and line)."""
    rows = _read_yaml(path)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a list of examples, each with query, document and negatives")
    examples = []
    for index, row in enumerate(rows):
        if (example := _parse(row)) is None:
            raise InputError(
                f"{path}, line {rows.lc.item(index)[0] + 1}: an example has the keys query, document (which answers it)"
                " and negatives (a list of texts that do not)"
            )
        examples.append(example)
    return examples


def _parse(row: Any) -> NegativesExample | None:
    if not isinstance(row, dict) or set(row) != KEYS or not isinstance(row["negatives"], list) or not row["negatives"]:
        return None
    texts = [row["query"], row["document"], *row["negatives"]]
    if not all(isinstance(t, str) and t.strip() for t in texts):
        return None
    query, document, *negatives = (" ".join(t.split()) for t in texts)
    return NegativesExample(query, document, tuple(negatives))


def _read_yaml(path: Path) -> Any:
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
