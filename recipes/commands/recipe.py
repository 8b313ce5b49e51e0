"""Commands that take a recipe: check it, say what it costs, run it or a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sharpen.recipes.arguments import Overrides, RecipeArgument, Start
from sharpen.recipes.quiet import quiet_libraries

if TYPE_CHECKING:
    from sharpen.recipes.load import LoadedRecipe

app = typer.Typer()


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage and what it needs, and nothing else.")
    ] = None,
    start: Start = None,
    strict: Annotated[bool, typer.Option("--strict", help="A document that cannot be read is an error.")] = False,
) -> None:
    """Run a recipe; stages that are up to date are reused. Also: accelerate launch -m sharpen.recipes run RECIPE.

    Example: sharpen run own_documents corpus.source=documents name=mine training.epochs=2
    """
    _run(recipe, [*(overrides or []), *(["corpus.strict=true"] if strict else [])], until, start)


@app.command()
def generate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Ask by the provider's batch API: within a day, for about half the price.")
    ] = False,
) -> None:
    """Have the queries of a recipe written, and stop: the stages corpus and queries.

    Example: sharpen generate own_documents corpus.source=documents name=mine queries.documents=200
    """
    _run(recipe, [*(overrides or []), *(["llm.batch=true"] if batch else [])], "generate")


@app.command()
def mine(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Go as far as hard negatives, or as queries that passed the filters where the recipe mines none, and stop.

    Example: sharpen mine runs/mine negatives.per_query=4
    """
    _run(recipe, overrides, "mine")


@app.command()
def train(recipe: RecipeArgument, overrides: Overrides = None, start: Start = None) -> None:
    """Go as far as the model, and stop. With the folder of a run, which may come from another machine, as RECIPE:
    what is made there needs neither its documents nor its LLM.

    Example: sharpen train runs/mine training.learning_rate=1e-4
    """
    _run(recipe, overrides, "train", start)


@app.command()
def validate(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Check a recipe and the files that it names, and print it with every default filled in.

    Example: sharpen validate quickstart training.epochs=3
    """
    loaded = _load(recipe, overrides)
    from sharpen.recipes.stages import check_recipe

    check_recipe(loaded.recipe)
    print(loaded.resolved_yaml, end="")


@app.command()
def recipes() -> None:
    """List the recipes and comparisons that come with sharpen, and the parts that can be added to a recipe.

    Example: sharpen recipes
    """
    from sharpen.recipes.load import FOLDER, comparison_files, first_line, part_files, recipe_files

    for path in [*recipe_files(), *comparison_files(), *part_files()]:
        print(f"{path.relative_to(FOLDER).with_suffix('').as_posix():28} {first_line(path)}")


@app.command()
def estimate(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Say what a recipe's LLMs will cost, by all that asks them: calls, tokens, money, hours. None is asked.

    Example: sharpen estimate quickstart 'llm.prices={input: 0.1, output: 0.4}'
    """
    loaded = _load(recipe, overrides)
    from sharpen.recipes.preview import estimate_recipe

    estimate_recipe(loaded.recipe, Console())


@app.command()
def preview(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    documents: Annotated[int, typer.Option(min=1, help="For how many documents.")] = 20,
) -> None:
    """Write the queries of a few documents and print them. What is asked is kept, and the run does not ask again.

    Example: sharpen preview own_documents corpus.source=documents --documents 5
    """
    loaded = _load(recipe, overrides)
    from sharpen.recipes.preview import preview_recipe

    preview_recipe(loaded.recipe, Console(), documents)


@app.command()
def teachers(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "Measure this one, too: encoder:<name>, a cross-encoder, reranker, llm or llm:listwise (the recipe's"
                " LLM, asked of 30 documents a query; what that costs is said first). May be given again."
            )
        ),
    ] = None,
) -> None:
    """Say which scorers, and which mixture of them, would be the best teacher, before anything is trained.

    Example: sharpen teachers adapt corpus.source=documents evaluation.data=questions --scorer encoder:my/large-model
    """
    loaded = _load(recipe, overrides)
    quiet_libraries()
    from sharpen.evaluation.processes import end_processes, process_state
    from sharpen.recipes.teachers import recipe_teachers

    recipe_teachers(loaded.recipe, Console(quiet=not process_state().is_main_process), scorer or [])
    end_processes()


def _run(recipe: str, overrides: list[str] | None, until: str | None, start: str | None = None) -> None:
    loaded = _load(recipe, overrides)
    quiet_libraries()
    from sharpen.evaluation.processes import end_processes, process_state
    from sharpen.recipes.run import run_part, run_recipe

    console = Console(quiet=not process_state().is_main_process)
    if until:
        run_part(loaded, console, until, start)
    else:
        run_recipe(loaded, console, start=start)
    end_processes()


def _load(recipe: str, overrides: list[str] | None) -> LoadedRecipe:
    """Before anything heavy is imported, so that a mistake in a recipe is told at once."""
    from sharpen.recipes.load import load_recipe

    return load_recipe(recipe, overrides or [])
