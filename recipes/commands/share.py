"""Commands for a run that is done: hand it to others, and watch what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sharpen.recipes.arguments import RunArgument
from sharpen.recipes.quiet import quiet_libraries

app = typer.Typer()


@app.command()
def push(
    run: RunArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Name or owner/name of the repository.")],
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Push queries, documents and judgements as a dataset, in place of the model."),
    ] = False,
    texts: Annotated[
        bool,
        typer.Option(
            "--texts", help="Push what holds words of documents, too: a generative retriever, examples in the recipe."
        ),
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it. Default: private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and sizes; connect to nobody.")] = False,
) -> None:
    """Push a run's model with its card to the Hugging Face Hub: private, with the token in HF_TOKEN, and without any
    text of the documents unless --pairs or --texts asks for it. HF_ENDPOINT names another server.

    Example: sharpen push runs/mine me/handbook-retriever --dry-run
    """
    from sharpen.recipes.push import push_run

    push_run(run, repo, Console(), pairs=pairs, texts=texts, public=public, dry_run=dry_run)


@app.command()
def monitor(
    run: RunArgument,
    queries: Annotated[
        Path, typer.Option(metavar="FILE", help="Queries of today: .jsonl with text, .csv with question, or lines.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: monitor.json in the run's folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 13,
) -> None:
    """Say whether live queries have drifted from those that a run trained on: unknown words, length, language, and
    vectors, each beside held-out queries.

    Example: sharpen monitor runs/mine --queries log.jsonl
    """
    quiet_libraries()
    from sharpen.recipes.monitor import monitor_run

    monitor_run(run, queries, Console(), out, seed)
