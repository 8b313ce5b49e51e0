"""What each query strategy brings on a recipe's corpus.

    python scripts/strategies.py [--recipe triplets] [--documents 60] [--part german] [key.path=value ...]

Takes the documents that the recipe takes, asks by every part in recipes/parts/strategies (or by each --part), and
filters the queries by copying, near-duplicates and the part's round trip. Prints a row for each strategy as soon as its
part is done: prompts, queries that were asked for, parsed and usable, what each filter leaves of them, and seconds and
tokens a prompt. Answers are asked anew, as their seconds are in the table.

About ten minutes for 60 documents of Python on two AVX2 cores, one of them for encoding its corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from benchmarks.common import Table, as_help

if TYPE_CHECKING:
    from sharpen.evaluation.beir import Corpus
    from sharpen.recipes.schema.recipe import Recipe
    from sharpen.sdg import Resources
    from sharpen.sdg.llm.client import LLMClient
    from sharpen.sdg.queries import StrategyStats

FOLDER = "strategies"
"""Of the parts of recipes."""
COPYING = {"ngram": 3, "max_fraction": 0.5}
NEAR_DUPLICATES = {"threshold": 0.9}
TOP_K = 10
"""Of the round trip, by the retriever that the part has."""
COLUMNS = (
    "strategy",
    "prompts",
    "asked",
    "parsed",
    "usable",
    "copying",
    "near-duplicates",
    "round trip",
    "seconds a prompt",
    "tokens a prompt",
    "of these cached",
    "tokens an answer",
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=as_help(__doc__))
def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the recipe: key.path=value.")] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's file or name.")] = "triplets",
    documents: Annotated[int, typer.Option(help="To write queries for.", min=1)] = 60,
    part: Annotated[list[str] | None, typer.Option(help="Of recipes/parts/strategies; again for more.")] = None,
) -> None:
    from sharpen.recipes.load import load_recipe
    from sharpen.recipes.stages.corpus import CorpusStage, cut_corpus

    given = [f"queries.documents={documents}", *(overrides or ())]
    recipes = {name: load_recipe(recipe, [f"{FOLDER}/{name}", *given]).recipe for name in part or _part_names()}
    first = next(iter(recipes.values()))
    corpus = cut_corpus(CorpusStage.of(first))
    table = Table(f"Strategies on {documents} documents of {recipe}, asked by {first.llm.identity}", COLUMNS)
    done: set[str] = set()
    with _lent(first) as (client, resources):
        for of_part in recipes.values():
            for name, cells in _rows(of_part, corpus, client, resources):
                if name not in done:  # the first strategy of most parts is the same
                    table.row(name, *cells)
                done.add(name)


def _part_names() -> list[str]:
    from sharpen.recipes.load import part_files

    return [path.stem for path in part_files() if path.parent.name == FOLDER]


@contextmanager
def _lent(recipe: Recipe) -> Iterator[tuple[LLMClient, Resources]]:
    """The LLM with an empty journal, and the base encoder, which encodes the corpus once for all parts."""
    from sharpen.evaluation.models import Models
    from sharpen.sdg import LLM, Resources

    resources = Resources(Models(recipe.training.encoder))
    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(settings=recipe.llm, journal=Path(folder) / "answers.sqlite")
        with llm.open() as client:
            yield client, resources


def _rows(
    recipe: Recipe, corpus: Corpus, client: LLMClient, resources: Resources
) -> Iterator[tuple[str, list[object]]]:
    """Strategy's name and the cells behind it, for each strategy of a part."""
    from sharpen.sdg import Copying, NearDuplicates, RoundTrip, filter_queries, generate_queries

    generated = generate_queries(
        corpus,
        client,
        recipe.queries.all_strategies(),
        seed=recipe.queries_seed,
        documents=recipe.queries.documents,
    )
    retriever = recipe.filters.round_trip.retriever if recipe.filters.round_trip else "fused"
    filters = [Copying(**COPYING), NearDuplicates(**NEAR_DUPLICATES), RoundTrip(retriever, top_k=TOP_K)]
    passed = filter_queries(generated, corpus, filters, resources).passed
    for name, stats in generated.stats.items():
        left = [passed[each.name].get(name, 0) for each in filters]
        yield name, [stats.prompts, stats.asked, stats.parsed, stats.kept, *left, *_by_prompt(stats)]


def _by_prompt(stats: StrategyStats) -> list[str]:
    """Seconds and tokens of one prompt."""
    prompts = stats.prompts or 1
    tokens = [f"{stats.tokens[kind] / prompts:.0f}" for kind in ("prompt", "cached", "completion")]
    return [f"{stats.seconds / prompts:.2f}", *tokens]


if __name__ == "__main__":
    app()
