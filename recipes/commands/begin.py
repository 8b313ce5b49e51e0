"""Commands that come before there is a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command()
def init(  # noqa: PLR0913 - an argument is an option of the command
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of documents, or one file of them.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The recipe. Default: <folder>.yaml where you are.")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(help="Who writes the queries: embedded, none, or the URL of an endpoint.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The LLM's name at that URL.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds its key.")
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Real questions to compare on: a CSV file or a folder in BEIR layout."),
    ] = None,
    minutes: Annotated[int | None, typer.Option(min=1, help="How long it may take, on two cores. Default: 20.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; what is not said is as proposed.")] = False,
) -> None:
    """Look at a folder of documents and write a recipe for it, after three questions at most.

    Example: sharpen init documents --llm none --questions questions.csv --minutes 10 --yes
    """
    from sharpen.recipes.beginning import Answers, default_llm, look, write_recipe

    console = Console()
    looked = look(folder)
    for line in looked.lines():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if llm is None:
        llm = default_llm()
        if not yes:
            llm = typer.prompt("Who writes queries: embedded, none, or an endpoint's URL and its model", default=llm)
            llm, _, named = llm.strip().partition(" ")
            model = named.strip() or model
    if questions is None and not yes:
        questions = typer.prompt(
            "Real questions (CSV file or BEIR folder; empty: none)", default="", show_default=False
        )
    if minutes is None:
        minutes = 20 if yes else typer.prompt("Minutes that it may take", default=20, type=int)
    answers = Answers(llm, model, api_key_env, questions or None, minutes)
    target = out or Path(f"{folder.resolve().stem or 'mine'}.yaml")
    for file in write_recipe(folder, target, looked, answers):
        console.print(f"written  {file}", highlight=False, soft_wrap=True)
    console.print(f"next     sharpen validate {target}, then sharpen run {target}", highlight=False, soft_wrap=True)
