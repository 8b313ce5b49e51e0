"""What a finished run of a retriever found: the verdict, and all that its report has beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpen.evaluation.datasets import Task
from sharpen.evaluation.null_result import explain, measurements_table
from sharpen.evaluation.report.comparison import (
    Comparison,
    difference_table,
    lost_elsewhere,
    markdown_table,
    sentence,
)
from sharpen.recipes.advice import advice, measurements_of
from sharpen.recipes.card import model_card
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.report import Sections

NOTHING_AT_HAND = (
    "What was lost elsewhere was not measured: no other collection is at hand. With a network,"
    " evaluation.others=[{data: NanoNFCorpus}] measures it; [] asks for nothing."
)


@dataclass(frozen=True)
class Findings:
    """``comparison``: the headline. ``metrics``: what ``metrics.json`` has beside its numbers. ``sections``: of the
    report, before those about the run. ``card``: the model's README. ``shown``: further comparisons to print;
    ``others``: those on other collections; ``lines``: what is printed last."""

    comparison: Comparison
    metrics: dict[str, Any]
    sections: Sections
    card: str
    shown: Sequence[Comparison] = ()
    others: Mapping[str, Comparison] = field(default_factory=dict)
    lines: Sequence[str] = ()


def retriever_findings(run: FinishedRun, task: Task) -> Findings:
    """Of a run that tuned an encoder, and perhaps a reranker."""
    others = run.others()
    comparison = run.compare(task, ("before", "before"), ("after", "after"), bm25=run.inputs.scores("before", "bm25"))
    comparison = comparison.model_copy(update={"caveat": lost_elsewhere(others)})
    reranking = run.reranking(task)
    systems = run.inputs.systems() if "systems" in run.manifests else None
    metrics: dict[str, Any] = {"reranker": reranking.model_dump(mode="json")} if reranking else {}
    metrics |= {"others": {name: c.model_dump(mode="json") for name, c in others.items()}} if others else {}
    # without the times, which are others each time
    timed = {"systems": {"__all__": {"milliseconds", "documents_per_second"}}}
    metrics |= {"systems": systems.model_dump(mode="json", exclude=timed)} if systems else {}
    sections: Sections = {"Which system to deploy": [systems.sentence(), "", *systems.markdown()]} if systems else {}
    sections |= {"The reranker": [sentence(reranking), "", *markdown_table(reranking)]} if reranking else {}
    if cut := run.cut(task):
        sections["Embeddings cut to their first dimensions"] = difference_table("dimensions", cut)
    add_ages(run, task, sections, metrics)
    if elsewhere := _elsewhere(run, others):
        sections["On other collections"] = elsewhere
    lines = [NOTHING_AT_HAND] if run.recipe.evaluation.others and not others else []
    if comparison.verdict != "better":
        measured = measurements_of(run)
        why = explain(measured, comparison)
        metrics["why"] = why.model_dump(mode="json") | {"measured": measured.model_dump(mode="json")}
        sections["Why"] = [why.markdown(), "", *measurements_table(measured, comparison)]
        sections["What to try"] = advice(run, comparison)
        lines.append("\n" + why.plain())
    if systems:
        lines.append("\n" + systems.plain())
    card = model_card(run, comparison, others)
    return Findings(comparison, metrics, sections, card, [reranking] if reranking else [], others, lines)


def add_ages(run: FinishedRun, task: Task, sections: Sections, metrics: dict[str, Any]) -> None:
    """Of a run that goes on from an earlier one: what became of old documents, and of new ones."""
    if ages := run.by_age(task):
        sections["On documents that were there before, and on new ones"] = difference_table("documents", ages)
        metrics["documents"] = {name: c.model_dump(mode="json") for name, c in ages.items()}


def _elsewhere(run: FinishedRun, others: Mapping[str, Comparison]) -> list[str]:
    """What became of the model on other collections; empty where the recipe asks for none."""
    if not others:
        return [NOTHING_AT_HAND] if run.recipe.evaluation.others else []
    lines = difference_table("collection", others)
    if lost := lost_elsewhere(others):
        lines += ["", f"{lost} A `training.base_weight` nearer to 1 keeps more of the base."]
    return lines
