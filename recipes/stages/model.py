"""Training, and the model that comes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from sentence_transformers import SentenceTransformer

from evaluation.files import InputError, read_jsonl, write_json, write_jsonl
from evaluation.metrics import PRIMARY
from evaluation.models import load_cross_encoder, load_encoder, process_state, score_pairs
from evaluation.retrievers import BM25, RUN_DEPTH, similarities
from recipes.engine import Context
from recipes.schema import Recipe
from recipes.stages.comparison import base_input, model_digest, search_part
from recipes.stages.corpus import read_own_corpus
from recipes.stages.pairs import train_queries
from recipes.stages.validation import scorer, validation
from sdg.filters.round_trip import positives
from sdg.negatives import kept_negatives
from training.merging import interpolate, weights_of
from training.reranker import train_reranker
from training.retriever import train_retriever
from training.settings import LoraSettings, RerankerSettings, RetrieverSettings
from training.trainer import Progress, Training
from training.triplets import Triplet, make_triplets

BI_ENCODER = "encoder:"
"""Before the name of a teacher that is a bi-encoder."""
FUSED = "fused"
"""The teacher that is BM25 and the base together."""
OWN_RERANKER = "reranker"
"""The teacher that is trained in the same run."""


def score_with_teacher(context: Context, folder: Path) -> dict[str, Any]:
    """What the teachers of retriever and reranker give each query of the triplets and each of its documents."""
    recipe = context.recipe
    counts: dict[str, Any] = {}
    for learner, teacher, per_query in learners(recipe):
        rows, _ = triplets(context, per_query)
        name = str(context.stage_folder("reranker")) if teacher == OWN_RERANKER else teacher
        scores = _teacher_scores(context, rows, name)
        if process_state().is_main_process:
            write_jsonl(folder / f"{learner}.jsonl", [{"query_id": q, "doc_id": i, "score": score} for (q, i), score in scores.items()])
        first = sum(scores[t.query_id, t.positive_id] > max(scores[t.query_id, i] for i in t.negative_ids) for t in rows)
        counts |= {f"{learner}_pairs": len(scores), f"{learner}_triplets": len(rows), f"{learner}_positive_first": first}
    return counts


def _teacher_scores(context: Context, rows: list[Triplet], teacher: str) -> dict[tuple[str, str], float]:
    corpus, queries = read_own_corpus(context), train_queries(context)
    pairs = list(dict.fromkeys((t.query_id, i) for t in rows for i in (t.positive_id, *t.negative_ids)))
    if not pairs:
        raise InputError("no triplets for the teacher to score: no query was left with enough negatives; see the manifests of the stages before for where they went")
    texts = [(queries[q].text, corpus[i].content) for q, i in pairs]
    with context.progress("scoring with the teacher", len(pairs)) as advance:
        if teacher == FUSED:
            scores = _fused(context, pairs)
        elif teacher.startswith(BI_ENCODER):
            scores = similarities(load_encoder(teacher.removeprefix(BI_ENCODER)), texts, progress=advance)
        else:
            scores = score_pairs(load_cross_encoder(teacher), texts, advance)
    return dict(zip(pairs, scores, strict=True))


def _fused(context: Context, pairs: list[tuple[str, str]]) -> list[float]:
    """For each pair the sum of BM25's score and the base's cosine, each with mean 0 and deviation 1 over a query's documents:
    neither has a scale that the other knows."""
    corpus, queries = read_own_corpus(context), train_queries(context)
    found = BM25(corpus).search({q.id: q.text for q in queries.values()}, min(len(corpus), 10 * RUN_DEPTH))
    training = context.recipe.training
    base = load_encoder(training.base, max_seq_length=training.max_seq_length, attention=training.attention)
    lexical = [found[q].get(i, 0.0) for q, i in pairs]
    dense = similarities(base, [(queries[q].text, corpus[i].content) for q, i in pairs], training.query_prompt, training.document_prompt)
    rows: dict[str, list[int]] = {}
    for row, (q, _) in enumerate(pairs):
        rows.setdefault(q, []).append(row)
    scores = np.zeros(len(pairs))
    for own in rows.values():
        for values in (lexical, dense):
            part = np.array([values[row] for row in own])
            scores[own] += (part - part.mean()) / (part.std() or 1.0)
    return scores.tolist()


def learners(recipe: Recipe) -> list[tuple[str, str, int]]:
    """Who learns a teacher's scores: ``training``, ``reranker`` or both, with the teacher and the negatives of a query."""
    found = [("training", recipe.training.teacher, recipe.negatives.per_query)]
    if recipe.reranker:
        found.append(("reranker", recipe.reranker.teacher, recipe.reranker.negatives))
    return [(learner, teacher, per_query) for learner, teacher, per_query in found if teacher]


def read_teacher(context: Context, learner: str) -> dict[tuple[str, str], float] | None:
    """Scores of (query ID, document ID); None where the learner has no teacher."""
    if learner not in (name for name, _, _ in learners(context.recipe)):
        return None
    return {(row["query_id"], row["doc_id"]): row["score"] for _, row in read_jsonl(context.stage_folder("teacher") / f"{learner}.jsonl")}


def train_reranker_model(context: Context, folder: Path) -> dict[str, Any]:
    part = context.recipe.reranker
    corpus, queries = read_own_corpus(context), train_queries(context)
    rows, left_out = triplets(context, part.negatives)
    settings = RerankerSettings(**{name: getattr(part, name) for name in RerankerSettings.__dataclass_fields__})
    with context.progress("training the reranker", 0) as advance, _tracked(context, part.trackers, "reranker"):
        done = train_reranker(rows, queries, corpus, settings, folder, context.recipe.seed, teacher=read_teacher(context, "reranker"), work=context.work, progress=_shown(advance))
    return _record(folder, done, len(rows), left_out)


def train_model(context: Context, folder: Path) -> dict[str, Any]:
    corpus, queries = read_own_corpus(context), train_queries(context)
    rows, left_out = triplets(context, context.recipe.negatives.per_query)
    with context.progress("training", 0) as advance, _tracked(context, context.recipe.training.trackers, "training"):
        done = train_retriever(
            rows, queries, corpus, retriever_settings(context.recipe), folder, context.recipe.seed,
            teacher=read_teacher(context, "training"), validation=validation(context), work=context.work, progress=_shown(advance),
        )  # fmt: skip
    return _record(folder, done, len(rows), left_out)


@contextmanager
def _tracked(context: Context, trackers: Sequence[str], stage: str) -> Iterator[None]:
    """Where the trackers write, by the variables that they read: below the run's folder, unless the person says otherwise."""
    own = {"WANDB_PROJECT": "sharpen", "WANDB_NAME": f"{context.recipe.name}-{stage}", "WANDB_DIR": str(context.folder), "TENSORBOARD_LOGGING_DIR": str(context.folder / "tensorboard" / stage)}
    added = {name: value for name, value in own.items() if trackers and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        if "wandb" in trackers:
            import wandb

            wandb.finish()  # or the next training would go on in this one's curves


def _shown(advance: Callable[..., None]) -> Callable[[Progress], None]:
    return lambda p: advance(note=f"step {p.step} of {p.steps}, loss {p.loss if p.loss is None else round(p.loss, 3)}")


def _record(folder: Path, done: Training, rows: int, left_out: int) -> dict[str, Any]:
    """Write the log that curves and report are made of, and return the counts of the manifest."""
    if process_state().is_main_process:
        write_json(folder / "training_log.json", {key: value for key, value in asdict(done).items() if key != "resumed_from"})
    steps = {"steps": done.ended, "kept_step": done.kept_step, "first_loss": done.log[0]["loss"], "last_loss": done.log[-1]["loss"]}
    return {"triplets": rows, "queries_left_out": left_out} | steps


def make_model(context: Context, folder: Path) -> dict[str, Any]:
    """The trained model, or what lies between it and the base."""
    training = context.recipe.training

    def load(name: str) -> SentenceTransformer:
        transformers.set_seed(context.recipe.seed)  # as in training: weights that a base lacks are drawn
        return load_encoder(name, max_seq_length=training.max_seq_length, attention=training.attention)

    model = load(str(context.stage_folder("training")))
    tuned, base = weights_of(model), weights_of(load(training.base))
    scores: dict[float, float] = {}
    chosen = training.base_share[0]
    if training.validation:
        score = scorer(context)
        for share in dict.fromkeys((*training.base_share, 1.0)):  # the base is shown beside them
            interpolate(model, tuned, base, share)
            scores[share] = score(model)
        # of equally good ones the one that is nearest to the base
        chosen = max(training.base_share, key=lambda share: (scores[share], share))
    interpolate(model, tuned, base, chosen)
    if process_state().is_main_process:
        model.save_pretrained(str(folder), safe_serialization=True, create_model_card=False)
        write_json(folder / "choice.json", {"base_share": chosen, PRIMARY: [{"base_share": share, "value": value} for share, value in sorted(scores.items())]})
    return {"base_share": chosen} | ({f"{PRIMARY} on validation": {f"base share {share:g}": value for share, value in sorted(scores.items())}} if scores else {})


def read_choice(context: Context) -> tuple[float, dict[float, float]]:
    """The base's share in the model, and what each of the shares scored on validation; empty where nothing was chosen."""
    choice = json.loads((context.stage_folder("model") / "choice.json").read_text(encoding="utf-8"))
    return choice["base_share"], {row["base_share"]: row["value"] for row in choice[PRIMARY]}


def triplets(context: Context, per_query: int) -> tuple[list[Triplet], int]:
    """The rows to train on, with ``per_query`` negatives, and how many queries have too few for one."""
    negatives = kept_negatives(context.stage_folder("negatives") / "negatives.jsonl")
    return make_triplets(positives(list(train_queries(context).values())), negatives, per_query)


def retriever_settings(recipe: Recipe) -> RetrieverSettings:
    part = recipe.training
    shared = {name: getattr(part, name) for name in RetrieverSettings.__dataclass_fields__ if name not in ("loss", "lora")}
    return RetrieverSettings(**shared, loss=part.loss_settings(), lora=part.lora and LoraSettings(**part.lora.model_dump()))


def training_part(recipe: Recipe) -> list[Any]:
    """What of the recipe the training depends on; the base itself is an input, and its share is for later."""
    part = recipe.training.model_dump(exclude={"base", "guide", "teacher", "base_share", "checkpoint_steps", "trackers"})
    return [part, recipe.negatives.per_query]


def model_part(recipe: Recipe) -> list[Any]:
    part = recipe.training
    return [part.base_share, part.validation and [part.validation.model_dump(exclude={"evaluations", "patience"}), search_part(recipe)]]


def guide_input(context: Context) -> dict[str, str]:
    guide = context.recipe.training.guide
    return {"guide": model_digest(guide)} if guide else {}


def teacher_part(recipe: Recipe) -> list[Any]:
    shared = learners(recipe)
    fused = [search_part(recipe)] if any(teacher == FUSED for _, teacher, _ in shared) else []
    return [[learner, per_query] for learner, _, per_query in shared] + fused


def teacher_input(context: Context) -> dict[str, str]:
    own = {OWN_RERANKER: OWN_RERANKER, FUSED: base_input(context)["base"]}
    return {f"teacher of {learner}": own.get(teacher) or f"{BI_ENCODER if teacher.startswith(BI_ENCODER) else ''}{model_digest(teacher.removeprefix(BI_ENCODER))}" for learner, teacher, _ in learners(context.recipe)}


def reranker_part(recipe: Recipe) -> Any:
    return recipe.reranker.model_dump(exclude={"base", "teacher", "checkpoint_steps", "trackers", "first_stage", "depth"})
