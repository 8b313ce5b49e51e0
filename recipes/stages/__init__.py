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
from recipes.stages.model import train_model
from recipes.stages.negatives import mine_negatives
from recipes.stages.pairs import make_pairs, pairs_inputs, pairs_part
from recipes.stages.queries import labelled_inputs, make_queries, queries_part, strategies
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
    if check := recipe.filters.cross_encoder:
        resolve_encoder(check.model)
    for part in (recipe.evaluation, recipe.labelled):
        if part and part.data:
            read_judged(part.data, part.split)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in the order in which they run."""
    if recipe.evaluation.data is not None:
        return STAGES
    # the queries to compare on are the run's own
    own = {s.name: replace(s, needs=(*s.needs, "pairs")) if s.name in ("before", "after") else s for s in STAGES}
    return tuple(own[name] for name in ("corpus", "queries", "pairs", "before", "negatives", "model", "after"))


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
    Stage("model", 1, train_model, needs=("corpus", "pairs", "negatives"), part=lambda r: [r.training.model_dump(exclude={"base"}), r.negatives.per_query], inputs=base_input, shared=True),
    Stage("after", 1, score_after, needs=("corpus", "model"), part=evaluation_part, inputs=evaluation_inputs, shared=True, seeded=False),
)  # fmt: skip
