"""By which queries a mixture of scorers and the system to deploy are chosen, in the whole corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from sharpen.evaluation.beir import Qrels, Queries
from sharpen.evaluation.datasets import Task, known_ids, read_judged
from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import Settings
from sharpen.evaluation.systems import MOST_CHOOSING, Choosing
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.judged import Evaluated, Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.harvesting import VERBATIM
from sharpen.sdg.queries import query_key


class ChoosingPart(Settings):
    """``validation``: the queries to choose by; None: generated ones, held out (``dev``) where the comparison is not on
    them, else those that are trained on. ``evaluated``: what is compared on at the end; none of it chooses."""

    validation: Judged | None
    evaluated: Evaluated
    dev: bool
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(
            validation=Judged.of(recipe.training.validation),
            evaluated=Evaluated.of(recipe),
            dev=recipe.evaluation.data is not None or recipe.generated_split != "dev",
            seed=recipe.seed,
        )

    def task(self, inputs: Inputs, trained: Queries | None = None) -> Choosing:
        """The queries, in the run's corpus. ``trained``: those that a model was trained on, which do not choose it
        under whatever name they come. Raises ``InputError`` if there is none, and as the readers do."""
        excluded = self.evaluated.keys()
        if self.validation:
            excluded |= {query_key(query.text) for query in (trained or {}).values()}
        known = known_ids(inputs.corpus())
        for queries, qrels, what, copied in self._candidates(inputs):
            qrels = {
                q: {i: grade for i, grade in grades.items() if i in known}
                for q, grades in qrels.items()
                if query_key(queries[q].text) not in excluded
            }
            try:
                task = Task(inputs.corpus(), queries, qrels, "choosing", by_document=bool(self.validation))
            except InputError:  # none is left
                continue
            return Choosing(task.sample(MOST_CHOOSING, self.seed), what, copied)
        raise InputError(
            "no query is left to choose a mixture or a system by; give training.validation.data, or split.dev"
        )

    def _candidates(self, inputs: Inputs) -> Iterator[tuple[Queries, Qrels, str, bool]]:
        if self.validation:
            name = f"queries of {self.validation.data}, split {self.validation.split}"
            yield *read_judged(self.validation.data, self.validation.split), name, False
            return
        queries = inputs.queries()
        splits = {"dev": "generated dev queries"} if self.dev else {}
        splits["train"] = "generated queries, which were trained on, too"
        # BM25 finds a copy at once, so what was copied is taken only where there is nothing else
        for copied, suffix in ((False, ""), (True, ", copied from documents, which favours BM25")):
            for split, what in splits.items():
                try:
                    qrels = inputs.qrels(split)
                except InputError:  # no query is in this split
                    continue
                chosen = {q: grades for q, grades in qrels.items() if bool(queries[q].metadata.get(VERBATIM)) is copied}
                yield queries, chosen, what + suffix, copied
