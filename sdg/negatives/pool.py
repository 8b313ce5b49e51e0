"""The few-shot pool of the LLM miner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpen.sdg.strategies.pools import read_pool

KEYS = {"query", "document", "negatives"}
MALFORMED = "an example has the keys query, document (which answers it) and negatives (a list of texts that do not)"


@dataclass(frozen=True)
class NegativesExample:
    """A query, a passage that answers it, and passages that do not."""

    query: str
    document: str
    negatives: tuple[str, ...]


def read_negatives_pool(path: Path) -> list[NegativesExample]:
    """Read a YAML list of ``{query, document, negatives}``. Raises ``InputError`` (file and line)."""
    return read_pool(path, _parse, "query, document and negatives")


def _parse(row: Any) -> NegativesExample:
    if not isinstance(row, dict) or set(row) != KEYS or not isinstance(row["negatives"], list) or not row["negatives"]:
        raise ValueError(MALFORMED)
    texts = [row["query"], row["document"], *row["negatives"]]
    if not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(MALFORMED)
    query, document, *negatives = (" ".join(t.split()) for t in texts)
    return NegativesExample(query, document, tuple(negatives))
