"""The command ``sharpen``."""

from __future__ import annotations

import sys

import typer

from sharpen.recipes.commands import begin, finished, looking, measure, recipe, served, share

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turn a folder of documents into a retriever that is measurably better on them.",
)
for commands in (begin, recipe, finished, looking, measure, served, share):
    app.add_typer(commands.app)


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
