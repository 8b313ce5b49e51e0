"""A run's negatives on a sheet for people, and what their labels say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from sharpen.evaluation.files import InputError
from sharpen.evaluation.significance import document_groups
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.tables import numbers_table
from sharpen.sdg.negatives.audit import LABELS, audit, draw_negatives, read_sheets, write_sheet


def make_sheet(folder: Path, path: Path, per_miner: int, console: Console) -> None:
    """Write a sheet of a run's kept negatives, so many of each miner. Raises ``InputError`` if the run has none, and as
    ``write_sheet`` does."""
    inputs = Inputs(folder)
    drawn = draw_negatives(_negatives(inputs), per_miner)
    positives = document_groups(inputs.qrels("train"))
    write_sheet(path, drawn, inputs.queries(), positives, inputs.training_corpus())
    labels = ", ".join(LABELS)
    console.print(
        f"{len(drawn):,} negatives in {path}\nGive each person a copy, to write one of these into the column label:"
        f" {labels}. Then: sharpen negatives {folder} --labels {path} --labels ...",
        highlight=False,
        soft_wrap=True,
    )


def show_labels(folder: Path, paths: Sequence[Path], console: Console) -> None:
    """Print the fractions of the labels by miner, and how far people agree. Raises ``InputError`` as ``read_sheets``
    does."""
    negatives = _negatives(Inputs(folder))
    found = audit(read_sheets(paths, negatives).values(), negatives)
    table = numbers_table("miner", "negatives", *LABELS)
    for miner, fractions in found.fractions.items():
        cells = (fractions[label] for label in LABELS)
        shown = [f"{e.value:.0%} ({e.interval[0]:.0%} to {e.interval[1]:.0%})" for e in cells]
        table.add_row(escape(miner), f"{found.items[miner]:,}", *shown)
    console.print(table)
    if found.alpha is not None:
        agreed = (
            "" if found.alpha >= 0.667 else ": too little to conclude from (below 0.667); agree on what the labels mean"
        )
        console.print(f"Krippendorff's alpha {found.alpha:.2f}{agreed}", highlight=False, soft_wrap=True)
    elif len(paths) > 1:
        console.print("No two people labelled the same negative, or all labels are the same: no agreement to measure")


def _negatives(inputs: Inputs):
    inputs.check_mined()
    if not (rows := inputs.negatives()):
        raise InputError(f"{inputs.run}: no negatives there; give the folder of a run that mined some")
    return rows
