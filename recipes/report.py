"""The pages that a run leaves for people: ``report.md`` and ``report.html``, made from the same sections."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sharpen.evaluation.contamination import Overlap, overlap
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.files import write_text
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.by_query import TOP_K, QueryChange, query_changes, slices
from sharpen.evaluation.report.charts import curves
from sharpen.evaluation.report.comparison import Comparison, code, kinds_table, markdown
from sharpen.evaluation.report.page import page
from sharpen.evaluation.runs import read_run
from sharpen.evaluation.truncation import Truncation
from sharpen.recipes.engine import ASKED, TRUNCATED, Manifests
from sharpen.recipes.finished import FinishedRun
from sharpen.sdg.llm.budget import paid_in_all
from sharpen.sdg.queries import LABELLED

SAMPLES = 12
WON, LOST = "Queries won most (nDCG@10)", "Queries lost most (nDCG@10)"
SELECTION, REJECTED = "Model selection", "Rejected queries"
_REMEDIES = {
    "documents": "cut the documents (`corpus.chunk`), or raise `training.max_seq_length` as far as the base goes",
    "queries": "raise `training.max_seq_length` as far as the base goes",
    "texts": "raise `training.max_seq_length` as far as the base goes",
    "pairs": "cut the documents (`corpus.chunk`), or take a cross-encoder (`reranker.max_seq_length`) that reads more",
    "in_prompts": "cut the documents (`corpus.chunk`), or raise `max_document_words` where the LLM is asked",
}
Sections = dict[str, list[str]]
"""Heading to lines of Markdown."""


def write_report(
    run: FinishedRun, comparison: Comparison, task: Task, first: Sections, overlaps: dict[str, Overlap], resolved: str
) -> None:
    """Write both pages. ``first``: sections that come before those about the run itself; ``resolved``: the recipe in
    full."""
    scores = tuple(run.inputs.scores(stage, stage) for stage in ("before", "after"))
    runs = tuple(
        read_run(run.inputs.folder(stage) / f"{stage}.trec", task.queries, task.known) for stage in ("before", "after")
    )
    changes = query_changes(task, runs, scores)
    kinds = slices(task, changes, scores, run.recipe.seed, comparison)
    about = report_sections(run) | _with_texts(run, overlaps)
    queries = {
        WON: _moved([c for c in changes if c.difference > 0]),
        LOST: _moved([c for c in changes if c.difference < 0]),
    }
    recipe = [
        "`recipe.yaml` in this folder is the recipe with every default filled in; `sharpen run` with it repeats the"
        " run."
    ]
    pictures = {SELECTION: [*about[SELECTION], "", "![learning curves](curves.png)"]}
    sections = first | {"Kinds of queries": kinds_table(kinds)} | about | pictures | queries | {"The recipe": recipe}
    write_text(run.folder / "report.md", markdown(run.recipe.name, comparison, sections))
    fence = "`" * 12  # longer than any in the recipe
    sections = first | about | {"The recipe": [*recipe, "", fence, *resolved.splitlines(), fence]}
    html = page(run.recipe.name, comparison, changes, kinds, sections, {SELECTION: _curves(run)}, first)
    write_text(run.folder / "report.html", html)


def train_overlaps(run: FinishedRun, task: Task) -> dict[str, Overlap]:
    """What of the comparison's queries and relevant documents was trained on."""
    corpus, trained = run.inputs.corpus(), run.inputs.train_queries()
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
    return ", ".join(_count(name, value) for name, value in flat + nested if value is not None)


def _count(name: str, value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,} {name}"
    return f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"


def truncation_lines(manifests: Manifests) -> list[str]:
    """What encoders and prompts did not see; empty where they saw all. First a sentence for the largest collection of a
    kind, as one says most of the others."""
    rows = [(stage, Truncation(**found)) for stage, m in manifests.items() for found in m.get(TRUNCATED, ())]
    largest: dict[tuple[str, int], Truncation] = {}
    for _, found in rows:
        known = largest.setdefault((found.what, found.limit), found)
        if (found.texts, found.truncated) > (known.texts, known.truncated):
            largest[found.what, found.limit] = found
    if not rows:
        return []
    return [
        *(f"- {found.sentence()} What is behind is not seen; {_REMEDIES[found.what]}." for found in largest.values()),
        "",
        "| stage | texts | longer | than | the longest |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {stage} | {f.texts:,} {f.name} | {f.truncated:,} | {f.limit:,} {f.unit} | {f.longest:,} |"
            for stage, f in rows
        ),
    ]


def _moved(changes: list[QueryChange]) -> list[str]:
    lines = []
    for change in changes[:SAMPLES]:
        lines.append(f"- {change.difference:+.3f}  {code(change.text or change.query_id)}")
        lines += [
            f"    - relevant document {code(i)}: {_rank(first)} before, {_rank(second)} after"
            for i, first, second in change.relevant_ranks
        ]
        lines += [
            f"    - {verb} the top {TOP_K}, rank {hit.rank}: {code(hit.doc_id)} {code(hit.text)}"
            for verb, hits in (("left", change.left), ("entered", change.entered))
            for hit in hits
            if not hit.grade
        ][:4]
    return lines or ["none"]


def _rank(rank: int | None) -> str:
    return f"rank {rank}" if rank else "not found"


def report_sections(run: FinishedRun) -> Sections:
    """What is said of any run, in numbers."""
    stages = ["| stage | counts | seconds |", "| --- | --- | --- |"]
    stages += [f"| {name} | {counts_line(m['counts'])} | {m['seconds']:.0f} |" for name, m in run.manifests.items()]
    by_strategy = _by_strategy(run)
    return {
        SELECTION: _selection(run),
        "Time and cost": [*stages, "", _cost(run.manifests)],
        **({"Queries by strategy": by_strategy} if by_strategy else {}),
        **({"Truncated texts": cut} if (cut := truncation_lines(run.manifests)) else {}),
        REJECTED: _rejected(run.manifests),
    }


def _with_texts(run: FinishedRun, overlaps: dict[str, Overlap]) -> Sections:
    return {"Overlap of training and comparison": _overlapping(overlaps), "Training examples": _samples(run)}


def _cost(manifests: Manifests) -> str:
    """The time of all stages, and what they asked of language models: in all, and of each where there are several."""
    seconds = sum(m["seconds"] for m in manifests.values())
    sentence = f"In all {seconds / 60:.1f} minutes of the runs that made these stages"
    by_llm: dict[str, list[dict[str, Any]]] = {}
    for row in (row for m in manifests.values() for row in m.get(ASKED, ())):
        by_llm.setdefault(row["llm"], []).append(row)
    if by_llm:
        models = "the language models" if len(by_llm) > 1 else "the language model"
        sentence += f"; {models} {_asked([row for rows in by_llm.values() for row in rows])}"
    if len(by_llm) > 1:
        sentence += ": " + "; ".join(f"{code(llm)} {_asked(rows)}" for llm, rows in by_llm.items())
    return f"{sentence}."


def _asked(rows: Sequence[dict[str, Any]]) -> str:
    """What was read and written, and for how much where there are prices."""
    read, cached, wrote = (sum(row[f"{kind}_tokens"] for row in rows) for kind in ("prompt", "cached", "completion"))
    paid = paid_in_all(rows)
    return f"read {read:,} tokens ({cached:,} of them cached) and wrote {wrote:,}" + (f", for {paid}" if paid else "")


def _by_strategy(run: FinishedRun) -> list[str]:
    """How many queries of each strategy were asked for and kept, and passed each filter and the split; nothing where
    there is but one strategy."""
    files = (("queries", "strategies.json"), ("pairs", "filters.json"))
    stats, passed = (json.loads((run.inputs.folder(s) / f).read_text(encoding="utf-8")) for s, f in files)
    if len(stats) < 2:
        return []
    header = ["strategy", "asked for", *(step.replace("_", " ") for step in passed)]
    rows = [
        [code(name), f"{row['asked']:,}", *(f"{of_step.get(name, 0):,}" for of_step in passed.values())]
        for name, row in stats.items()
    ]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _rejected(manifests: Manifests) -> list[str]:
    reasons: Counter[str] = Counter()
    for stage in ("queries", "pairs"):
        reasons.update(manifests[stage]["counts"].get("rejected", {}))
    if not reasons:
        return ["None."]
    asked = manifests["queries"]["counts"].get("asked", 0)
    rows = [
        f"| {reason.replace('|', '¦')} | {n:,} | {f'{n / asked:.1%}' if asked else ''} |"
        for reason, n in reasons.most_common()
    ]
    return ["| reason | queries | of those asked for |", "| --- | --- | --- |", *rows]


def _overlapping(overlaps: dict[str, Overlap]) -> list[str]:
    lines = ["| | compared on | the same in training | nearly the same |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {o.of:,} | {o.exact:,} | {o.near:,} |" for name, o in overlaps.items()]
    queries = overlaps["queries"]
    if queries.exact + queries.near:
        examples = ", ".join(f"{code(a)} is {code(b)}" for a, b in queries.examples)
        return [
            *lines,
            "",
            (
                "**Queries of the comparison are among those trained on:** the gain is not what new ones would bring."
                f" For example {examples}."
            ),
        ]
    return [
        *lines,
        "",
        (
            "That a document is among those for which queries were written is as it will be in use: it is the queries"
            " that must be new."
        ),
    ]


def _samples(run: FinishedRun) -> list[str]:
    corpus = run.inputs.training_corpus()
    negatives: dict[str, list[str]] = {}
    for row in run.inputs.negatives():
        if row.verdict == "kept":
            negatives.setdefault(row.query_id, []).append(row.doc_id)
    generated = [q for q in run.inputs.train_queries().values() if q.metadata["strategy"] != LABELLED]
    lines = []
    for query in generated[:: max(1, len(generated) // SAMPLES)][:SAMPLES]:
        lines.append(f"- {code(query.text)}")
        documents = [("positive", i) for i in query.metadata["positives"][:2]]
        documents += [("negative", i) for i in negatives.get(query.id, [])[:2] if i in corpus]
        lines += [f"    - {side} {code(i)} {code(_short(corpus[i].content))}" for side, i in documents]
    return lines or ["No generated query was trained on."]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:119] + "…"


def _curves(run: FinishedRun) -> str:
    log = run.inputs.training_log()
    losses = [(e["step"], e["loss"]) for e in log["log"]]
    metric = _metric(log)
    validated = [(e["step"], e[metric]) for e in log["validated"]]
    return curves(losses, validated, log["kept_step"], f"{metric} on validation") if losses else ""


def _metric(log: dict[str, Any]) -> str:
    """By which a training's states were chosen."""
    return next((key for row in log["validated"] for key in row if key != "step"), PRIMARY)


def _selection(run: FinishedRun) -> list[str]:
    """Which weights the model has, and why these."""
    log = run.inputs.training_log()
    metric = _metric(log)
    weight, scores = (0.0, {}) if run.recipe.generative else run.inputs.base_weight()
    early = log["last_step"] < log["steps"]
    ending = ", as the validation got no better." if early else "."
    lines = [f"Training took {log['last_step']:,} of {log['steps']:,} steps{ending}"]
    if log["validated"]:
        lines += ["", f"| step | {metric} on validation |", "| --- | --- |"]
        lines += [
            f"| {row['step']}{' (kept)' if row['step'] == log['kept_step'] else ''} | {row[metric]:.4f} |"
            for row in log["validated"]
        ]
    if scores:
        lines += ["", f"| weight of the base | {PRIMARY} on validation |", "| --- | --- |"]
        lines += [f"| {_weight(w)}{' (kept)' if w == weight else ''} | {value:.4f} |" for w, value in scores.items()]
        if weight == 1:
            lines += ["", "None of the others was better than the base, so the model **is the base**."]
        elif scores[1] > scores[weight]:
            lines += [
                "",
                (
                    "The base itself scored **higher** than what was kept; `training.base_weight` with a 1 in it would"
                    " have kept the base."
                ),
            ]
    elif weight:
        lines += ["", f"Its weights are {weight:.0%} the base's, as the recipe says."]
    return lines


def _weight(weight: float) -> str:
    return "1 (the base itself)" if weight == 1 else f"{weight:g}"
