"""Training, and the model that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from sentence_transformers import SentenceTransformer

from evaluation.files import write_json, write_jsonl
from evaluation.metrics import PRIMARY
from evaluation.models import load_cross_encoder, load_encoder, process_state, score_pairs
from evaluation.retrievers import similarities
from recipes.engine import Context, from_main
from recipes.schema import Recipe
from recipes.stages.comparison import model_digest
from recipes.stages.corpus import read_own_corpus
from recipes.stages.pairs import train_queries
from recipes.stages.validation import scorer, validation
from sdg.filters.round_trip import positives
from sdg.negatives import kept_negatives
from training.merging import interpolate, weights_of
from training.retriever import train_retriever
from training.settings import LoraSettings, LossSettings, RetrieverSettings
from training.triplets import Triplet, make_triplets

BI_ENCODER = "encoder:"
"""Before the name of a teacher that is a bi-encoder."""


def score_with_teacher(context: Context, folder: Path) -> dict[str, Any]:
    """What the teacher gives each query of the triplets and each of its documents."""
    corpus, queries = read_own_corpus(context), train_queries(context)
    rows, _ = triplets(context)
    pairs = list(dict.fromkeys((t.query_id, i) for t in rows for i in (t.positive_id, *t.negative_ids)))
    texts = [(queries[q].text, corpus[i].content) for q, i in pairs]
    teacher = context.recipe.training.teacher
    with context.progress("scoring with the teacher", len(pairs)) as advance:
        if teacher.startswith(BI_ENCODER):
            scores = similarities(load_encoder(teacher.removeprefix(BI_ENCODER)), texts, progress=advance)
        else:
            scores = from_main(score_pairs(load_cross_encoder(teacher), texts, advance) if process_state().is_main_process else None)
    if process_state().is_main_process:
        write_jsonl(folder / "scores.jsonl", [{"query_id": q, "doc_id": i, "score": score} for (q, i), score in zip(pairs, scores, strict=True)])
    first = dict(zip(pairs, scores, strict=True))
    agrees = [first[t.query_id, t.positive_id] > max(first[t.query_id, i] for i in t.negative_ids) for t in rows if t.negative_ids]
    return {"pairs": len(pairs), "positives_first": sum(agrees)}


def train_model(context: Context, folder: Path) -> dict[str, Any]:
    corpus, queries = read_own_corpus(context), train_queries(context)
    rows, left_out = triplets(context)
    scores = context.stage_folder("teacher") / "scores.jsonl"
    teacher = {(r["query_id"], r["doc_id"]): r["score"] for r in map(json.loads, scores.open(encoding="utf-8"))} if context.recipe.training.teacher else None
    with context.progress("training", 0) as advance:
        done = train_retriever(
            rows, queries, corpus, retriever_settings(context.recipe), folder, context.recipe.seed,
            teacher=teacher, validation=validation(context), work=context.work,
            progress=lambda p: advance(note=f"step {p.step} of {p.steps}, loss {p.loss if p.loss is None else round(p.loss, 3)}"),
        )  # fmt: skip
    if process_state().is_main_process:
        write_json(folder / "training_log.json", {"steps": done.steps, "kept_step": done.kept_step, "log": done.log, "validated": done.validated})
    return {
        "triplets": len(rows), "queries_left_out": left_out, "steps": int(done.log[-1]["step"]), "kept_step": done.kept_step,
        "first_loss": done.log[0]["loss"], "last_loss": done.log[-1]["loss"],
    }  # fmt: skip


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


def triplets(context: Context) -> tuple[list[Triplet], int]:
    """The rows to train on, and how many queries have too few negatives for one."""
    negatives = kept_negatives(context.stage_folder("negatives") / "negatives.jsonl")
    return make_triplets(positives(list(train_queries(context).values())), negatives, context.recipe.negatives.per_query)


def retriever_settings(recipe: Recipe) -> RetrieverSettings:
    part = recipe.training
    shared = {name: getattr(part, name) for name in RetrieverSettings.__dataclass_fields__ if name not in ("loss", "lora")}
    loss = {name: getattr(part, name) for name in LossSettings.__dataclass_fields__ if name != "name"}
    return RetrieverSettings(**shared, loss=LossSettings(name=part.loss, **loss), lora=part.lora and LoraSettings(**part.lora.model_dump()))


def training_part(recipe: Recipe) -> list[Any]:
    """What of the recipe the training depends on; the base itself is an input, and its share is for later."""
    part = recipe.training.model_dump(exclude={"base", "guide", "teacher", "base_share", "checkpoint_steps", "trackers"})
    return [part, recipe.negatives.per_query]


def model_part(recipe: Recipe) -> list[Any]:
    part = recipe.training
    search = {"max_seq_length", "query_prompt", "document_prompt", "attention"}
    return [part.base_share, part.validation and [part.validation.model_dump(exclude={"evaluations", "patience"}), part.model_dump(include=search)]]


def guide_input(context: Context) -> dict[str, str]:
    guide = context.recipe.training.guide
    return {"guide": model_digest(guide)} if guide else {}


def teacher_input(context: Context) -> dict[str, str]:
    return {"teacher": model_digest(context.recipe.training.teacher.removeprefix(BI_ENCODER))}
