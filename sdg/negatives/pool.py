"""The few-shot pool of the LLM miner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpen.evaluation.files import InputError
from sharpen.evaluation.yaml_files import read_yaml

KEYS = {"query", "document", "negatives"}


@dataclass(frozen=True)
class NegativesExample:
    """A query, a passage that answers it, and passages that do not."""

    query: str
    document: str
    negatives: tuple[str, ...]


def read_negatives_pool(path: Path) -> list[NegativesExample]:
    """Read a YAML list of ``{query, document, negatives}``. Raises ``InputError`` (file and line)."""
    rows = read_yaml(path)
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
