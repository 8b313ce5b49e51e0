"""By which queries a checkpoint and the base's weight are chosen."""

from __future__ import annotations

from typing import Self

from sharpen.evaluation.datasets import read_judged
from sharpen.evaluation.settings import Settings
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.judged import Evaluated, Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.filters.text import query_key
from sharpen.training.settings import ValidationSettings
from sharpen.training.validation import SmallTask, small_task


class ValidationPart(Settings):
    """``judged``: the queries to choose by; None: the generated ones that split.dev holds out. ``evaluated``: those
    that are compared on at the end, which are left out."""

    settings: ValidationSettings
    judged: Judged | None
    evaluated: Evaluated
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self | None:
        settings = recipe.training.validation
        if settings is None:
            return None
        return cls(settings=settings, judged=Judged.of(settings), evaluated=Evaluated.of(recipe), seed=recipe.seed)

    def task(self, inputs: Inputs) -> SmallTask:
        """The queries, with the few documents that they are searched in. Raises ``InputError`` as the readers do."""
        if self.judged:
            queries, qrels = read_judged(self.judged.data, self.judged.split)
        else:
            queries, qrels = inputs.queries(), inputs.qrels("dev")
        # under whatever name they come: what is compared on at the end or trained on is nothing to choose by
        keys = self.evaluated.keys() | {query_key(q.text) for q in inputs.train_queries().values()}
        exclude = {q for q in qrels if query_key(queries[q].text) in keys}
        return small_task(inputs.corpus(), queries, qrels, self.settings, exclude, self.seed)
