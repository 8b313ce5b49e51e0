"""What of a finished run may leave the machine: settings, numbers and a report without a text of documents or
queries."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from sharpen.evaluation.files import slug, write_json, write_text
from sharpen.evaluation.report.comparison import Comparison, markdown
from sharpen.recipes.findings import DEPLOY
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.places import without_place
from sharpen.recipes.report import REJECTED, SELECTION, Sections, report_sections
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.trackers import Outcome, open_trackers

TOLD = "told.json"
"""Of a run's folder: the trackers that have its results."""
WITHOUT_TEXTS = (
    DEPLOY,
    "The reranker",
    "Embeddings cut to their first dimensions",
    "On documents that were there before, and on new ones",
    "On other collections",
    "Beside other systems",
    "Why",
    "What to try",
    SELECTION,
    "Time and cost",
    "Queries by strategy",
    "Truncated texts",
    REJECTED,
)
"""Sections of a report that have numbers and names of settings, and nothing of a document or query."""
_TEXT_PARTS = ("training", "reranker", "generative")
"""Parts of a recipe whose words name losses and models, and cannot be anything that a person wrote for an LLM."""


def trackers_of(recipe: Recipe) -> list[str]:
    """The trackers of all trainings of a recipe, each once."""
    generative = recipe.generative
    parts = (generative, generative.preferences) if generative else (recipe.training, recipe.reranker)
    return list(dict.fromkeys(tracker for part in parts if part for tracker in part.trackers))


def public_report(run: FinishedRun, comparison: Comparison, sections: Sections) -> str:
    """The report in Markdown, without a text of documents or queries. ``sections``: those that come first."""
    all_sections = sections | report_sections(run)
    kept = {name: all_sections[name] for name in WITHOUT_TEXTS if name in all_sections}
    return markdown(run.recipe.name, comparison, kept)


def told_trackers(folder: Path) -> set[str]:
    """The trackers that have a run's results."""
    path = folder / TOLD
    return set(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else set()


def track(
    run: FinishedRun,
    comparison: Comparison,
    sections: Sections,
    logs: Mapping[str, dict],
    told: Collection[str],
    console: Console,
) -> None:
    """Tell each of the recipe's trackers, but for those that were ``told``. One that fails is a warning: the run itself
    is whole. ``logs``: of the trainings, by name."""
    told = set(told)
    for tracker in trackers_of(run.recipe):
        if tracker in told:
            continue
        try:
            with (
                tempfile.TemporaryDirectory() as scratch,
                open_trackers([tracker], run.folder, run.recipe.name) as tells,
            ):
                report = Path(scratch) / "report.md"
                write_text(report, public_report(run, comparison, sections))
                curves = run.folder / "curves.png"
                outcome = Outcome(
                    settings_of(run.recipe) | {"verdict": comparison.verdict},
                    metrics_of(run, comparison),
                    curves_of(logs),
                    report,
                    [curves] if curves.exists() else [],
                )
                for tell in tells:
                    tell(outcome)
        except Exception as error:  # another's program and perhaps a network: whatever it is, the run is done
            console.print(
                f"[yellow]![/] {tracker} was not told of the result ({type(error).__name__}: {escape(str(error))});"
                " the same command with this tracker tells it again",
                highlight=False,
                soft_wrap=True,
            )
        else:
            told.add(tracker)
            write_json(run.folder / TOLD, sorted(told))
            console.print(f"[green]✓[/] {tracker:10} told of the result", highlight=False)


def metrics_of(run: FinishedRun, comparison: Comparison) -> dict[str, float]:
    """Before, after and their difference with interval and p, and what the stages counted.

    Names have letters, digits, ``_`` and ``/`` only, as some trackers take nothing else.
    """
    metrics: dict[str, float] = {}
    for side in ("bm25", "before", "after"):
        for metric, estimate in (getattr(comparison, side) or {}).items():
            metrics[f"{side}/{_named(metric)}"] = estimate.value
    for metric, difference in comparison.delta.items():
        low, high = difference.interval
        values = {"difference": difference.value, "difference_low": low, "difference_high": high, "p": difference.p}
        metrics |= {f"{name}/{_named(metric)}": value for name, value in values.items()}
    for stage, manifest in run.manifests.items():
        metrics |= {f"{stage}/{name}": value for name, value in _numbers(manifest["counts"])}
        metrics[f"{stage}/seconds"] = manifest["seconds"]
    return metrics


def settings_of(recipe: Recipe) -> dict[str, str | float]:
    """Numbers and switches of a recipe by their keys, and names of models and losses; a path by its last part."""
    settings = dict(_flat(recipe.model_dump(mode="json", exclude={"llm"})))
    if recipe.llm:
        settings["llm"] = recipe.llm.model or Path(recipe.llm.embedded).name
    return settings


def curves_of(logs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Losses, learning rates and validations by step."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, log in logs.items():
        for row in (*log["log"], *log["validated"]):
            for key, value in row.items():
                if key not in ("step", "epoch"):
                    curves.setdefault(f"{name}/{_named(key)}", []).append((row["step"], value))
    return curves


def _named(metric: str) -> str:
    return slug(metric.replace("@", "_at_")).replace("-", "_")


def _numbers(counts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in counts.items():
        if isinstance(value, dict) and value and all(isinstance(v, int | float) for v in value.values()):
            value = sum(value.values())
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield _named(name), value


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str | float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{without_place(name)}".lstrip("."))
    elif isinstance(value, bool | int | float):
        yield key, value
    elif isinstance(value, str) and key.startswith(_TEXT_PARTS) and not key.endswith("prompt"):
        yield key, without_place(value)
