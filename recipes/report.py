"""The pages that a run leaves for people: ``report.md`` and ``report.html``, made from the same sections."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sharpen.evaluation.beir import read_queries
from sharpen.evaluation.contamination import Overlap, overlap
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.files import write_text
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.by_query import SHOWN, QueryChange, query_changes, slices
from sharpen.evaluation.report.charts import curves
from sharpen.evaluation.report.comparison import Comparison, code, kinds_table, markdown
from sharpen.evaluation.report.page import page
from sharpen.evaluation.runs import read_run
from sharpen.recipes.engine import Context
from sharpen.recipes.stages.comparison import read_scores
from sharpen.recipes.stages.corpus import read_own_corpus
from sharpen.recipes.stages.model import read_choice
from sharpen.recipes.stages.negatives import read_training_corpus
from sharpen.recipes.stages.pairs import train_queries
from sharpen.sdg.negatives import kept_negatives
from sharpen.sdg.queries import LABELLED

SAMPLES = 12
WON, LOST = "Queries won most (nDCG@10)", "Queries lost most (nDCG@10)"


def write_report(
    context: Context,
    comparison: Comparison,
    task: Task,
    first: dict[str, list[str]],
    manifests: dict[str, dict[str, Any]],
    overlaps: dict[str, Overlap],
    resolved: str,
) -> None:
    """Write both pages. ``first``: sections that come before those about the run itself; ``resolved``: the recipe in
    full."""
    scores = tuple(read_scores(context, stage, stage) for stage in ("before", "after"))
    runs = tuple(
        read_run(context.stage_folder(stage) / f"{stage}.trec", task.queries, task.known)
        for stage in ("before", "after")
    )
    changes = query_changes(task, runs, scores)
    kinds = slices(task, changes, scores, context.recipe.seed, comparison)
    about = _about(context, manifests, overlaps)
    queries = {
        WON: _moved([c for c in changes if c.difference > 0]),
        LOST: _moved([c for c in changes if c.difference < 0]),
    }
    shown = {"Kinds of queries": kinds_table(kinds)}
    recipe = [
        "`recipe.yaml` in this folder is the recipe with every default filled in; `sharpen run` with it repeats the"
        " run."
    ]
    pictures = {"What was kept": [*about["What was kept"], "", "![learning curves](curves.png)"]}
    write_text(
        context.folder / "report.md",
        markdown(context.recipe.name, comparison, first | shown | about | pictures | queries | {"The recipe": recipe}),
    )
    fence = "`" * 12  # longer than any in the recipe
    sections = first | about | {"The recipe": [*recipe, "", fence, *resolved.splitlines(), fence]}
    write_text(
        context.folder / "report.html",
        page(context.recipe.name, comparison, changes, kinds, sections, {"What was kept": _curves(context)}),
    )


def train_overlaps(context: Context, task: Task) -> dict[str, Overlap]:
    """What of the comparison's queries and relevant documents was trained on."""
    corpus, trained = read_own_corpus(context), train_queries(context)
    relevant = {i for grades in task.qrels.values() for i, grade in grades.items() if grade > 0}
    texts = {d.id: d.content for d in task.corpus.values() if (d.doc_id if task.by_document else d.id) in relevant}
    positives = {i: corpus[i].content for q in trained.values() for i in q.metadata["positives"]}
    return {
        "queries": overlap(task.texts, {q.id: q.text for q in trained.values()}),
        "relevant documents": overlap(texts, positives),
    }


def counts_line(counts: dict[str, Any]) -> str:
    """A stage's counts in one line."""
    flat = [(k.replace("_", " "), v) for k, v in counts.items() if not isinstance(v, dict)]
    nested = [(f"{k}: {reason}", n) for k, v in counts.items() if isinstance(v, dict) for reason, n in v.items()]
    return ", ".join(f"{v:,} {k}" if isinstance(v, int) else f"{k} {v:.3f}" for k, v in flat + nested if v is not None)


def _moved(changes: list[QueryChange]) -> list[str]:
    lines = []
    for change in changes[:SAMPLES]:
        lines.append(f"- {change.difference:+.3f}  {code(change.text or change.query_id)}")
        lines += [
            f"    - relevant document {code(i)}: {_rank(first)} before, {_rank(second)} after"
            for i, first, second in change.relevant_ranks
        ]
        lines += [
            f"    - {word} the first {SHOWN}, rank {hit.rank}: {code(hit.doc_id)} {code(hit.text)}"
            for word, hits in (("left", change.gone), ("came into", change.come))
            for hit in hits
            if not hit.grade
        ][:4]
    return lines or ["none"]


def _rank(rank: int | None) -> str:
    return f"rank {rank}" if rank else "not found"


def _about(
    context: Context, manifests: dict[str, dict[str, Any]], overlaps: dict[str, Overlap]
) -> dict[str, list[str]]:
    stages = ["| stage | counts | seconds |", "| --- | --- | --- |"]
    stages += [f"| {name} | {counts_line(m['counts'])} | {m['seconds']:.0f} |" for name, m in manifests.items()]
    return {
        "What was kept": _kept(context),
        "What it took": [*stages, "", *_cost(manifests)],
        "Queries that were thrown away": _rejected(manifests),
        "What of the comparison was trained on": _overlapping(overlaps),
        "Some of what was trained on": _samples(context),
    }


def _cost(manifests: dict[str, dict[str, Any]]) -> list[str]:
    counts = manifests["queries"]["counts"]
    seconds = sum(m["seconds"] for m in manifests.values())
    said = f"In all {seconds / 60:.1f} minutes of the runs that made these stages"
    if "prompt_tokens" in counts:
        said += (
            f"; the language model read {counts['prompt_tokens']:,} tokens ({counts.get('cached_tokens', 0):,} of them"
            f" cached) and wrote {counts['completion_tokens']:,}"
        )
    if "money" in counts:
        said += f", for {counts['money']}"
    return [said + "."]


def _rejected(manifests: dict[str, dict[str, Any]]) -> list[str]:
    reasons: Counter[str] = Counter()
    for stage in ("queries", "pairs"):
        reasons.update(manifests[stage]["counts"].get("rejected", {}))
    if not reasons:
        return ["None."]
    asked = manifests["queries"]["counts"].get("asked", 0)
    share = lambda n: f"{n / asked:.1%}" if asked else ""  # noqa: E731
    return [
        "| reason | queries | of those asked for |",
        "| --- | --- | --- |",
        *(f"| {reason.replace('|', '¦')} | {n:,} | {share(n)} |" for reason, n in reasons.most_common()),
    ]


def _overlapping(overlaps: dict[str, Overlap]) -> list[str]:
    lines = ["| | compared on | the same in training | nearly the same |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {o.of:,} | {o.exact:,} | {o.near:,} |" for name, o in overlaps.items()]
    if any(o.exact + o.near for name, o in overlaps.items() if name == "queries"):
        lines += [
            "",
            "**Queries of the comparison are among those trained on:** the gain is not what new ones would bring. For"
            " example " + ", ".join(f"{code(a)} is {code(b)}" for a, b in overlaps["queries"].examples) + ".",
        ]
    else:
        lines += [
            "",
            (
                "That a document is among those for which queries were written is as it will be in use: it is the"
                " queries that must be new."
            ),
        ]
    return lines


def _samples(context: Context) -> list[str]:
    corpus, negatives = (
        read_training_corpus(context),
        kept_negatives(context.stage_folder("negatives") / "negatives.jsonl"),
    )
    queries = read_queries(context.stage_folder("pairs") / "queries.jsonl")
    generated = [q for q in train_queries(context) if queries[q].metadata["strategy"] != LABELLED]
    lines = []
    for q in generated[:: max(1, len(generated) // SAMPLES)][:SAMPLES]:
        lines.append(f"- {code(queries[q].text)}")
        lines += [
            f"    - positive {code(i)} {code(_short(corpus[i].content))}" for i in queries[q].metadata["positives"][:2]
        ]
        lines += [
            f"    - negative {code(i)} {code(_short(corpus[i].content))}"
            for i in negatives.get(q, [])[:2]
            if i in corpus
        ]
    return lines or ["No generated query was trained on."]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:119] + "…"


def _curves(context: Context) -> str:
    log = json.loads((context.stage_folder("training") / "training_log.json").read_text(encoding="utf-8"))
    losses = [(e["step"], e["loss"]) for e in log["log"]]
    return (
        curves(
            losses, [(e["step"], e[PRIMARY]) for e in log["validated"]], log["kept_step"], f"{PRIMARY} on validation"
        )
        if losses
        else ""
    )


def _kept(context: Context) -> list[str]:
    """Which weights the model has, and why these."""
    training = json.loads((context.stage_folder("training") / "training_log.json").read_text(encoding="utf-8"))
    share, scores = read_choice(context)
    ended = training["ended"]
    lines = [
        f"Training took {ended:,} of {training['steps']:,} steps"
        + (", as the validation got no better." if ended < training["steps"] else ".")
    ]
    if training["validated"]:
        lines += [
            "",
            f"| step | {PRIMARY} on validation |",
            "| --- | --- |",
            *(
                f"| {row['step']}{' (kept)' if row['step'] == training['kept_step'] else ''} | {row[PRIMARY]:.4f} |"
                for row in training["validated"]
            ),
        ]
    if scores:
        name = lambda share: "1 (the base itself)" if share == 1 else f"{share:g}"  # noqa: E731
        lines += [
            "",
            f"| share of the base's weights | {PRIMARY} on validation |",
            "| --- | --- |",
            *(f"| {name(s)}{' (kept)' if s == share else ''} | {value:.4f} |" for s, value in scores.items()),
        ]
        if share == 1:
            lines += ["", "None of the others was better than the base, so the model **is the base**."]
        elif scores[1] > scores[share]:
            lines += [
                "",
                (
                    "The base itself scored **higher** than what was kept; `training.base_share` with a 1 in it would"
                    " have kept the base."
                ),
            ]
    elif share:
        lines += ["", f"Its weights are {share:.0%} the base's, as the recipe says."]
    return lines
