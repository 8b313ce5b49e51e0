"""What a finished run of a retriever found: the verdict, and all that its report has beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpen.evaluation.datasets import Task, read_judged
from sharpen.evaluation.null_result import explain, measurements_table
from sharpen.evaluation.report.comparison import (
    Comparison,
    difference_table,
    lost_elsewhere,
    markdown_table,
    sentence,
)
from sharpen.evaluation.report.groups import (
    coverage_table,
    group_comparisons,
    groups_of_documents,
    lost_in_groups,
    unanswered,
)
from sharpen.evaluation.retrievers.base import RUN_DEPTH
from sharpen.evaluation.runs import read_run
from sharpen.recipes.advice import advice, measurements_of
from sharpen.recipes.card import model_card
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.report import Sections

DEPLOY, GROUPS = "Which system to deploy", "Groups of documents"
NOTHING_AT_HAND = (
    "What was lost elsewhere was not measured: no other collection is at hand. With a network,"
    " evaluation.others=[{data: NanoNFCorpus}] measures it; [] asks for nothing."
)


@dataclass(frozen=True)
class Findings:
    """``comparison``: the headline. ``metrics``: what ``metrics.json`` has beside its numbers. ``sections``: of the
    report, before those about the run. ``card``: the model's README. ``shown``: further comparisons to print;
    ``others``: those on other collections; ``groups``: those by groups of documents; ``lines``: what is printed
    last."""

    comparison: Comparison
    metrics: dict[str, Any]
    sections: Sections
    card: str
    shown: Sequence[Comparison] = ()
    others: Mapping[str, Comparison] = field(default_factory=dict)
    groups: Mapping[str, Comparison] = field(default_factory=dict)
    lines: Sequence[str] = ()

    def public(self) -> Comparison:
        """The headline without the names of folders."""
        return with_caveats(self.comparison, self.others, self.groups, named=False)


def retriever_findings(run: FinishedRun, task: Task) -> Findings:
    """Of a run that tuned an encoder, and perhaps a reranker."""
    others = run.others()
    comparison = run.compare(task, ("before", "before"), ("after", "after"), bm25=run.inputs.scores("before", "bm25"))
    reranking = run.reranking(task)
    systems = run.inputs.systems() if "systems" in run.manifests else None
    metrics: dict[str, Any] = {"reranker": reranking.model_dump(mode="json")} if reranking else {}
    metrics |= {"others": {name: c.model_dump(mode="json") for name, c in others.items()}} if others else {}
    # without the times, which are others each time
    timed = {"systems": {"__all__": {"milliseconds", "documents_per_second"}}}
    metrics |= {"systems": systems.model_dump(mode="json", exclude=timed)} if systems else {}
    sections: Sections = {DEPLOY: [systems.sentence(), "", *systems.markdown()]} if systems else {}
    sections |= {"The reranker": [sentence(reranking), "", *markdown_table(reranking)]} if reranking else {}
    if cut := run.cut(task):
        sections["Embeddings cut to their first dimensions"] = difference_table("dimensions", cut)
    add_ages(run, task, sections, metrics)
    groups = add_groups(run, task, comparison, sections, metrics)
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
    card = model_card(run, with_caveats(comparison, others, groups, named=False), others)
    comparison = with_caveats(comparison, others, groups)
    return Findings(comparison, metrics, sections, card, [reranking] if reranking else [], others, groups, lines)


def add_ages(run: FinishedRun, task: Task, sections: Sections, metrics: dict[str, Any]) -> None:
    """Of a run that goes on from an earlier one: what became of old documents, and of new ones."""
    if ages := run.by_age(task):
        sections["On documents that were there before, and on new ones"] = difference_table("documents", ages)
        metrics["documents"] = {name: c.model_dump(mode="json") for name, c in ages.items()}


def with_caveats(
    comparison: Comparison, others: Mapping[str, Comparison], groups: Mapping[str, Comparison], named: bool = True
) -> Comparison:
    """What is said with the verdict: what was lost on other collections, and by groups of documents. ``named``: as in
    ``lost_in_groups``."""
    caveats = (lost_elsewhere(others), lost_in_groups(groups, comparison, named))
    return comparison.model_copy(update={"caveat": " ".join(filter(None, caveats))})


def add_groups(
    run: FinishedRun, task: Task, comparison: Comparison, sections: Sections, metrics: dict[str, Any]
) -> dict[str, Comparison]:
    """The comparison by groups of documents, which documents have queries, and which queries nothing answers."""
    scores = tuple(run.inputs.scores(side, side) for side in ("before", "after"))
    corpus = run.inputs.corpus()
    groups = groups_of_documents(corpus)
    searched = groups if task.corpus is corpus else groups_of_documents(task.corpus)
    compared = group_comparisons(task, searched, scores, comparison, run.recipe.seed)
    runs = [read_run(run.inputs.folder(s) / f"{s}.trec", task.queries, task.known) for s in ("before", "after")]
    lost = unanswered(task, runs)
    trained = {corpus[i].doc_id for q in run.inputs.train_queries().values() for i in q.metadata["positives"]}
    lines = [*difference_table("documents", compared), ""] if compared else []
    if warning := lost_in_groups(compared, comparison):
        lines = [warning, "", *lines]
    lines += coverage_table(groups, {d.doc_id for d in corpus.values()}, trained)
    lines += [
        "",
        f"Of {len(task.queries):,} queries, {len(lost):,} have no relevant document among the first {RUN_DEPTH:,} of"
        " either system.",
    ]
    if data := run.recipe.evaluation.data:
        judged = read_judged(data, run.recipe.evaluation.split)[1]
        elsewhere = sum(any(g > 0 for g in grades.values()) and q not in task.qrels for q, grades in judged.items())
        lines[-1] += f" {elsewhere:,} more are answered by no document of this corpus, and were left out."
    sections[GROUPS] = lines
    metrics["groups"] = {name: c.model_dump(mode="json") for name, c in compared.items()}
    metrics["unanswered"] = len(lost)
    return compared


def _elsewhere(run: FinishedRun, others: Mapping[str, Comparison]) -> list[str]:
    """What became of the model on other collections; empty where the recipe asks for none."""
    if not others:
        return [NOTHING_AT_HAND] if run.recipe.evaluation.others else []
    lines = difference_table("collection", others)
    if lost := lost_elsewhere(others):
        lines += ["", f"{lost} A `training.base_weight` nearer to 1 keeps more of the base."]
    return lines
