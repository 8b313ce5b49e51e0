"""What people decided on a run, where its stages find it."""

from __future__ import annotations

from pathlib import Path

from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.decisions import Decisions, read_decisions

DECISIONS = "decisions.jsonl"
"""Of a run's folder: decisions on its queries and negatives, a line each. The next run in this folder goes by them."""


def decisions_of(recipe: Recipe) -> Decisions:
    """Those in the run's folder, which count more than those of another run that the recipe names; none where nobody
    has decided anything. Raises ``InputError`` as ``read_decisions`` does."""
    others = [Path(recipe.decisions)] if recipe.decisions else []
    return read_decisions(*others, Path(recipe.runs) / recipe.name / DECISIONS)
