"""Commands for looking at what a run's systems find: in the terminal, and on a page."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from sharpen.recipes.arguments import RunArgument
from sharpen.recipes.quiet import quiet_libraries

app = typer.Typer()

Who = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Stands with marks and decisions. Default: the login name."),
]


@app.command()
def search(
    run: RunArgument,
    query: Annotated[
        str | None, typer.Argument(help="What to search for. Default: asked for, again and again.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, max=50, help="Documents of each system.")] = 10,
    who: Who = None,
) -> None:
    """Search with BM25, the base, the tuned model, both fused and reranked, side by side, and say what moved and why.

    Without a query, results can be marked as relevant or not; the marks are judged queries that evaluation.data takes.

    Example: sharpen search runs/scifact "vitamin D and bone density" -n 5
    """
    from sharpen.evaluation.files import InputError
    from sharpen.recipes.serving.log import user
    from sharpen.recipes.serving.terminal import Terminal

    if query is not None and not query.strip():
        raise InputError("QUERY: give words to search for, or nothing, and queries are asked for")
    quiet_libraries()
    terminal = Terminal(run, Console(), number, who or user())
    if query is None:
        terminal.ask()
    else:
        terminal.search(query.strip())


@app.command()
def serve(
    run: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    who: Who = None,
) -> None:
    """Search a run's systems on a page of this machine, mark what they find, and go through pairs and negatives.

    The page needs no network, and only who has its printed address can use it. Marks and decisions are kept in the
    run's folder; the next run in it goes by the decisions.

    Example: sharpen serve runs/scifact --as Anna
    """
    from sharpen.evaluation.files import InputError

    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"sharpen serve: needs {package}; pip install 'sharpen[serve]'")
    from sharpen.recipes.serving.app import Looking, make_server, open_socket
    from sharpen.recipes.serving.log import user
    from sharpen.recipes.serving.systems import RunSystems

    quiet_libraries()
    console = Console()
    with open_socket(port) as listening:  # first: a port that is taken is known before models are loaded
        looking = Looking(RunSystems(run, console), who or user())
        looking.about()  # loads the models
        server, address = make_server(looking, listening)
        console.print(f"{address}\nCtrl-C ends it.", highlight=False, markup=False, soft_wrap=True)
        with suppress(KeyboardInterrupt):  # after it has ended well
            server.run(sockets=[listening])
