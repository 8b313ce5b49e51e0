"""Running a recipe from start to verdict, and showing what a run left."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.files import InputError, atomic_folder, write_json, write_text
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.report.comparison import (
    Comparison,
    difference_table,
    make_comparison,
    markdown_table,
    sentence,
    table,
)
from sharpen.recipes.advice import advice
from sharpen.recipes.card import model_card
from sharpen.recipes.curves import draw_curves
from sharpen.recipes.engine import Context, run_stages
from sharpen.recipes.load import LoadedRecipe
from sharpen.recipes.report import counts_line, train_overlaps, write_report
from sharpen.recipes.stages import STAGES, check_inputs, stages_of
from sharpen.recipes.stages.comparison import evaluated_on, read_evaluation, read_other, read_scores
from sharpen.recipes.stages.negatives import read_written
from sharpen.sdg.export import EXPORTS, Labelled
from sharpen.sdg.negatives import kept_negatives

RESULTS = ("metrics.json", "report.md", "report.html", "recipe.yaml", "curves.png")


def run_recipe(loaded: LoadedRecipe, console: Console, context: Context | None = None) -> Comparison | None:
    """Run what is not up to date and write ``recipe.yaml``, ``metrics.json`` and ``report.md`` into the run's folder.

    ``context``: where the run's folder is, and what earlier runs of this program left in memory (default: as the recipe
    says, and nothing). Every process of ``accelerate launch`` must call this; the comparison is returned on the first
    one only.
    """
    recipe = loaded.recipe
    with process_state().main_process_first():  # it fetches a dataset that is not there
        check_inputs(recipe)
    context = context or Context(recipe, console)
    manifests = run_stages(stages_of(recipe), context, RESULTS)
    if not process_state().is_main_process:
        return None
    task = read_evaluation(context)
    comparison = _compare(
        context, task, ("before", "before"), ("after", "after"), bm25=read_scores(context, "before", "bm25")
    )
    reranking = _reranking(context, task)
    write_text(context.folder / "recipe.yaml", loaded.resolved_yaml)
    others = {
        name: _compare(
            context,
            read_other(context, other),
            ("before", f"other-{n}"),
            ("after", f"other-{n}"),
            queries_of=f"queries of {name}",
        )
        for n, (name, other) in enumerate(recipe.evaluation.others_by_name().items())
    }
    overlaps = train_overlaps(context, task)
    more = {"reranker": reranking.model_dump(mode="json")} if reranking else {}
    more |= {"others": {name: c.model_dump(mode="json") for name, c in others.items()}} if others else {}
    more["trained on"] = {name: found.model_dump(mode="json") for name, found in overlaps.items()}
    write_json(context.folder / "metrics.json", comparison.model_dump(mode="json") | more)
    draw_curves(
        {
            name: context.stage_folder(name) / "training_log.json"
            for name in ("training", "reranker")
            if name in manifests
        },
        context.folder / "curves.png",
    )
    sections = {"The reranker": [sentence(reranking), "", *markdown_table(reranking)]} if reranking else {}
    if cut := {
        str(d): _compare(context, task, ("before", f"before-{d}"), ("after", f"after-{d}"))
        for d in sorted(recipe.training.matryoshka, reverse=True)
    }:
        sections["Embeddings cut to their first numbers"] = difference_table("dimensions", cut)
    if others:
        sections["On other collections"] = difference_table("collection", others)
    if comparison.verdict != "better":
        sections["What to try"] = advice(context, comparison, manifests)
    write_report(context, comparison, task, sections, manifests, overlaps, loaded.resolved_yaml)
    write_text(context.stage_folder("model") / "README.md", model_card(context, comparison, others, manifests))
    write_text(context.stage_folder("model") / "recipe.yaml", loaded.resolved_yaml)
    for shown in (comparison, reranking):
        if shown:
            print_comparison(shown, console)
    _print_elsewhere(others.values(), console)
    console.print(
        f"\nreport   {context.folder / 'report.html'}\nmodel    {context.stage_folder('model')}\nmetrics "
        f" {context.folder / 'metrics.json'}",
        highlight=False,
    )
    return comparison


def _compare(
    context: Context, task: Task, first: tuple[str, str], second: tuple[str, str], **options: Any
) -> Comparison:
    """Of what two stages wrote: (stage, name of the scores)."""
    return make_comparison(
        read_scores(context, *first),
        read_scores(context, *second),
        **{"seed": context.recipe.seed, "queries_of": evaluated_on(context.recipe), "groups": task.groups} | options,
    )


def _reranking(context: Context, task: Task) -> Comparison | None:
    """The first stage and what the reranker makes of it; None where the recipe has no reranker."""
    part = context.recipe.reranker
    if part is None:
        return None
    first, name = (
        (("before", "bm25"), "BM25") if part.first_stage == "bm25" else (("after", "after"), "tuned retriever")
    )
    return _compare(
        context, task, first, ("reranked", "reranked"), names=(name, f"reranker over its first {part.depth}")
    )


def show_run(folder: Path, console: Console) -> None:
    """Print the table and verdict of a finished run, and what each stage did. Raises ``InputError`` if it has none."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        comparisons = [Comparison.model_validate(m) for m in (metrics, metrics.get("reranker")) if m]
        others = [Comparison.model_validate(m) for m in metrics.get("others", {}).values()]
    except FileNotFoundError:
        done = [s.name for s in STAGES if (folder / s.name / "manifest.json").exists()]
        state = (
            f"the stages done are {', '.join(done)}; `sharpen run` goes on from there"
            if done
            else "give the folder of a run, like runs/quickstart"
        )
        raise InputError(f"{folder}: no finished run ({state})") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / 'metrics.json'}: not what `sharpen run` writes ({error})") from None
    for stage in STAGES:
        path = folder / stage.name / "manifest.json"
        if not path.exists():  # removed since, to save space
            continue
        manifest = json.loads(path.read_text(encoding="utf-8"))
        console.print(
            f"{stage.name:10} {counts_line(manifest['counts'])}  [dim]{manifest['seconds']:.0f} s,"
            f" {manifest['started']}[/]",
            highlight=False,
        )
    for comparison in comparisons:
        print_comparison(comparison, console)
    _print_elsewhere(others, console)


def export_run(folder: Path, layout: str, target: Path, console: Console) -> dict[str, int]:
    """Write a run's pairs and negatives in another trainer's layout. Raises ``InputError`` for an unknown layout, a run
    without pairs, or a target that is there already."""
    if layout not in EXPORTS:
        near = difflib.get_close_matches(layout, EXPORTS, n=1)
        raise InputError(
            f"--layout {layout}: no such layout; "
            + (f"did you mean {near[0]}?" if near else f"there are {', '.join(EXPORTS)}")
        )
    pairs = folder / "pairs"
    if not (pairs / "queries.jsonl").exists():
        raise InputError(f"{folder}: no pairs there yet; give the folder of a run, like runs/quickstart")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a folder that does not, and nothing is written over")
    splits = {
        split: read_qrels(pairs / "qrels" / f"{split}.tsv")
        for split in ("train", "dev", "test")
        if _has_rows(pairs / "qrels" / f"{split}.tsv")
    }
    mined = folder / "negatives" / "negatives.jsonl"
    negatives = kept_negatives(mined) if mined.exists() else {}
    with atomic_folder(target) as partial:
        counts = EXPORTS[layout](
            Labelled(
                folder.name,
                read_corpus(pairs / "corpus.jsonl"),
                read_queries(pairs / "queries.jsonl"),
                splits,
                negatives,
                read_written(folder / "negatives"),
            ),
            partial,
        )
    console.print(f"{target}: {counts_line(counts)}", highlight=False, soft_wrap=True)
    return counts


def _has_rows(qrels: Path) -> bool:
    return qrels.exists() and sum(1 for _ in qrels.open(encoding="utf-8")) > 1


def print_comparison(comparison: Comparison, console: Console) -> None:
    if console.quiet:
        return
    header, rows = table(comparison)
    if console.is_terminal and console.width >= 100:
        view = Table(*header)
        for row in rows:
            view.add_row(*row)
        console.print(view)
    else:  # a log file, or a narrow window: columns that stay in line
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in [header, *rows]:
            print(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(),
                file=console.file,
            )
    console.print("\n" + sentence(comparison).replace("**", ""), highlight=False, soft_wrap=True)


def _print_elsewhere(others: Iterable[Comparison], console: Console) -> None:
    for comparison in others:
        console.print("Elsewhere: " + sentence(comparison).replace("**", ""), highlight=False, soft_wrap=True)
