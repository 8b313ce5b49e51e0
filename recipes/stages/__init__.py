"""The walk from documents to a verdict, as stages: a file for each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluation.data import find_dataset
from evaluation.files import InputError, sha256_file
from evaluation.models import resolve_encoder
from recipes.engine import Stage
from recipes.schema import Recipe
from recipes.stages.comparison import (
    base_input,
    evaluation_inputs,
    evaluation_part,
    own_split,
    read_judged,
    score_after,
    score_before,
)
from recipes.stages.corpus import corpus_inputs, make_corpus
from recipes.stages.model import (
    BI_ENCODER,
    guide_input,
    make_model,
    model_part,
    score_with_teacher,
    teacher_input,
    train_model,
    training_part,
)
from recipes.stages.negatives import mine_negatives
from recipes.stages.pairs import make_pairs, pairs_inputs, pairs_part
from recipes.stages.queries import labelled_inputs, make_queries, queries_part, strategies
from recipes.stages.validation import validation_inputs
from sdg.documents import PYTHON_DOCS
from sdg.embedded import locate_llm
from sdg.llm import api_key_from


def check_inputs(recipe: Recipe) -> None:
    """Find what a recipe names before anything is computed or paid for. Raises ``InputError``."""
    if recipe.corpus.source != PYTHON_DOCS and not Path(recipe.corpus.source).expanduser().exists():
        find_dataset(recipe.corpus.source)
    if recipe.evaluation.data is None and not getattr(recipe.split, own_split(recipe)):
        raise InputError(f"evaluation.data is not given and split.{own_split(recipe)} is 0: nothing is left to compare on; give one of them")
    strategies(recipe)
    resolve_encoder(recipe.training.base)
    for llm in (recipe.llm, *([recipe.filters.judge.llm] if recipe.filters.judge and recipe.filters.judge.llm else [])):
        if llm.embedded:
            locate_llm(llm.embedded)
        for endpoint in llm.remote():
            api_key_from(endpoint.api_key_env)
    checked = recipe.filters.cross_encoder
    for model in (checked and checked.model, recipe.training.guide, recipe.training.teacher):
        if model:
            resolve_encoder(model.removeprefix(BI_ENCODER))
    for part in (recipe.evaluation, recipe.labelled, recipe.training.validation):
        if part and part.data:
            read_judged(part.data, part.split)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in the order in which they run."""
    stages = {s.name: s for s in STAGES}
    order = list(stages)
    if recipe.training.teacher:
        stages["training"] = replace(stages["training"], needs=(*stages["training"].needs, "teacher"))
    else:
        order.remove("teacher")
    if recipe.training.validation and recipe.training.validation.data is None:
        stages["model"] = replace(stages["model"], needs=(*stages["model"].needs, "pairs"))
    if recipe.evaluation.data is None:
        # the queries to compare on are the run's own, so before comes after them
        stages |= {name: replace(stages[name], needs=(*stages[name].needs, "pairs")) for name in ("before", "after")}
        order.remove("before")
        order.insert(order.index("pairs") + 1, "before")
    return tuple(stages[name] for name in order)


STAGES = (
    Stage("corpus", 1, make_corpus, part=lambda r: r.corpus.model_dump(exclude={"source"}), inputs=corpus_inputs, seeded=False),
    # before anything is paid for: it needs no query, and finds qrels and a base model that do not fit
    Stage("before", 1, score_before, needs=("corpus",), part=lambda r: [evaluation_part(r), r.evaluation.bm25], inputs=lambda c: base_input(c) | evaluation_inputs(c), shared=True, seeded=False),
    Stage(
        "queries", 3, make_queries, needs=("corpus",), inputs=lambda c: {f"pool of {s.name}": sha256_file(Path(s.pool)) for s in c.recipe.queries.all_strategies()} | labelled_inputs(c),
        part=queries_part, seeded=False,
    ),
    Stage(
        "pairs", 3, make_pairs, needs=("corpus", "queries"), shared=True,
        part=pairs_part, inputs=pairs_inputs,
    ),
    Stage("negatives", 2, mine_negatives, needs=("corpus", "pairs"), part=lambda r: r.negatives.model_dump()),
    Stage("teacher", 1, score_with_teacher, needs=("corpus", "pairs", "negatives"), part=lambda r: r.negatives.per_query, inputs=teacher_input, shared=True, seeded=False),
    Stage(
        "training", 1, train_model, needs=("corpus", "pairs", "negatives"), shared=True, goes_on=True,
        part=training_part, inputs=lambda c: base_input(c) | guide_input(c) | validation_inputs(c),
    ),
    Stage("model", 2, make_model, needs=("corpus", "training"), part=model_part, inputs=lambda c: base_input(c) | validation_inputs(c), shared=True),
    Stage("after", 1, score_after, needs=("corpus", "model"), part=evaluation_part, inputs=evaluation_inputs, shared=True, seeded=False),
)  # fmt: skip
