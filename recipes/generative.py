"""What a finished run of a generative retriever found, for its report and its model's card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from sharpen.evaluation.datasets import Task
from sharpen.evaluation.generative.analysis import Memory
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.comparison import (
    Comparison,
    code,
    difference_table,
    markdown_row,
)
from sharpen.evaluation.significance import estimate
from sharpen.recipes.card import SHARPEN, base_licence, card_page
from sharpen.recipes.findings import Findings, add_ages, add_groups, with_caveats
from sharpen.recipes.finished import FinishedRun
from sharpen.recipes.places import without_place
from sharpen.recipes.report import Sections
from sharpen.recipes.stages.generative_search import MOST_TEXTS, SYSTEMS_COMPARED

NAMES = ("base encoder", "generative retriever")
SHOWN = ("hit_rate@1", "hit_rate@4", "hit_rate@5", "hit_rate@10", "map@10", "mrr@10", PRIMARY)
"""As the paper's tables have them, and the primary metric."""
UNREACHED_SHOWN = 20
REMEMBERS = 0.9
"""Of the pieces of its documents: a model that is asked for fewer of them rightly has not learnt its corpus."""


def generative_findings(run: FinishedRun, task: Task) -> Findings:
    """Of a run that trained a language model to write identifiers."""
    compared = run.compare(
        task, ("before", "before"), ("after", "after"), bm25=run.inputs.scores("before", "bm25"), names=NAMES
    )
    memory = Memory.model_validate(run.inputs.diagnosis())
    beside = _beside(run, task)
    sections: Sections = {
        "Beside other systems": _systems_table(run, task, beside),
        "What the model remembers": _memory(memory),
        "Training in two stages": _stages(run),
    }
    metrics: dict[str, Any] = {
        "systems": {name: c.model_dump(mode="json") for name, c in beside.items()},
        "memory": memory.model_dump(mode="json"),
    }
    add_ages(run, task, sections, metrics)
    groups = add_groups(run, task, compared, sections, metrics)
    card = _card(run, with_caveats(compared, {}, groups, named=False), memory)
    compared = with_caveats(compared, {}, groups)
    lines = []
    if compared.verdict != "better":
        reason = why(memory)
        sections["Why"] = [reason]
        metrics["why"] = reason
        lines = ["\n" + reason.replace("**", "").replace("`", "")]
    return Findings(compared, metrics, sections, card, groups=groups, lines=lines)


def why(memory: Memory) -> str:
    """The nearest cause of a generative retriever that is no better than an encoder, from what was measured.

    >>> memory = Memory(texts=9, first=0.4, found=0.6, documents=9, unreached=["a"], failures={}, queries=5)
    >>> why(memory)[:61]
    '**It has not learnt its documents**: of 9 pieces of them it n'
    """
    if not memory.trained:
        return (
            f"**It was not trained on its documents** (`generative.context: false`): of {memory.texts:,} pieces of them"
            f" it names the right document for {memory.first:.0%}."
        )
    if memory.first < REMEMBERS:
        return (
            f"**It has not learnt its documents**: of {memory.texts:,} pieces of them it names the right document for"
            f" {memory.first:.0%}. Train longer or at a higher rate (`generative.epochs`, `generative.learning_rate`),"
            " or take a larger model (`generative.base`)."
        )
    lost = sum(memory.failures.values())
    beginning = memory.failures.get("wrong beginning", 0)
    what = (
        f"and {beginning:,} of the {lost:,} queries that it fails begin with another document's identifier"
        if lost
        else "and it finds the document of each query, if not as the first"
    )
    return (
        f"**It knows its documents and not their queries**: of {memory.texts:,} pieces it names the right document for"
        f" {memory.first:.0%}, {what}. What helps is queries that are more, and more like those that people ask:"
        " `queries.strategies` (sentences, metadata), a larger `llm`."
    )


def _beside(run: FinishedRun, task: Task) -> dict[str, Comparison]:
    """Each other system against the generative retriever."""
    return {
        name: run.compare(task, ("after", "after"), ("after", file), names=(NAMES[1], name))
        for name, file in SYSTEMS_COMPARED.items()
        if run.inputs.scores("after", file)  # evaluation.bm25 may be false
    }


def _systems_table(run: FinishedRun, task: Task, beside: dict[str, Comparison]) -> list[str]:
    rows = [markdown_row(["system", *SHOWN]), markdown_row(["---"] * (1 + len(SHOWN)))]
    for name, file in ({NAMES[1]: "after"} | SYSTEMS_COMPARED).items():
        if (scores := run.inputs.scores("after", file)) is None:
            continue
        means = (estimate(scores[metric], run.recipe.seed, task.groups) for metric in SHOWN)
        cells = [f"{m.value:.4f} ± {(m.interval[1] - m.interval[0]) / 2:.3f}" for m in means]
        rows.append(markdown_row([name, *cells]))
    return [
        *rows,
        "",
        f"Each against the generative retriever, {PRIMARY}; fusion is by reciprocal ranks:",
        "",
        *difference_table("system", beside),
    ]


def _memory(memory: Memory) -> list[str]:
    lines = [
        f"Of {memory.texts:,} pieces of documents, {'on which' if memory.trained else 'on none of which'} it was"
        f" trained, it writes the right identifier first for {memory.first:.1%}, and among its beams for"
        f" {memory.found:.1%} (Context2ID accuracy).",
        "",
        f"{len(memory.unreached):,} of the {memory.documents:,} documents that were looked for (at most"
        f" {MOST_TEXTS:,} pieces and as many training queries, drawn) were found by none of these.",
    ]
    if memory.unreached:
        shown = ", ".join(code(i) for i in memory.unreached[:UNREACHED_SHOWN])
        more = len(memory.unreached) - UNREACHED_SHOWN
        lines[-1] += f" These are {shown}{f' and {more:,} more' if more > 0 else ''}."
    if lost := sum(memory.failures.values()):
        by_cause = ", ".join(f"{n:,} by a {cause}" for cause, n in memory.failures.items())
        lines += ["", f"Of {memory.queries:,} queries compared on, {lost:,} did not find a document: {by_cause}."]
    return lines


def _stages(run: FinishedRun) -> list[str]:
    first, second = (run.manifests[name]["counts"] for name in ("training", "model"))
    lines = [
        f"1. Identifiers from texts and queries: {first['contexts']:,} pieces of documents (Context2ID) and"
        f" {first['queries']:,} queries (Query2ID), {first['steps']:,} steps."
    ]
    if run.inputs.has_log("model"):
        lines.append(
            f"2. Preferences: {second['pairs']:,} pairs from {second['queries']:,} queries, of which"
            f" {second['first']:,} found their document first; {second['steps']:,} steps."
        )
    elif "pairs" in second:
        lines.append(
            f"2. Preferences: of {second['queries']:,} queries {second['first']:,} found their document first, and no"
            " pair was left; the model is the first stage's."
        )
    else:
        lines.append("2. Preferences: the recipe trains none (`generative.preferences`).")
    return lines


def _card(run: FinishedRun, comparison: Comparison, memory: Memory) -> str:
    generative, name = run.recipe.generative, run.recipe.name
    base = without_place(generative.base)
    number, kind = run.manifests["identifiers"]["counts"]["identifiers"], generative.identifiers.kind
    facts = {
        "base": f"`{base}`, licence: {base_licence(generative.base) or 'see there'}",
        "documents": f"{Path(run.recipe.corpus.source).name}, {number:,} identifiers of kind {kind}",
        "remembered": f"{memory.first:.1%} of the pieces of its documents",
        "compared on": f"{comparison.queries:,} {comparison.queries_of}",
    }
    what = (
        f"`{base}`, tuned with {SHARPEN} to write the identifier of the document that answers a query; they"
        " are in `identifiers.jsonl`, and a search writes nothing else."
    )
    use = ["```bash", "sharpen evaluate generative:this-folder --data my/questions", "```"]
    metadata = ModelCardData(library_name="transformers", tags=["generative-retrieval", "sharpen"])
    return card_page(metadata, [f"# {name}", "", what], comparison, facts, use)
