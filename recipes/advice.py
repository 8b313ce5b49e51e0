"""What to try when a gain is not distinguishable, from what the run measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sharpen.evaluation.null_result import Measurements
from sharpen.evaluation.report.comparison import Comparison
from sharpen.recipes.finished import FinishedRun
from sharpen.sdg.diagnose import JudgedTexts, profile
from sharpen.sdg.filters.text import HARVESTED
from sharpen.sdg.negatives.record import Reason, fraction_filtered
from sharpen.sdg.queries import LABELLED

# From which on a number is worth a word. Those of data are what the studies in results/ and the sources trained on.
FEW_QUERIES = 500
FEW_KEPT = 0.4
COPIED = 0.7
LOW_LOSS = 0.15
STILL = 0.95
TEACHER_DISAGREES = 0.2


@dataclass(frozen=True)
class _Measured:
    """What the rules look at."""

    run: FinishedRun
    comparison: Comparison

    def counts(self, stage: str) -> dict[str, Any]:
        return self.run.manifests.get(stage, {}).get("counts", {})


def advice(run: FinishedRun, comparison: Comparison) -> list[str]:
    """Markdown list lines, the most telling first; each begins with the number that it rests on."""
    measured = _Measured(run, comparison)
    return [f"- {line}" for rule in RULES for line in rule(measured)]


def measurements_of(run: FinishedRun) -> Measurements:
    """What a null result is explained from."""
    training, log = run.recipe.training, run.inputs.training_log()
    negatives = run.manifests.get("negatives", {}).get("counts", {})
    return Measurements(
        **run.inputs.diagnosis(),
        false_negatives=None if training.candidates else fraction_filtered(negatives),
        steps=log["last_step"],
        kept_step=log["kept_step"],
        learning_rate=training.learning_rate,
        base_weight=run.inputs.base_weight()[0],
    )


def _few_test_queries(m: _Measured) -> Iterator[str]:
    low, high = m.comparison.delta[m.comparison.primary].interval
    yield (
        f"{m.comparison.queries:,} queries were compared on: a difference below about {(high - low) / 2:.3f} cannot be"
        " told from chance with them. More queries in `evaluation.data` narrow that."
    )


def _few_train_queries(m: _Measured) -> Iterator[str]:
    pairs = m.counts("pairs")
    if pairs["train"] < FEW_QUERIES:
        yield (
            f"{pairs['train']:,} queries were trained on, which is few ({sum(pairs.get('rejected', {}).values()):,}"
            " were rejected): raise `queries.documents`, or ask for several queries a document."
        )


def _round_trip(m: _Measured) -> Iterator[str]:
    path = m.run.inputs.folder("pairs") / "filters.json"
    passed = {name: sum(rows.values()) for name, rows in json.loads(path.read_text(encoding="utf-8")).items()}
    if "round_trip" not in passed:
        return
    steps = list(passed)
    before, after = passed[steps[steps.index("round_trip") - 1]], passed["round_trip"]
    if before and after / before < FEW_KEPT:
        yield (
            f"{after / before:.0%} of the queries found their document again: most said too little about it, or"
            " something else. A larger `llm`, or examples in the pool that are nearer to your documents."
        )


def _copied(m: _Measured) -> Iterator[str]:
    generated = {
        q: query
        for q, query in m.run.inputs.train_queries().items()
        if query.metadata["strategy"] != LABELLED and HARVESTED not in query.metadata
    }
    if not generated:
        return
    texts = {q: query.text for q, query in generated.items()}
    positives = {q: query.metadata["positives"] for q, query in generated.items()}
    overlap = float(profile(JudgedTexts(texts, positives), m.run.inputs.corpus()).overlaps.mean())
    if overlap > COPIED:
        yield (
            f"{overlap:.0%} of a query's words stand in its document: people use other words. `filters.copying`, a"
            " higher `queries.temperature`, or `strategies/paraphrase`."
        )


def _loss(m: _Measured) -> Iterator[str]:
    counts, training = m.counts("training"), m.run.recipe.training
    if training.teacher is None and counts["first_loss"] / max(1, len(training.matryoshka)) < LOW_LOSS:
        yield (
            f"The loss was {counts['first_loss']:.2f} in the first steps: the base knew the answers. Harder negatives"
            " (`ranks` of `negatives.miners` nearer to the top, more `negatives.per_query`), or harder queries."
        )
    elif counts["last_loss"] > STILL * counts["first_loss"]:
        yield (
            f"The loss went from {counts['first_loss']:.2f} to {counts['last_loss']:.2f}: little was learnt. A higher"
            " `training.learning_rate`, or more `training.epochs`."
        )


def _teacher(m: _Measured) -> Iterator[str]:
    teacher = m.counts("teacher")
    for learner in ("training", "reranker"):
        if rows := teacher.get(f"{learner}_triplets"):
            wrong = 1 - teacher[f"{learner}_positive_first"] / rows
            if wrong > TEACHER_DISAGREES:
                yield (
                    f"The teacher puts a negative above the positive in {wrong:.0%} of the rows: false negatives, or a"
                    " weak teacher. `negatives.filters` help against the first, or `ranks` of `negatives.miners`"
                    " further down."
                )


def _copies(m: _Measured) -> Iterator[str]:
    copies = sum(n.reason == Reason.COPY_OF_POSITIVE for n in m.run.inputs.negatives())
    if copies:
        yield (
            f"{copies:,} documents that were mined have the text of a positive: there are copies in the corpus, and"
            " near-copies may be among the negatives. `negatives.filters`, or `ranks` of `negatives.miners` further"
            " down."
        )


def _base_was_better(m: _Measured) -> Iterator[str]:
    weight, scores = m.run.inputs.base_weight()
    if scores and scores[1] > scores[weight]:
        yield (
            f"On validation the base scored {scores[1]:.4f} and what was kept {scores[weight]:.4f}: put 1 into"
            " `training.base_weight`, and the base is kept in such a case."
        )


def _no_validation(m: _Measured) -> Iterator[str]:
    if m.run.recipe.training.validation is None:
        yield (
            "The last state was kept, whatever it was like: `training/validated` keeps the best, and mixes it with the"
            " base as far as that helps."
        )


RULES: tuple[Callable[[_Measured], Iterator[str]], ...] = (
    _few_test_queries,
    _few_train_queries,
    _round_trip,
    _copied,
    _loss,
    _teacher,
    _copies,
    _base_was_better,
    _no_validation,
)
