"""The rows to train on: triplets of the run's queries and its negatives."""

from __future__ import annotations

from typing import Self

from sharpen.evaluation.settings import Settings
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.negatives.record import Negative
from sharpen.training.triplets import Mix, Triplet, make_triplets


class RowsPart(Settings):
    """How the negatives of a query become rows."""

    mix: Mix
    miners: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(mix=recipe.negatives.mix, miners=tuple(recipe.negatives.by_name()), seed=recipe.seed)

    def triplets(
        self, inputs: Inputs, per_query: int, max_rows: int | None = None, negatives: list[Negative] | None = None
    ) -> tuple[list[Triplet], int]:
        """The rows with ``per_query`` negatives, and how many queries have too few for one. ``negatives``: in place of
        those that the stage mined."""
        rows = inputs.negatives() if negatives is None else negatives
        queries = inputs.train_queries()
        return make_triplets(queries, rows, per_query, self.mix, max_rows, self.seed, self.miners)


def triplets_of(recipe: Recipe, inputs: Inputs, per_query: int, max_rows: int | None) -> tuple[list[Triplet], int]:
    """A recipe's rows, as its training will have them."""
    return RowsPart.of(recipe).triplets(inputs, per_query, max_rows)
