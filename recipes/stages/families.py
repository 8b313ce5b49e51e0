"""What a recipe for a sparse or multi-vector encoder cannot have, found before anything is computed or paid for."""

from __future__ import annotations

from sharpen.evaluation.files import InputError
from sharpen.recipes.schema.recipe import Recipe
from sharpen.training.families import check_one_process


def check_family(recipe: Recipe) -> None:
    """Raise ``InputError`` that names the key for several processes, and for what compares the base's dense vectors
    where it has none."""
    check_one_process(recipe.training.family)
    family = recipe.training.encoder.as_it_is().family
    if family == "dense":
        return
    asking = {
        "filters.near_duplicates": recipe.generates and recipe.filters.near_duplicates,
        "queries.select: coverage": recipe.asks_for_queries and recipe.queries.select == "coverage",
    }
    for key, asks in asking.items():
        if asks:
            raise InputError(
                f"{key}: compares the dense vectors of training.base, and it is a {family} encoder; leave it out"
            )
