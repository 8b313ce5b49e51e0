"""What to try when a gain is not distinguishable, from what the run measured."""

from __future__ import annotations

import json
from typing import Any

from sharpen.evaluation.beir import read_qrels, read_queries
from sharpen.evaluation.files import read_jsonl
from sharpen.evaluation.report.comparison import Comparison
from sharpen.recipes.engine import Context
from sharpen.recipes.stages.corpus import read_own_corpus
from sharpen.recipes.stages.model import read_choice
from sharpen.sdg.diagnose import Labelled, profile
from sharpen.sdg.queries import LABELLED

# From which on a number is worth a word. Those of data are what the studies in RESULTS.md and the sources trained on.
FEW_QUERIES = 500
FEW_KEPT = 0.4
COPIED = 0.7
LOW_LOSS = 0.15
STILL = 0.95
TEACHER_DISAGREES = 0.2


def advice(context: Context, comparison: Comparison, manifests: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown list lines, the most telling first; each begins with the number that it rests on."""
    recipe = context.recipe
    pairs, training = manifests["pairs"]["counts"], manifests["training"]["counts"]
    lines: list[str] = []
    low, high = comparison.delta[comparison.primary].interval
    lines.append(
        f"{comparison.queries:,} queries were compared on: a difference below about {(high - low) / 2:.3f} cannot be"
        " told from chance with them. More queries in `evaluation.data` narrow that."
    )
    if pairs["train"] < FEW_QUERIES:
        rejected = sum(pairs.get("rejected", {}).values())
        lines.append(
            f"{pairs['train']:,} queries were trained on, which is few ({rejected:,} were rejected): raise"
            " `queries.documents`, or ask for several queries a document."
        )
    passed = json.loads((context.stage_folder("pairs") / "filters.json").read_text(encoding="utf-8"))
    steps = list(passed)
    if "round_trip" in passed:
        before, after = (sum(passed[name].values()) for name in (steps[steps.index("round_trip") - 1], "round_trip"))
        if before and after / before < FEW_KEPT:
            lines.append(
                f"{after / before:.0%} of the queries found their document again: most said too little about it, or"
                " something else. A larger `llm`, or examples in the pool that are nearer to your documents."
            )
    queries = read_queries(context.stage_folder("pairs") / "queries.jsonl")
    own = {
        q: queries[q]
        for q in read_qrels(context.stage_folder("pairs") / "qrels" / "train.tsv")
        if queries[q].metadata["strategy"] != LABELLED
    }
    if own:
        overlap = float(
            profile(
                Labelled(
                    {q: query.text for q, query in own.items()},
                    {q: query.metadata["positives"] for q, query in own.items()},
                ),
                read_own_corpus(context),
            ).overlaps.mean()
        )
        if overlap > COPIED:
            lines.append(
                f"{overlap:.0%} of a query's words stand in its document: people use other words. `filters.copying`, a"
                " higher `queries.temperature`, or `strategies/paraphrase`."
            )
    if recipe.training.teacher is None and training["first_loss"] / max(1, len(recipe.training.matryoshka)) < LOW_LOSS:
        lines.append(
            f"The loss was {training['first_loss']:.2f} in the first steps: the base knew the answers. Harder negatives"
            " (`ranks` of `negatives.miners` nearer to the top, more `negatives.per_query`), or harder queries."
        )
    elif training["last_loss"] > STILL * training["first_loss"]:
        lines.append(
            f"The loss went from {training['first_loss']:.2f} to {training['last_loss']:.2f}: little was learnt. A"
            " higher `training.learning_rate`, or more `training.epochs`."
        )
    if teacher := manifests.get("teacher", {}).get("counts", {}):
        for learner in ("training", "reranker"):
            if rows := teacher.get(f"{learner}_triplets"):
                wrong = 1 - teacher[f"{learner}_positive_first"] / rows
                if wrong > TEACHER_DISAGREES:
                    lines.append(
                        f"The teacher puts a negative above the positive in {wrong:.0%} of the rows: false negatives,"
                        " or a weak teacher. `negatives.filters` help against the first, or `ranks` of"
                        " `negatives.miners` further down."
                    )
    dropped = sum(
        1
        for _, row in read_jsonl(context.stage_folder("negatives") / "negatives.jsonl")
        if row["verdict"] == "dropped" and row["reason"] == "same text as a positive"
    )
    if dropped:
        lines.append(
            f"{dropped:,} documents that BM25 found have the text of a positive: there are copies in the corpus, and"
            " near-copies may be among the negatives. `negatives.filters`, or `ranks` of `negatives.miners` further"
            " down."
        )
    share, scores = read_choice(context)
    if scores and scores[1] > scores[share]:
        lines.append(
            f"On validation the base scored {scores[1]:.4f} and what was kept {scores[share]:.4f}: put 1 into"
            " `training.base_share`, and the base is kept in such a case."
        )
    if recipe.training.validation is None:
        lines.append(
            "The last state was kept, whatever it was like: `training/validated` keeps the best, and mixes it with the"
            " base as far as that helps."
        )
    return [f"- {line}" for line in lines]
