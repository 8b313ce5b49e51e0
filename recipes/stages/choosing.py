"""By which queries a mixture of scorers and the system to serve are chosen, in the whole corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from sharpen.evaluation.beir import Qrels, Queries
from sharpen.evaluation.datasets import Task, read_judged
from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.systems import Choosing
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.validating import evaluated_keys
from sharpen.sdg.harvesting import VERBATIM
from sharpen.sdg.queries import query_key


class ChoosingPart(Settings):
    """``validation``: the queries to choose by; None: generated ones, held out (``dev``) where the comparison is not on
    them, else those that are trained on. ``evaluated``: what is compared on at the end; none of it chooses."""

    validation: Judged | None
    evaluated: Judged | None
    dev: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(
            validation=Judged.of(recipe.training.validation),
            evaluated=Judged.of(recipe.evaluation),
            dev=recipe.evaluation.data is not None or recipe.generated_split != "dev",
        )

    def task(self, inputs: Inputs) -> Choosing:
        """The queries, in the run's corpus. Raises ``InputError`` if there is none, and as the readers do."""
        evaluated = evaluated_keys(self.evaluated)
        for queries, qrels, what in self._candidates(inputs):
            qrels = {q: grades for q, grades in qrels.items() if query_key(queries[q].text) not in evaluated}
            try:
                task = Task(inputs.corpus(), queries, qrels, "choosing", by_document=bool(self.validation))
            except InputError:  # none is left
                continue
            return Choosing(task, what)
        raise InputError(
            "no query is left to choose a mixture or a system by; give training.validation.data, or split.dev"
        )

    def _candidates(self, inputs: Inputs) -> Iterator[tuple[Queries, Qrels, str]]:
        if self.validation:
            name = f"queries of {self.validation.data}, split {self.validation.split}"
            yield *read_judged(self.validation.data, self.validation.split), name
            return
        queries = inputs.queries()
        splits = {"dev": "generated dev queries"} if self.dev else {}
        splits["train"] = "generated queries, which were trained on, too"
        # BM25 finds a copy at once, so what was copied is taken only where there is nothing else
        for copies, suffix in ((False, ""), (True, ", copied from documents, which favours BM25")):
            for split, what in splits.items():
                qrels = inputs.qrels(split)
                chosen = {q: grades for q, grades in qrels.items() if bool(queries[q].metadata.get(VERBATIM)) is copies}
                yield queries, chosen, what + suffix
