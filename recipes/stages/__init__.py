"""The walk from documents to a verdict, as stages: a file for each."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from sharpen.evaluation.datasets import find_dataset, judged_files, read_judged
from sharpen.evaluation.encoders.load import resolve_encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.recipes.engine import Stage
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.comparison import (
    base_input,
    evaluation_inputs,
    evaluation_part,
    model_digest,
    others_inputs,
    own_split,
    score_after,
    score_before,
    score_reranked,
)
from sharpen.recipes.stages.corpus import corpus_inputs, make_corpus
from sharpen.recipes.stages.model import (
    OWN_RERANKER,
    guide_input,
    learners,
    make_model,
    model_part,
    reranker_part,
    score_with_teacher,
    teacher_input,
    teacher_part,
    train_model,
    train_reranker_model,
    training_part,
)
from sharpen.recipes.stages.negatives import mine_negatives, negatives_inputs, negatives_part, scorers_of, writing
from sharpen.recipes.stages.pairs import make_pairs, pairs_inputs, pairs_part
from sharpen.recipes.stages.queries import labelled_inputs, make_queries, queries_part, strategies
from sharpen.recipes.stages.scoring import BI_ENCODER, OWN
from sharpen.recipes.stages.validation import validation_inputs
from sharpen.sdg.documents import PYTHON_DOCS
from sharpen.sdg.llm.client import api_key_from
from sharpen.sdg.llm.embedded import locate_llm
from sharpen.training.trainer import processes_of_batch

TRACKERS = {"wandb": ("wandb",), "tensorboard": ("tensorboardX", "tensorboard")}
"""The packages of which a tracker needs one."""


def check_inputs(recipe: Recipe) -> None:
    """Find what a recipe names before anything is computed or paid for. Raises ``InputError``."""
    if recipe.corpus.source != PYTHON_DOCS and not Path(recipe.corpus.source).expanduser().exists():
        find_dataset(recipe.corpus.source)
    if recipe.evaluation.data is None and not getattr(recipe.split, own_split(recipe)):
        raise InputError(
            f"evaluation.data is not given and split.{own_split(recipe)} is 0: nothing is left to compare on; give one"
            " of them"
        )
    strategies(recipe)
    writing(recipe)
    asking = [
        recipe.filters.judge,
        *(f for f in recipe.negatives.filters if f.kind == "judge"),
        *(m for m in recipe.negatives.miners if m.kind == "llm"),
    ]
    for llm in (*([recipe.llm] if recipe.generates else []), *(part.llm or recipe.llm for part in asking if part)):
        if llm.embedded:
            locate_llm(llm.embedded)
        for endpoint in llm.remote():
            api_key_from(endpoint.api_key_env)
    checked = recipe.filters.cross_encoder
    teachers = [teacher for _, teacher, _ in learners(recipe) if teacher != OWN_RERANKER]
    scorers = [name for name in (*teachers, *scorers_of(recipe)) if name not in OWN]
    miners = [m.model for m in recipe.negatives.miners if m.kind in ("dense", "hybrid", "cross_encoder")]
    for model in (
        recipe.training.base,
        checked and checked.model,
        recipe.training.guide,
        recipe.reranker and recipe.reranker.base,
        *scorers,
        *miners,
    ):
        if model:
            resolve_encoder(model.removeprefix(BI_ENCODER))
    if recipe.training.lora and importlib.util.find_spec("peft") is None:
        raise InputError("training.lora: needs PEFT; pip install 'sharpen[lora]'")
    processes_of_batch("training", recipe.training.batch_size)
    if recipe.reranker:
        processes_of_batch("reranker", recipe.reranker.batch_size)
    for tracker in {*recipe.training.trackers, *(recipe.reranker.trackers if recipe.reranker else ())}:
        if not any(importlib.util.find_spec(name) for name in TRACKERS[tracker]):
            raise InputError(f"trackers: {tracker} is not installed; pip install 'sharpen[{tracker}]'")
    for part in (recipe.evaluation, recipe.labelled, recipe.training.validation, *recipe.evaluation.others):
        if part and part.data:
            read_judged(part.data, part.split)
    for other in recipe.evaluation.others:
        if "corpus" not in judged_files(other.data, other.split):
            raise InputError(
                f"evaluation.others: {other.data} has no corpus.jsonl, and another collection is searched in its own"
                " documents"
            )


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in the order in which they run."""
    stages = {s.name: s for s in STAGES}

    def need(name: str, *others: str) -> None:
        stages[name] = replace(stages[name], needs=(*stages[name].needs, *others))

    learn = [learner for learner, _, _ in learners(recipe)]
    for learner in learn:
        need(learner, "teacher")
    if recipe.training.teacher == OWN_RERANKER:
        need("teacher", "reranker")
    if recipe.training.validation:
        need("model", "pairs")
    if recipe.reranker and recipe.reranker.first_stage == "retriever":
        need("reranked", "model")
    left_out = {*(() if learn else ("teacher",)), *(() if recipe.reranker else ("reranker", "reranked"))}
    order = [name for name in stages if name not in left_out]
    if "reranker" in learn:
        order.remove("reranker")
        order.insert(order.index("teacher") + 1, "reranker")
    if recipe.evaluation.data is None:
        # the queries to compare on are the run's own, so before comes after them
        for name in ("before", "after", "reranked"):
            need(name, "pairs")
        order.remove("before")
        order.insert(order.index("pairs") + 1, "before")
    return tuple(stages[name] for name in order)


STAGES = (
    Stage(
        "corpus",
        1,
        make_corpus,
        part=lambda r: r.corpus.model_dump(exclude={"source"}),
        inputs=corpus_inputs,
        seeded=False,
    ),
    # before anything is paid for: it needs no query, and finds qrels and a base model that do not fit
    Stage(
        "before",
        3,
        score_before,
        needs=("corpus",),
        part=lambda r: [evaluation_part(r), r.evaluation.bm25],
        inputs=lambda c: base_input(c) | evaluation_inputs(c) | others_inputs(c),
        shared=True,
        seeded=False,
    ),
    Stage(
        "queries",
        3,
        make_queries,
        needs=("corpus",),
        inputs=lambda c: (
            {f"pool of {s.name}": sha256_file(Path(s.pool)) for s in c.recipe.queries.all_strategies()}
            | labelled_inputs(c)
        ),
        part=queries_part,
        seeded=False,
    ),
    Stage(
        "pairs",
        4,
        make_pairs,
        needs=("corpus", "queries"),
        shared=True,
        part=pairs_part,
        inputs=pairs_inputs,
    ),
    Stage(
        "negatives",
        4,
        mine_negatives,
        needs=("corpus", "pairs"),
        part=negatives_part,
        inputs=negatives_inputs,
        shared=True,
    ),
    Stage(
        "reranker",
        2,
        train_reranker_model,
        needs=("corpus", "pairs", "negatives"),
        shared=True,
        goes_on=True,
        part=reranker_part,
        inputs=lambda c: {"base": model_digest(c.recipe.reranker.base)},
    ),
    Stage(
        "teacher",
        1,
        score_with_teacher,
        needs=("corpus", "pairs", "negatives"),
        shared=True,
        seeded=False,
        part=teacher_part,
        inputs=teacher_input,
    ),
    Stage(
        "training",
        2,
        train_model,
        needs=("corpus", "pairs", "negatives"),
        shared=True,
        goes_on=True,
        part=training_part,
        inputs=lambda c: base_input(c) | guide_input(c) | validation_inputs(c),
    ),
    Stage(
        "model",
        2,
        make_model,
        needs=("corpus", "training"),
        part=model_part,
        inputs=lambda c: base_input(c) | validation_inputs(c),
        shared=True,
    ),
    Stage(
        "after",
        3,
        score_after,
        needs=("corpus", "model"),
        part=evaluation_part,
        inputs=lambda c: evaluation_inputs(c) | others_inputs(c),
        shared=True,
        seeded=False,
    ),
    Stage(
        "reranked",
        3,
        score_reranked,
        needs=("corpus", "reranker"),
        shared=True,
        seeded=False,
        part=lambda r: [evaluation_part(r), r.reranker.first_stage, r.reranker.depth, r.reranker.first_stage_share],
        inputs=evaluation_inputs,
    ),
)
