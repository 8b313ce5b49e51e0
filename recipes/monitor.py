"""Live queries beside those that a run trained on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from sharpen.evaluation.beir import QUERY_KEYS
from sharpen.evaluation.drift import Drift, drift
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.routes import prompt_of, route_of
from sharpen.evaluation.files import InputError, read_jsonl, write_json
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe

MONITOR = "monitor.json"
NO_LINES = (".json", ".yaml", ".yml", ".xml", ".html", ".parquet", ".xlsx")
"""Of files that hold queries otherwise than line by line."""


def monitor_run(run: Path, queries: Path, console: Console, out: Path | None = None, seed: int = 13) -> Drift:
    """Print and write (``monitor.json`` in the run's folder, or ``out``) how far the queries of a file are from those
    trained on. No query stands in it. Raises ``InputError`` for a run without a model, and as ``read_live`` does."""
    inputs = Inputs(run)
    if inputs.manifest("pairs") is None or inputs.manifest("model") is None:
        raise InputError(f"{run}: no finished run there; `sharpen run` makes one")
    live = read_live(queries)
    recipe = load_recipe(str(run)).recipe
    all_queries, train = inputs.queries(), inputs.train_queries()
    held_out = [query.text for i, query in all_queries.items() if i not in train]
    options = recipe.training
    model = load_encoder(
        options.base if recipe.generative else str(inputs.folder("model")), max_seq_length=options.max_seq_length
    )
    prompt, route = prompt_of(model, "query", options.query_prompt), route_of(model, "query")

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return encode(route, texts, prompt=prompt, precision=options.precision)

    documents = [document.content for document in inputs.corpus().values()]
    found = drift([q.text for q in train.values()], held_out, live, vectors, documents, seed)
    _show(found, console)
    write_json(out or run / MONITOR, found.model_dump(mode="json"))
    return found


def read_live(path: Path) -> list[str]:
    """The queries of a log: ``.jsonl`` or ``.ndjson`` with ``text`` (or ``query``, ``question``), ``.csv`` or ``.tsv``
    with such a column, and of any other file each line. Blank ones are left out. Raises ``InputError`` (file and line)
    for rows without a query, and for files whose lines are none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a log of queries, as .jsonl with text in each line")
    suffix = path.suffix.lower()
    if suffix in NO_LINES:
        raise InputError(
            f"{path}: {suffix} is not read line by line; give the queries as .jsonl, .csv or lines of text"
        )
    try:
        if suffix in (".jsonl", ".ndjson", ".gz"):
            rows = list(read_jsonl(path))
        elif suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                rows = [(reader.line_num, row) for row in reader]
        else:
            return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from None
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    texts = []
    for number, row in rows:
        given = [row[key] for key in QUERY_KEYS if row.get(key) is not None]
        text = next(filter(None, given), "" if given else None)  # of several the first that is not empty
        if not isinstance(text, str):
            raise InputError(f"{path}, line {number}: no query; give it as {', '.join(QUERY_KEYS[:3])}")
        if text.strip():
            texts.append(text)
    return texts


def _show(found: Drift, console: Console) -> None:
    console.print(
        f"{found.live:,} live queries{f' ({found.repeats:,} repeats of them left out)' if found.repeats else ''},"
        f" {found.trained:,} trained on, {found.held_out:,} like those and held out",
        highlight=False,
    )
    if found.figures:
        print(
            f"{'':14}{'held out':>9}{'live':>9}{'difference':>12}   {'95 % interval':22}{'p (Holm)':>9}  test",
            file=console.file,
        )
    for f in found.figures:
        interval = f"{f.interval[0]:+.3f} to {f.interval[1]:+.3f}"
        print(
            f"{f.name:14}{f.held_out:9.3f}{f.live:9.3f}{f.difference:+12.3f}   {interval:22}{f.p:9.4f}  {f.test}"
            f"{'  drift' if f.drifts else ''}",
            file=console.file,
        )
    console.print("\n" + found.sentence(), highlight=False, soft_wrap=True)
