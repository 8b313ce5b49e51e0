"""From a finished run to use: searched, marked on its page, compared on the marks, exported, verified and indexed.

    python scripts/after_a_run.py runs/mine --out after

What a person would do by hand, with the run's own judged queries in the person's place: of ten of them the judged
document is marked as relevant on the page, and the best one that is not judged as not relevant. Needs the extras serve,
embedded (for its server of GGUF files) and qdrant, and a base that is a BERT. Ends with the first step that fails. Some
minutes, and those of the run's later stages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks.common import as_help

from sharpen.evaluation.datasets import read_judged
from sharpen.evaluation.export.reading import ExportInfo
from sharpen.evaluation.llama_cpp import serve_encoder
from sharpen.recipes.load import load_recipe

QUERIES = 10
SHARPEN = [sys.executable, "-m", "sharpen.recipes"]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=as_help(__doc__))
def main(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run with evaluation.data.")],
    out: Annotated[Path, typer.Option(help="A folder that is not there yet.")] = Path("after"),
) -> None:
    """Do it all."""
    out.mkdir(parents=True)
    evaluation = load_recipe(str(run), []).recipe.evaluation
    queries, qrels = read_judged(evaluation.data, evaluation.split)
    chosen = list(qrels)[:QUERIES]
    sharpen("search", str(run), queries[chosen[0]].text, "-n", "3")
    with serving(run) as ask:
        for query_id in chosen:
            mark(ask, queries[query_id].text, qrels[query_id])
        print("marked:", ask("about")["marked"])
    sharpen("run", str(run), f"evaluation.data={run / 'marks'}", "evaluation.split=test", f"name={run.name}-marked")
    sharpen("export-model", str(run), "--to", "openvino", "--out", str(out / "openvino"))
    sharpen("export-model", str(run), "--to", "gguf", "--out", str(out / "gguf"))
    with serve_encoder(out / "gguf" / "model.gguf", ExportInfo.read(out / "gguf").max_seq_length) as server:
        key = {"AFTER_A_RUN_KEY": server.api_key}
        sharpen("verify", str(run), "--against", server.base_url, "--api-key-env", *key, more=key)
    sharpen("index", str(run), "--to", "qdrant", "--out", str(out / "qdrant"))


def sharpen(*arguments: str, more: dict[str, str] | None = None) -> None:
    """A command of sharpen, whose failure ends the program."""
    print("sharpen", *arguments, flush=True)
    if status := subprocess.run([*SHARPEN, *arguments], env=os.environ | (more or {})).returncode:
        raise typer.Exit(status)


@contextmanager
def serving(run: Path) -> Iterator[Any]:
    """``sharpen serve`` for the length of the block: what asks its page's interface, as the page does."""
    command = [*SHARPEN, "serve", str(run), "--port", "0", "--as", "after_a_run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if line.startswith("http://"))
        address, _, token = line.strip().partition("/#token=")

        def ask(name: str, **body: Any) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            data = json.dumps(body).encode() if body else None
            with urllib.request.urlopen(urllib.request.Request(f"{address}/api/{name}", data, headers)) as answer:
                return json.load(answer)

        yield ask
    finally:
        process.terminate()
        process.wait()


def mark(ask: Any, query: str, judged: dict[str, int]) -> None:
    """One document of each kind."""
    found = ask("search", query=query)
    right = next(i for i, grade in judged.items() if grade > 0)
    hits = (hit["id"] for system in found["systems"].values() for hit in system["hits"])
    ask("mark", query=query, document=right, relevant=True)
    if wrong := next((i for i in hits if i not in judged), None):
        ask("mark", query=query, document=wrong, relevant=False)


if __name__ == "__main__":
    app()
