"""Commands that measure and compare systems."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sharpen.recipes.arguments import Overrides
from sharpen.recipes.quiet import quiet_libraries

app = typer.Typer()


class PrecisionChoice(StrEnum):
    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


@app.command()
def evaluate(  # noqa: PLR0913 - an argument is an option of the command
    system: Annotated[
        str,
        typer.Argument(
            metavar="SYSTEM",
            help=(
                "A model's folder or name (dense, sparse or multi-vector), packaged:<name>, bm25, hybrid:<model>,"
                " fused:0.3:<model> (BM25 weighted"
                " 0.3), generative:<folder>, or a TREC run file (.trec, .run, .txt)."
            ),
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            help=(
                "A dataset of BEIR or NanoBEIR by name, a folder in BEIR layout, or a CSV or JSONL file with question"
                " and document; may be given again."
            )
        ),
    ],
    against: Annotated[str | None, typer.Option(metavar="SYSTEM", help="Another system to compare with.")] = None,
    split: Annotated[str, typer.Option(help="qrels/<split>.tsv of the data.")] = "test",
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="corpus.jsonl to search, where the data has none.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A cross-encoder that puts the first 100 in order.")
    ] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Put before every query. Default: the model's own.")] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Put before every document. Default: the model's own.")
    ] = None,
    max_seq_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens a text is cut to. Default: the model's own.")
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="What models compute in; auto: bf16 where the hardware has it.")
    ] = PrecisionChoice.auto,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Search by FAISS's cells, for many millions of documents.")
    ] = False,
    beams: Annotated[
        int | None,
        typer.Option(min=1, help="Of a generative retriever: documents a query gets. Default: the model's own."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="As ndcg@10,precision@5,map@100. Default: those of reports.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: runs/evaluate-<system>.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals and tests.")] = 13,
) -> None:
    """Evaluate a system on judged queries, or compare two. Also: accelerate launch -m sharpen.recipes evaluate ...

    Example: sharpen evaluate runs/mine/model --against bm25 --data questions --split test
    """
    quiet_libraries()
    from sharpen.evaluation.metrics import METRICS
    from sharpen.evaluation.processes import end_processes, process_state
    from sharpen.recipes.evaluate import EvaluationOptions, default_folder, evaluate_systems

    systems = [system] if against is None else [system, against]
    options = EvaluationOptions(
        split=split,
        corpus=corpus,
        metrics=METRICS if metrics is None else tuple(m.strip() for m in metrics.split(",")),
        rerank=rerank,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_seq_length=max_seq_length,
        precision=precision.value,
        approximate=approximate,
        beams=beams,
        seed=seed,
    )
    console = Console(quiet=not process_state().is_main_process)
    evaluate_systems(systems, data, out or default_folder(systems), console, options)
    end_processes()


@app.command()
def diff(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_A",
            help="Folder of a finished run, of a system that `sharpen evaluate` wrote, or a TREC run file.",
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another of the same queries.")],
    data: Annotated[str | None, typer.Option(help="What is right, for run files.")] = None,
    split: Annotated[str, typer.Option(help="qrels/<split>.tsv of the data.")] = "test",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: diff-A-B beside B.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals and tests.")] = 13,
) -> None:
    """Say whether run B is better than run A, query by query.

    Example: sharpen diff runs/first runs/second
    """
    quiet_libraries()
    from sharpen.recipes.evaluate import diff_runs

    diff_runs(first, second, Console(), data=data, split=split, out=out, seed=seed)


@app.command()
def compare(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help=(
                "A comparison: a recipe, seeds, datasets and arms with their overrides, as"
                " recipes/studies/small/compare.yaml."
            ),
        ),
    ],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, what of it is shared and what is done; run nothing.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, each with a GPU of its own or a share of the cores.")
    ] = 1,
) -> None:
    """Run all arms of a comparison with all seeds, at equal numbers of triplets, and say which differ from the
    baseline.

    Example: sharpen compare recipes/studies/small/compare.yaml --plan
    """
    quiet_libraries()
    from sharpen.recipes.study import compare_arms, show_plan

    if plan:
        show_plan(study, Console(), overrides or [])
    else:
        compare_arms(study, Console(), overrides or [], jobs)


@app.command()
def reproduce(
    everything: Annotated[bool, typer.Option("--all", help="Those too that need a network.")] = False,
) -> None:
    """Run the baselines of recipes/expected.yaml and compare; exit status 1 if one is off.

    Example: sharpen reproduce --all
    """
    quiet_libraries()
    from sharpen.recipes.reproduce import reproduce as run_baselines

    if not run_baselines(Console(), everything):
        raise typer.Exit(1)
