"""What a recipe's LLM will cost as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sharpen.evaluation.beir import Document
from sharpen.evaluation.scorers import is_fitted, llm_members
from sharpen.evaluation.systems import MOST_CHOOSING
from sharpen.evaluation.teachers import RERANKED_DEPTH
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.estimate import CostEstimate
from sharpen.sdg.llm.settings import LLM
from sharpen.sdg.reranking.reranker import llm_scorers


def teacher_costs(
    recipe: Recipe, documents: Sequence[Document], queries: int, token_counter: Callable[[], Callable[[str], int]]
) -> list[CostEstimate]:
    """A row for each way in which a learner's teacher asks the LLM, and for the fitting of its weights.

    ``documents``: of the corpus. ``queries``: at most so many are trained on. ``token_counter`` is called where there
    is anything to count.
    """
    learners = [(name, teacher, per) for name, teacher, per in recipe.learners() if llm_members(teacher)]
    if not learners:
        return []
    count, scorers = token_counter(), llm_scorers(LLM(settings=recipe.llm), recipe.llm_reranker)
    trained_on = min(queries, recipe.filters.max_queries or queries)
    rows = []
    for learner, teacher, per_query in learners:
        for name in llm_members(teacher):
            row = scorers[name].estimate(trained_on, _documents(recipe, learner, per_query), documents, count)
            rows.append(replace(row, strategy=f"{name}, {learner}"))
            if is_fitted(teacher):
                row = scorers[name].estimate(_choosing(recipe, queries), RERANKED_DEPTH, documents, count)
                rows.append(replace(row, strategy=f"{name}, fitting"))
    return rows


def _documents(recipe: Recipe, learner: str, per_query: int) -> int:
    """Of a query, at most: those of its list, or its positive with its negatives."""
    if learner == "training" and recipe.training.candidates:
        return recipe.training.candidates
    return 1 + per_query * (len(recipe.negatives.miners) if recipe.negatives.mix == "concatenation" else 1)


def _choosing(recipe: Recipe, queries: int) -> int:
    """Queries that weights are fitted on, at most."""
    validation = Judged.of(recipe.training.validation)
    return min(MOST_CHOOSING, len(validation.texts()) if validation else queries)
