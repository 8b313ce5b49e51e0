"""Commands that hand a model to those who serve it, and check what they serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sharpen.recipes.quiet import quiet_libraries

app = typer.Typer()

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart, or of a model; packaged:<name>."),
]
TextsOption = Annotated[
    str | None,
    typer.Option(help="A dataset's name or folder in BEIR layout, whose texts are encoded. Default: the run's."),
]


@app.command(name="export-model")
def export_model(
    run: ModelArgument,
    to: Annotated[str, typer.Option(help="onnx, openvino, int8 (ONNX with weights in 8 bits) or gguf (BERT models).")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A folder that is not there yet.")],
    data: TextsOption = None,
) -> None:
    """Write a run's model in another format, and say how near its vectors are.

    Example: sharpen export-model runs/quickstart --to gguf --out served
    """
    quiet_libraries()
    from sharpen.recipes.served import export_to

    export_to(run, to, out, data, Console())


@app.command()
def verify(
    run: ModelArgument,
    against: Annotated[str, typer.Option(metavar="URL", help="Of the server, as http://localhost:8080/v1.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="As the server calls it. Default: the first that it lists.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="The environment variable with the server's key. Default: none.")
    ] = None,
    data: TextsOption = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Ask without the model's prompts: the server is to put them before texts.")
    ] = False,
    min_cosine: Annotated[
        float,
        typer.Option(min=0, max=1, help="Mean cosine from which on it is this model; lower for weights in few bits."),
    ] = 0.9999,
) -> None:
    """Ask a server for vectors (OpenAI's /v1/embeddings: llama.cpp, vLLM, TEI, Ollama) and say whether it serves the
    run's model, or what it does otherwise: pooling, prompts, truncation, normalisation, case, another model. Exit
    status 1 if it does not.

    Example: sharpen verify runs/quickstart --against http://localhost:8080/v1
    """
    quiet_libraries()
    from sharpen.evaluation.verification.endpoint import Endpoint
    from sharpen.recipes.served import verify_server

    verdict = verify_server(run, Endpoint(against, model, api_key_env), Console(), data, bare, min_cosine)
    if not verdict.serves:
        raise typer.Exit(1)


@app.command()
def index(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as runs/quickstart, or of a model.")],
    to: Annotated[str, typer.Option(help="parquet, faiss or qdrant (its client's local mode).")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A folder that is not there yet.")],
    data: Annotated[
        str | None,
        typer.Option(help="Other documents: a dataset's name or folder, or a corpus.jsonl. Default: the run's."),
    ] = None,
) -> None:
    """Write a run's documents with the vectors of its model for a vector store.

    Example: sharpen index runs/quickstart --to qdrant --out documents.qdrant
    """
    quiet_libraries()
    from sharpen.recipes.served import index_to

    index_to(run, to, out, data, Console())
