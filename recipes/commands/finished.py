"""Commands that take the folder of a run: look at it, label it, write it for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sharpen.recipes.arguments import Overrides, RunArgument
from sharpen.recipes.quiet import quiet_libraries

app = typer.Typer()


@app.command()
def inspect(
    run: RunArgument,
    strategy: Annotated[str | None, typer.Option(help="Only queries of this strategy.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rejections with this text in their reason.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pairs shown of each kind.")] = 12,
) -> None:
    """Show accepted, borderline and rejected pairs of a run, and counts by strategy and reason.

    Example: sharpen inspect runs/quickstart --reason copied -n 5
    """
    from sharpen.recipes.inspect import inspect_run

    inspect_run(run, Console(), strategy, reason, number)


@app.command()
def negatives(
    run: RunArgument,
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
def answers(  # noqa: PLR0913 - an argument is an option of the command
    run: RunArgument,
    overrides: Overrides = None,
    questions: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_DATASET",
            help=(
                "SQuAD's .json, a .jsonl file with question, answer and perhaps document in each line, or a dataset"
                " whose queries have answers in their metadata. Default: those of the run that have one."
            ),
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Documents that the LLM is shown.")] = 5,
    systems: Annotated[
        str,
        typer.Option(
            help=(
                "Whose documents: base, tuned, bm25; none, without any; gold, those that answer. The first is what the"
                " others are compared with."
            )
        ),
    ] = "base,tuned,none,gold",
    number: Annotated[int, typer.Option("-n", min=1, help="Questions at most, drawn by the recipe's seed.")] = 100,
    judge: Annotated[
        bool,
        typer.Option(
            "--judge", help="Have an LLM judge, too: filters.judge.llm where the recipe has it, else its llm."
        ),
    ] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it costs, and ask nothing.")] = False,
) -> None:
    """Have the recipe's LLM answer questions from what base and tuned model find, and say if answers got better.

    What was answered is kept and never paid for twice; llm.budget holds.

    Example: sharpen answers runs/quickstart --questions questions.jsonl --judge --estimate
    """
    from sharpen.recipes.load import load_recipe

    loaded = load_recipe(str(run), overrides or [])
    quiet_libraries()
    from sharpen.recipes.answers import answer_questions, estimate_answers
    from sharpen.recipes.asked_questions import AnswersOptions

    chosen = tuple(dict.fromkeys(name.strip() for name in systems.split(",") if name.strip()))
    options = AnswersOptions(questions, top_k, chosen, number, judge)
    (estimate_answers if estimate else answer_questions)(loaded, run, options, Console())


@app.command()
def diagnose(
    run: RunArgument,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run whose queries to compare, too; may be given again."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the recipe's evaluation data with the real queries. Default: the recipe's."),
    ] = None,
) -> None:
    """Say in what a run's generated queries differ from real ones.

    Example: sharpen diagnose runs/quickstart --against runs/other
    """
    from sharpen.recipes.diagnose import diagnose_run

    diagnose_run(run, Console(), against or [], split)


@app.command()
def export(
    run: RunArgument,
    layout: Annotated[
        str, typer.Option(help="beir, datasets, nvidia, sentence-transformers, tevatron or flag-embedding.")
    ],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A folder that is not there yet.")],
) -> None:
    """Write a run's pairs and hard negatives in the layout of another trainer.

    Example: sharpen export runs/quickstart --layout datasets --to pairs
    """
    from sharpen.recipes.show import export_run

    export_run(run, layout, to, Console())


@app.command(name="convert")
def convert_data(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="What NVIDIA's toolkit, GPL or InPars made, BEIR, or a folder of datasets."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder that is not there yet.")],
    min_quality: Annotated[float, typer.Option(help="Of NVIDIA's pairs, the judge's least overall score.")] = 7.0,
) -> None:
    """Write pairs and hard negatives that another program made as a folder that recipes take.

    Example: sharpen convert downloads/pairs converted
    """
    from sharpen.recipes.show import convert_folder

    convert_folder(source, target, Console(), min_quality)


@app.command()
def show(run: RunArgument) -> None:
    """Print the table and the verdict of a finished run.

    Example: sharpen show runs/quickstart
    """
    from sharpen.recipes.show import show_run

    show_run(run, Console())
