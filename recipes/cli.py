"""The command ``sharpen``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sharpen.recipes.arguments import Overrides, RecipeArgument, Start
from sharpen.recipes.quiet import quiet_libraries

if TYPE_CHECKING:
    from sharpen.recipes.load import LoadedRecipe


class PrecisionChoice(StrEnum):
    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turn a folder of documents into a retriever that is measurably better on them.",
)


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
    """Run a recipe; stages that are up to date are reused. Also: accelerate launch -m sharpen.recipes run RECIPE."""
    _run(recipe, [*(overrides or []), *(["corpus.strict=true"] if strict else [])], until, start)


@app.command()
def generate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Ask by the provider's batch API: within a day, for about half the price.")
    ] = False,
) -> None:
    """Have the queries of a recipe written, and stop: the stages corpus and queries."""
    _run(recipe, [*(overrides or []), *(["llm.batch=true"] if batch else [])], "generate")


@app.command()
def mine(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Go as far as hard negatives, or as queries that passed the filters where the recipe mines none, and stop."""
    _run(recipe, overrides, "mine")


@app.command()
def train(recipe: RecipeArgument, overrides: Overrides = None, start: Start = None) -> None:
    """Go as far as the model, and stop. With the folder of a run, which may come from another machine, as RECIPE:
    what is made there needs neither its documents nor its LLM."""
    _run(recipe, overrides, "train", start)


@app.command()
def validate(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Check a recipe and the files that it names, and print it with every default filled in."""
    loaded = _load(recipe, overrides)
    from sharpen.recipes.stages import check_recipe

    check_recipe(loaded.recipe)
    print(loaded.resolved_yaml, end="")


@app.command()
def recipes() -> None:
    """List the recipes and comparisons that come with sharpen, and the parts that can be added to a recipe."""
    from sharpen.recipes.load import FOLDER, comparison_files, first_line, part_files, recipe_files

    for path in [*recipe_files(), *comparison_files(), *part_files()]:
        print(f"{path.relative_to(FOLDER).with_suffix('').as_posix():28} {first_line(path)}")


@app.command()
def estimate(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Say what a recipe's LLM will cost, for queries and as a teacher: calls, tokens, money, hours. None is asked."""
    loaded = _load(recipe, overrides)
    from sharpen.recipes.preview import estimate_recipe

    estimate_recipe(loaded.recipe, Console())


@app.command()
def preview(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    documents: Annotated[int, typer.Option(min=1, help="For how many documents.")] = 20,
) -> None:
    """Write the queries of a few documents and print them. What is asked is kept, and the run does not ask again."""
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
    """Say which scorers, and which mixture of them, would be the best teacher, before anything is trained."""
    loaded = _load(recipe, overrides)
    quiet_libraries()
    from sharpen.evaluation.processes import end_processes, process_state
    from sharpen.recipes.teachers import recipe_teachers

    recipe_teachers(loaded.recipe, Console(quiet=not process_state().is_main_process), scorer or [])
    end_processes()


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart.")],
    strategy: Annotated[str | None, typer.Option(help="Only queries of this strategy.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rejections with this text in their reason.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pairs shown of each kind.")] = 12,
) -> None:
    """Show accepted, borderline and rejected pairs of a run, and counts by strategy and reason."""
    from sharpen.recipes.inspect import inspect_run

    inspect_run(run, Console(), strategy, reason, number)


@app.command()
def negatives(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/scifact.")],
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write negatives into this CSV file, to be labelled.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Negatives of each miner on the sheet.")] = 100,
    labels: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A person's labelled sheet; may be given again.")
    ] = None,
) -> None:
    """Have people look at a run's negatives: too easy, hard, or answers after all, by miner.

    Example: sharpen negatives runs/scifact --sheet sheet.csv, then sharpen negatives runs/scifact --labels anna.csv
    --labels ben.csv
    """
    from sharpen.recipes.audit import make_sheet, show_labels

    if (sheet is None) == (not labels):
        raise typer.BadParameter("give --sheet FILE to write one, or --labels FILE to read labelled ones")
    if sheet:
        make_sheet(run, sheet, number, Console())
    else:
        show_labels(run, labels, Console())


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run whose queries to compare, too; may be given again."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the recipe's evaluation data with the real queries. Default: the recipe's."),
    ] = None,
) -> None:
    """Say in what a run's generated queries differ from real ones."""
    from sharpen.recipes.diagnose import diagnose_run

    diagnose_run(run, Console(), against or [], split)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart.")],
    layout: Annotated[str, typer.Option(help="beir, nvidia, sentence-transformers, tevatron or flag-embedding.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A folder that is not there yet.")],
) -> None:
    """Write a run's pairs and hard negatives in the layout of another trainer."""
    from sharpen.recipes.show import export_run

    export_run(run, layout, to, Console())


@app.command(name="convert")
def convert_data(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="What NVIDIA's toolkit, GPL or InPars made, or BEIR.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder that is not there yet.")],
    min_quality: Annotated[float, typer.Option(help="Of NVIDIA's pairs, the judge's least overall score.")] = 7.0,
) -> None:
    """Write pairs and hard negatives that another program made as a folder that recipes take."""
    from sharpen.recipes.show import convert_folder

    convert_folder(source, target, Console(), min_quality)


@app.command()
def evaluate(  # noqa: PLR0913 - an argument is an option of the command
    system: Annotated[
        str,
        typer.Argument(
            metavar="SYSTEM",
            help=(
                "A model's folder or name, packaged:<name>, bm25, hybrid:<model>, fused:0.3:<model> (BM25 weighted"
                " 0.3), generative:<folder>, or a TREC run file (.trec, .run, .txt)."
            ),
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            help=(
                "A dataset of BEIR or NanoBEIR by name, a folder in BEIR layout, or a CSV or JSONL file with question"
                " and document; may be given again."
            )
        ),
    ],
    against: Annotated[str | None, typer.Option(metavar="SYSTEM", help="Another system to compare with.")] = None,
    split: Annotated[str, typer.Option(help="qrels/<split>.tsv of the data.")] = "test",
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="corpus.jsonl to search, where the data has none.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A cross-encoder that puts the first 100 in order.")
    ] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Put before every query. Default: the model's own.")] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Put before every document. Default: the model's own.")
    ] = None,
    max_seq_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens a text is cut to. Default: the model's own.")
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="What models compute in; auto: bf16 where the hardware has it.")
    ] = PrecisionChoice.auto,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Search by FAISS's cells, for many millions of documents.")
    ] = False,
    metrics: Annotated[
        str | None, typer.Option(help="As ndcg@10,precision@5,map@100. Default: those of reports.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: runs/evaluate-<system>.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals and tests.")] = 13,
) -> None:
    """Evaluate a system on judged queries, or compare two. Also: accelerate launch -m sharpen.recipes evaluate ..."""
    quiet_libraries()
    from sharpen.evaluation.metrics import METRICS
    from sharpen.evaluation.processes import end_processes, process_state
    from sharpen.recipes.evaluate import EvaluationOptions, default_folder, evaluate_systems

    systems = [system] if against is None else [system, against]
    options = EvaluationOptions(
        split=split,
        corpus=corpus,
        metrics=METRICS if metrics is None else tuple(m.strip() for m in metrics.split(",")),
        rerank=rerank,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_seq_length=max_seq_length,
        precision=precision.value,
        approximate=approximate,
        seed=seed,
    )
    console = Console(quiet=not process_state().is_main_process)
    evaluate_systems(systems, data, out or default_folder(systems), console, options)
    end_processes()


@app.command()
def diff(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_A",
            help="Folder of a finished run, of a system that `sharpen evaluate` wrote, or a TREC run file.",
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another of the same queries.")],
    data: Annotated[str | None, typer.Option(help="What is right, for run files.")] = None,
    split: Annotated[str, typer.Option(help="qrels/<split>.tsv of the data.")] = "test",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: diff-A-B beside B.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals and tests.")] = 13,
) -> None:
    """Say whether run B is better than run A, query by query."""
    quiet_libraries()
    from sharpen.recipes.evaluate import diff_runs

    diff_runs(first, second, Console(), data=data, split=split, out=out, seed=seed)


@app.command()
def compare(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help=(
                "A comparison: a recipe, seeds, datasets and arms with their overrides, as"
                " recipes/studies/small/compare.yaml."
            ),
        ),
    ],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, what of it is shared and what is done; run nothing.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, each with a GPU of its own or a share of the cores.")
    ] = 1,
) -> None:
    """Run all arms of a comparison with all seeds, at equal numbers of triplets, and say which differ from the
    baseline."""
    quiet_libraries()
    from sharpen.recipes.study import compare_arms, show_plan

    if plan:
        show_plan(study, Console(), overrides or [])
    else:
        compare_arms(study, Console(), overrides or [], jobs)


@app.command()
def reproduce(
    everything: Annotated[bool, typer.Option("--all", help="Those too that need a network.")] = False,
) -> None:
    """Run the baselines of recipes/expected.yaml and compare; exit status 1 if one is off."""
    quiet_libraries()
    from sharpen.recipes.reproduce import reproduce as run_baselines

    if not run_baselines(Console(), everything):
        raise typer.Exit(1)


@app.command()
def show(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart.")]) -> None:
    """Print the table and the verdict of a finished run."""
    from sharpen.recipes.show import show_run

    show_run(run, Console())


def main() -> None:
    """Run the command; what the user can mend is one line on standard error and exit status 2."""
    from sharpen.evaluation.files import InputError

    try:
        app()
    except (InputError, OSError) as error:  # OSError: a full disk, a file that may not be read; its message names it
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # what typer makes of Ctrl-C
            print("interrupted; everything finished is kept, the same command goes on from here", file=sys.stderr)
        raise


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
