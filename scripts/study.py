"""Run a recipe with several settings and seeds, and print one line of a table for each setting.

    .venv/bin/python scripts/study.py scripts/studies/scifact_strategies.yaml [key.path=value ...]

The study names the recipe, overrides for all runs, the seeds, and the arms with their overrides. All runs of a seed share one
folder, runs/<study>-<seed>, so that stages which a setting does not change from one arm to the next are done once; the scores
of each run are kept in runs/<study>.scores, so a study that was interrupted goes on where it was. The difference is the mean
over the seeds; its interval is a paired bootstrap of each query's mean over the seeds, with queries about the same document
drawn together.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from ruamel.yaml import YAML

from evaluation.datasets import read_judged
from evaluation.files import write_json
from evaluation.significance import compare, document_groups
from recipes.engine import Context
from recipes.load import load_recipe
from recipes.run import run_recipe
from recipes.stages.comparison import read_scores


def main(study_file: Path, more: list[str]) -> None:
    cache: dict[str, Any] = {}
    study = YAML(typ="safe").load(study_file.read_text(encoding="utf-8"))
    evaluation = load_recipe(study["recipe"], [*study["overrides"], *more]).recipe.evaluation
    groups = document_groups(read_judged(evaluation.data, evaluation.split)[1])
    print("| setting | queries | before | after | difference | 95 % interval | p | by seed |\n| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for arm, overrides in study["arms"].items():
        common = [*study["overrides"], *(overrides or []), *more]
        runs = [_scores(study["recipe"], [*common, f"seed={seed}", f"name={study_file.stem}-{seed}"], study_file.stem, f"{arm}-{seed}", cache) for seed in study["seeds"]]
        before = runs[0]["before"]
        after = {query: fmean(run["after"][query] for run in runs) for query in before}
        d = compare(before, after, study["seeds"][0], groups)
        by_seed = ", ".join(f"{fmean(run['after'].values()) - fmean(before.values()):+.4f}" for run in runs)
        queries = fmean(run["queries"] for run in runs)
        print(f"| {arm} | {queries:.0f} | {fmean(before.values()):.4f} | {fmean(after.values()):.4f} | {d.value:+.4f} | {d.interval[0]:+.4f} to {d.interval[1]:+.4f} | {d.p:.3f} | {by_seed} |", flush=True)


def _scores(recipe: str, overrides: list[str], study: str, label: str, cache: dict[str, Any]) -> dict[str, Any]:
    """nDCG@10 by query before and after, and the number of queries trained on: of a run now, or of the same one earlier."""
    loaded = load_recipe(recipe, overrides)
    context = Context(loaded.recipe, Console(quiet=True))
    digest = hashlib.sha256(loaded.resolved_yaml.encode()).hexdigest()
    kept = context.folder.parent / f"{study}.scores" / (re.sub(r"\W+", "-", label) + ".json")
    if kept.exists() and (scores := json.loads(kept.read_text(encoding="utf-8")))["recipe"] == digest:
        return scores
    run_recipe(loaded, context.console, cache)
    before, after = (read_scores(context, stage, stage)["ndcg@10"] for stage in ("before", "after"))
    queries = json.loads((context.stage_folder("pairs") / "manifest.json").read_text(encoding="utf-8"))["counts"]["train"]
    scores = {"recipe": digest, "before": before, "after": after, "queries": queries}
    write_json(kept, scores)
    return scores


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
