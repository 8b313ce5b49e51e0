"""What is kept of generated queries. Each filter returns the kept ones and, for each rejected one, the reason."""

from __future__ import annotations

from typing import Any

from sharpen.evaluation.beir import Query


def rejection(query: Query, reason: str, **more: Any) -> dict[str, Any]:
    """The row of ``rejected.jsonl`` for a query; ``more``: the numbers that the reason rests on."""
    return {"query": query.id, "text": query.text, "document": query.metadata["positives"][0], "reason": reason} | more
