"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, the name of one that `sharpen recipes` lists, or a run's folder, to go on.",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE | PART]...",
        help=(
            "Overrides, as in training.epochs=2 name=longer, or files with a part of a recipe, as strategies/sentence."
        ),
    ),
]


Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="Take what this stage needs as it lies in the run's folder, by whatever recipe it was made.",
    ),
]
