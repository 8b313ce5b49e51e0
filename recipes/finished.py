"""A finished run: what reports, cards and comparisons are made from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sharpen.evaluation.datasets import Task
from sharpen.evaluation.report.comparison import Comparison, make_comparison
from sharpen.recipes.engine import Manifests
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.comparison import FIRST, AfterStage
from sharpen.recipes.stages.elsewhere import Elsewhere
from sharpen.sdg.replay import unchanged


@dataclass(frozen=True)
class FinishedRun:
    """``inputs``: the files of all stages. ``manifests``: stage to manifest."""

    recipe: Recipe
    inputs: Inputs
    manifests: Manifests

    @property
    def folder(self) -> Path:
        return self.inputs.run

    def task(self) -> Task:
        """What the run compares on."""
        return task_of(self.recipe, self.inputs)

    def compare(self, task: Task, first: tuple[str, str], second: tuple[str, str], **options) -> Comparison:
        """Of what two stages wrote: (stage, name of the scores)."""
        given = {"seed": self.recipe.seed, "queries_of": queries_of(self.recipe), "groups": task.groups} | options
        return make_comparison(self.inputs.scores(*first), self.inputs.scores(*second), **given)

    def reranking(self, task: Task) -> Comparison | None:
        """The first stage and what the reranker makes of it; None where the recipe has no reranker."""
        part = self.recipe.reranker
        if part is None:
            return None
        first, name = {
            "bm25": (("before", "bm25"), "BM25"),
            "retriever": (("after", "after"), "tuned retriever"),
            "fused": (("reranked", FIRST), f"tuned retriever + {part.bm25_weight:g} BM25"),
        }[part.first_stage]
        of = name if name == "BM25" else f"the {name}"
        reranker = f"committee of {part.committee} rerankers" if part.committee > 1 else "reranker"
        names = (name, f"{reranker} over the first {part.depth} of {of}")
        return self.compare(task, first, ("reranked", "reranked"), names=names)

    def others(self) -> dict[str, Comparison]:
        """The base and the tuned model on the recipe's other collections."""
        return {
            name: self.compare(
                other.task(),
                ("before", f"other-{n}"),
                ("after", f"other-{n}"),
                queries_of=f"queries of {name}",
            )
            for n, (name, other) in enumerate(Elsewhere.all_of(self.recipe).items())
        }

    def by_age(self, task: Task) -> dict[str, Comparison]:
        """Of a run that goes on from an earlier one: the comparison on queries whose documents were there before as
        they are, and on all others; without those of which there are no queries."""
        replay = self.recipe.replay
        if replay is None:
            return {}
        old = unchanged(task.corpus, Inputs.of_earlier(replay).corpus())
        changed = {d.doc_id if task.by_document else i for i, d in task.corpus.items() if i not in old}
        are_old = {q for q, grades in task.qrels.items() if not any(g > 0 and i in changed for i, g in grades.items())}
        parts = {"there before": are_old, "new or changed": task.qrels.keys() - are_old}
        return {name: self._compare_on(task, queries) for name, queries in parts.items() if queries}

    def _compare_on(self, task: Task, queries: Collection[str]) -> Comparison:
        before, after = (
            {metric: {q: value for q, value in of.items() if q in queries} for metric, of in scores.items()}
            for scores in (self.inputs.scores(name, name) for name in ("before", "after"))
        )
        return make_comparison(
            before, after, seed=self.recipe.seed, queries_of=queries_of(self.recipe), groups=task.groups
        )

    def cut(self, task: Task) -> dict[str, Comparison]:
        """The comparison with embeddings cut to their first dimensions, the most first."""
        return {
            str(d): self.compare(task, ("before", f"before-{d}"), ("after", f"after-{d}"))
            for d in sorted(self.recipe.training.matryoshka, reverse=True)
        }


def task_of(recipe: Recipe, inputs: Inputs) -> Task:
    """What a recipe's run compares on. Raises ``InputError`` as the readers do."""
    return AfterStage.of(recipe).task(inputs)


def queries_of(recipe: Recipe) -> str:
    """What the comparison was made on, for people."""
    part = recipe.evaluation
    if part.data is None:
        return (
            "generated queries, held out" if recipe.split.by == "query" else "generated queries of held-out documents"
        )
    return f"queries of {Path(part.data).name}, split {part.split}"
