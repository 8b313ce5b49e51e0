"""What a run left: its table, its stages, and its pairs in the layouts of other trainers."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from rich.console import Console

from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
from sharpen.evaluation.files import InputError, atomic_folder, check_new_folder
from sharpen.evaluation.report.comparison import Comparison
from sharpen.recipes.findings import with_caveats
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.report import counts_line
from sharpen.recipes.run import print_comparison, print_elsewhere
from sharpen.recipes.stages import GENERATIVE, STAGES
from sharpen.sdg.convert import NEGATIVES, convert
from sharpen.sdg.export import EXPORTS, TrainingData
from sharpen.sdg.negatives.record import kept_negatives


def show_run(folder: Path, console: Console) -> None:
    """Print the table and verdict of a finished run, and what each stage did. Raises ``InputError`` if it has none."""
    inputs = Inputs(folder)
    names = (*STAGES, *(name for name in GENERATIVE if name not in STAGES))
    manifests = {name: manifest for name in names if (manifest := inputs.manifest(name))}
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        comparisons = [Comparison.model_validate(m) for m in (metrics, metrics.get("reranker")) if m]
        others, groups = (
            {name: Comparison.model_validate(m) for name, m in metrics.get(part, {}).items()}
            for part in ("others", "groups")
        )
    except FileNotFoundError:
        hint = "give the folder of a run, like runs/quickstart"
        if manifests:
            hint = f"the stages done are {', '.join(manifests)}; `sharpen run` goes on from there"
        raise InputError(f"{folder}: no finished run ({hint})") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / 'metrics.json'}: not what `sharpen run` writes ({error})") from None
    for name, manifest in manifests.items():
        when = f"{manifest['seconds']:.0f} s, {manifest['started']}"
        console.print(f"{name:10} {counts_line(manifest['counts'])}  [dim]{when}[/]", highlight=False)
    comparisons[0] = with_caveats(comparisons[0], others, groups)
    for comparison in comparisons:
        print_comparison(comparison, console)
    print_elsewhere(others.values(), console)


def export_run(folder: Path, layout: str, target: Path, console: Console) -> dict[str, int]:
    """Write a run's pairs and negatives in another trainer's layout. Raises ``InputError`` for an unknown layout, a run
    without pairs, or a target that is there already."""
    if layout not in EXPORTS:
        near = difflib.get_close_matches(layout, EXPORTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(EXPORTS)}"
        raise InputError(f"--layout {layout}: no such layout; {hint}")
    pairs = folder / "pairs"
    if not (pairs / "queries.jsonl").exists():
        raise InputError(f"{folder}: no pairs there yet; give the folder of a run, like runs/quickstart")
    Inputs(folder).check_mined()
    check_new_folder(target)
    files = {split: pairs / "qrels" / f"{split}.tsv" for split in ("train", "dev", "test")}
    splits = {split: read_qrels(path) for split, path in files.items() if _has_rows(path)}
    mined, inputs = folder / "negatives" / "negatives.jsonl", Inputs(folder)
    train = splits.get("train", {})
    for row in inputs.negatives():
        if row.verdict == "relabelled" and row.query_id in train:  # the run's own training has it as a positive, too
            train[row.query_id].setdefault(row.doc_id, 1)
    data = TrainingData(
        folder.name,
        read_corpus(pairs / "corpus.jsonl"),
        read_queries(pairs / "queries.jsonl"),
        splits,
        kept_negatives(mined) if mined.exists() else {},
        inputs.written(),
        any((inputs.manifest(stage) or {"counts": {}})["counts"].get("decided") for stage in ("pairs", "negatives")),
    )
    with atomic_folder(target) as partial:
        counts = EXPORTS[layout](data, partial)
    console.print(f"{target}: {counts_line(counts)}", highlight=False, soft_wrap=True)
    return counts


def convert_folder(source: Path, target: Path, console: Console, min_quality: float) -> None:
    """Convert, and say what came of it and how a recipe takes it. Raises ``InputError`` as ``convert`` does."""
    counts = convert(source, target, min_quality)
    console.print(f"{target}: {counts_line(counts)}", highlight=False, soft_wrap=True)
    lines = [f"corpus: {{source: {target}, chunk: null}}", f"labelled: {{data: {target}, split: train, fraction: 1}}"]
    lines.append("queries: {strategies: [{kind: harvested}]}")
    if "negatives" in counts:
        lines.append(f"negatives: {{miners: [{{kind: given, data: {target / NEGATIVES}}}]}}")
    console.print(
        "in a recipe:\n" + "\n".join(f"  {line}" for line in lines), highlight=False, soft_wrap=True, markup=False
    )


def _has_rows(qrels: Path) -> bool:
    return qrels.exists() and sum(1 for _ in qrels.open(encoding="utf-8")) > 1
