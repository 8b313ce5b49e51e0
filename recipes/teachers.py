"""Which scorers, and which mixture of them, a recipe's student should learn from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from sharpen.evaluation.encoders.committee import holds_cross_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.scorers import BASE, BM25_SCORER, RERANKER, llm_members, members_of
from sharpen.evaluation.teachers import RERANKED_DEPTH, Teachers, compare_teachers
from sharpen.recipes.engine import run_stages
from sharpen.recipes.preview import print_costs, token_counter
from sharpen.recipes.run import prepare_run
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages import check_recipe
from sharpen.recipes.stages.choosing import ChoosingPart


def recipe_teachers(recipe: Recipe, console: Console, scorers: Sequence[str] = ()) -> Teachers:
    """Run what is needed for queries with judgments, measure every scorer on them, and print the tables.

    Measured are BM25, the base, what the recipe's teacher is made of, the run's reranker where it is there, and
    ``scorers``. The queries are the validation's, which need the corpus only, or else generated ones. What asking an
    LLM will cost is printed before it is asked, and what it took at the end. Raises ``InputError``.
    """
    if (asking := llm_members(tuple(scorers))) and recipe.llm is None:
        raise InputError(f"--scorer {asking[0]}: it asks an LLM, and the recipe has none; give the part llm")
    with process_state().main_process_first():  # it fetches a dataset that is not there
        check_recipe(recipe)
        if asking:
            recipe.llm.check()
        run = prepare_run(recipe, console)
    choosing = ChoosingPart.of(recipe)
    run_stages(run, until="corpus" if choosing.validation else "pairs")
    inputs = run.inputs()
    task = choosing.task(inputs)
    names = dict.fromkeys([BM25_SCORER, BASE, *members_of(recipe.training.teacher or ()), *scorers])
    reranker = inputs.folder(RERANKER)
    names.pop(RERANKER, None)
    if holds_cross_encoder(reranker):
        names[str(reranker)] = None
    elif RERANKER in scorers:
        raise InputError(f"--scorer {RERANKER}: {reranker} is not there; run the recipe with its part reranker first")
    asked = [run.resources.models.scorers[name] for name in llm_members(tuple(names))]
    if asked:
        documents, count = list(task.task.corpus.values()), token_counter(recipe)
        costs = [llm.estimate(len(task.task.qrels), RERANKED_DEPTH, documents, count) for llm in asked]
        print_costs(recipe, costs, console, "scorer")
    teachers = compare_teachers(run.resources.models, list(names), task.task)
    if process_state().is_main_process:
        print_teachers(teachers, task.what, console)
    for llm in asked:
        console.print(llm.sentence(), highlight=False, soft_wrap=True)
    return teachers


def print_teachers(teachers: Teachers, what: str, console: Console) -> None:
    """The tables, and the line for the recipe."""
    console.print(f"\n{teachers.queries} {what}, nDCG@10:\n", highlight=False, soft_wrap=True)
    for line in teachers.markdown():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    mixture, value = teachers.best
    base = next((row.value for row in teachers.alone if row.scorer == BASE), None)
    console.print(f"\n{teachers.recipe_line()}", highlight=False, soft_wrap=True, markup=False)
    gain = "" if base is None else f", {value - base:+.4f} to the base"
    console.print(
        f"A student of this mixture reaches {value:.4f} on these queries at most, or little more{gain}.",
        highlight=False,
        soft_wrap=True,
    )
    if len(mixture) == 1 and BASE in mixture:
        console.print("No mixture is better than the base: it has nothing to learn from these.", highlight=False)
