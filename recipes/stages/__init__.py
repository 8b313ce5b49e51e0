"""The walk from documents to a verdict, as stages: a file for each."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator

from sharpen.evaluation.files import InputError
from sharpen.recipes.engine import Stage, StagePart
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages import (
    corpus,
    diagnosis,
    generative,
    generative_search,
    identifiers,
    model,
    negatives,
    pairs,
    queries,
    reranker,
    systems,
    teacher,
    training,
)
from sharpen.recipes.stages.comparison import AFTER, BEFORE, RERANKED
from sharpen.recipes.stages.elsewhere import Elsewhere
from sharpen.recipes.stages.families import check_family
from sharpen.recipes.trackers import is_installed
from sharpen.training.launch import check_launch
from sharpen.training.trainer import processes_of_batch

_OF_BOTH = (corpus.STAGE, BEFORE, queries.STAGE, pairs.STAGE)
"""What comes before a learner, whichever it is."""
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        *_OF_BOTH,
        negatives.STAGE,
        reranker.STAGE,
        teacher.STAGE,
        training.STAGE,
        model.STAGE,
        AFTER,
        RERANKED,
        systems.STAGE,
        diagnosis.STAGE,
    )
}
"""In the order in which they run, as far as what they read allows."""
GENERATIVE: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        *_OF_BOTH,
        identifiers.STAGE,
        generative.TRAINING,
        generative.MODEL,
        generative_search.AFTER,
        generative_search.DIAGNOSIS_STAGE,
    )
}
"""Those of a generative retriever."""


def stages_of(recipe: Recipe) -> list[tuple[Stage, StagePart]]:
    """The stages of a recipe with their parts, in the order in which they run. Raises ``InputError`` for files that the
    recipe names and that are not as they should be."""
    stages = GENERATIVE if recipe.generative else STAGES
    unused = unused_stages(recipe)
    parts = {name: stage.part.of(recipe) for name, stage in stages.items() if name not in unused}
    order: list[str] = []
    while len(order) < len(parts):
        # of those whose inputs are there, the first: so before comes as early as it can
        order.append(next(n for n, part in parts.items() if n not in order and set(part.reads()) <= set(order)))
    return [(stages[name], parts[name]) for name in order]


def unused_stages(recipe: Recipe) -> set[str]:
    """Those that there are and that a recipe has not."""
    left_out = (STAGES.keys() | GENERATIVE.keys()) - (GENERATIVE if recipe.generative else STAGES).keys()
    if not recipe.learners():
        left_out.add("teacher")
    if recipe.reranker is None:
        left_out |= {"reranker", "reranked"}
    if not recipe.mines:
        left_out.add("negatives")
    if not recipe.evaluation.systems:
        left_out.add("systems")
    return left_out


def check_recipe(recipe: Recipe, stages: Collection[str] | None = None) -> None:
    """Find what a recipe names before anything is computed or paid for. ``stages``: those that are to run (None: all).
    Raises ``InputError``."""
    _check_comparison(recipe)
    if recipe.engine:
        recipe.engine.check()
    parts = {stage.name: part for stage, part in stages_of(recipe) if stages is None or stage.name in stages}
    _check_packages(recipe)
    trainings = [(name, batch_size) for stage, name, batch_size in _batches(recipe) if stage in parts]
    check_launch([name for name, _ in trainings])
    if "training" in parts and not recipe.generative:
        check_family(recipe)
    for name, batch_size in trainings:
        processes_of_batch(name, batch_size)
    if "corpus" in parts:
        recipe.corpus.check()
    for name, part in (("before", recipe.evaluation), ("queries", recipe.labelled)):
        if name in parts and (judged := Judged.of(part)):
            judged.check()
    if "before" in parts:
        for other in Elsewhere.all_of(recipe).values():
            other.check()
    if recipe.asks_for_queries and "queries" in parts:
        recipe.llm.check()
    if "negatives" in parts:
        recipe.negatives.prompts(recipe.llm)
    for part in parts.values():
        part.check()


def _check_comparison(recipe: Recipe) -> None:
    """Raise ``InputError`` where nothing is left to compare on, or what is asked for has no effect."""
    if recipe.evaluation.data is None and not getattr(recipe.split, recipe.generated_split):
        raise InputError(
            f"evaluation.data is not given and split.{recipe.generated_split} is 0: nothing is left to compare on; give"
            " one of them"
        )
    # here and not in the schema: the recipes of studies' old runs say it, and are to be read
    if recipe.generative and not recipe.evaluation.systems:
        raise InputError(
            "evaluation.systems: has no effect with generative, whose report always compares with BM25, the encoder and"
            " their fusions; take it out"
        )


def _batches(recipe: Recipe) -> Iterator[tuple[str, str, int]]:
    """Stage, key and batch size of each training."""
    if generative := recipe.generative:
        yield "training", "generative", generative.batch_size
        if generative.preferences:
            yield "model", "generative.preferences", generative.preferences.batch_size
        return
    yield "training", "training", recipe.training.batch_size
    if recipe.reranker:
        yield "reranker", "reranker", recipe.reranker.batch_size


def _check_packages(recipe: Recipe) -> None:
    """Raise ``InputError`` for an extra that is not installed."""
    generative = recipe.generative
    second = generative.preferences if generative else None
    trainings = {
        "training": recipe.training,
        "reranker": recipe.reranker,
        "generative": generative,
        "generative.preferences": second,
    }
    for name, part in trainings.items():
        if lora := getattr(part, "lora", None):
            lora.check_installed(name)
        for tracker in part.trackers if part else ():
            if not is_installed(tracker):
                raise InputError(f"{name}.trackers: {tracker} is not installed; pip install 'sharpen[{tracker}]'")
    if second and importlib.util.find_spec("trl") is None:
        raise InputError("generative.preferences: needs TRL; pip install 'sharpen[generative]'")
