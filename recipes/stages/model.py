"""Training, and the model that comes of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import transformers
from sentence_transformers import SentenceTransformer
from sharpen.evaluation.beir import Queries
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError, read_jsonl, write_json, write_jsonl
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.processes import process_state
from sharpen.recipes.engine import Context, from_main
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.comparison import model_digest, search_part
from sharpen.recipes.stages.negatives import mine, read_training_corpus
from sharpen.recipes.stages.pairs import train_queries
from sharpen.recipes.stages.scoring import BASE, FUSED, score, scorer_digest
from sharpen.recipes.stages.validation import scorer, validation
from sharpen.sdg.filters.round_trip import positives
from sharpen.sdg.negatives import Negative, read_negatives
from sharpen.training.merging import interpolate, weights_of
from sharpen.training.reranker import train_reranker
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import LoraSettings, RerankerSettings, RetrieverSettings
from sharpen.training.trainer import Progress, Training
from sharpen.training.triplets import Triplet, make_triplets

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
            write_jsonl(
                folder / f"{learner}.jsonl",
                [{"query_id": q, "doc_id": i, "score": score} for (q, i), score in scores.items()],
            )
        first = sum(
            scores[t.query_id, t.positive_id] > max(scores[t.query_id, i] for i in t.negative_ids) for t in rows
        )
        counts |= {
            f"{learner}_pairs": len(scores),
            f"{learner}_triplets": len(rows),
            f"{learner}_positive_first": first,
        }
    return counts


def _teacher_scores(context: Context, rows: list[Triplet], teacher: str) -> dict[tuple[str, str], float]:
    pairs = list(dict.fromkeys((t.query_id, i) for t in rows for i in (t.positive_id, *t.negative_ids)))
    if not pairs:
        raise InputError(
            "no triplets for the teacher to score: no query was left with enough negatives; see the manifests of the"
            " stages before for where they went"
        )
    with context.progress("scoring with the teacher", len(pairs)) as advance:
        return score(context, teacher, pairs, train_queries(context), read_training_corpus(context), advance)


def learners(recipe: Recipe) -> list[tuple[str, str, int]]:
    """Who learns a teacher's scores: ``training``, ``reranker`` or both, with the teacher and the negatives of a
    query."""
    found = [("training", recipe.training.teacher, recipe.negatives.per_query)]
    if recipe.reranker:
        found.append(("reranker", recipe.reranker.teacher, recipe.reranker.negatives))
    return [(learner, teacher, per_query) for learner, teacher, per_query in found if teacher]


def read_teacher(context: Context, learner: str) -> dict[tuple[str, str], float] | None:
    """Scores of (query ID, document ID); None where the learner has no teacher."""
    if learner not in (name for name, _, _ in learners(context.recipe)):
        return None
    return {
        (row["query_id"], row["doc_id"]): row["score"]
        for _, row in read_jsonl(context.stage_folder("teacher") / f"{learner}.jsonl")
    }


def train_reranker_model(context: Context, folder: Path) -> dict[str, Any]:
    part = context.recipe.reranker
    corpus, queries = read_training_corpus(context), train_queries(context)
    rows, left_out = triplets(context, part.negatives)
    settings = RerankerSettings(**{name: getattr(part, name) for name in RerankerSettings.__dataclass_fields__})
    with context.progress("training the reranker", 0) as advance, _tracked(context, part.trackers, "reranker"):
        done = train_reranker(
            rows,
            queries,
            corpus,
            settings,
            folder,
            context.recipe.seed,
            teacher=read_teacher(context, "reranker"),
            work=context.work,
            progress=_shown(advance),
        )
    return _record(folder, done, len(rows), left_out)


def train_model(context: Context, folder: Path) -> dict[str, Any]:
    with context.progress("training", 0) as advance, _tracked(context, context.recipe.training.trackers, "training"):
        if context.recipe.negatives.refresh:
            done, rows, left_out = _trained_in_rounds(context, folder, _shown(advance))
        else:
            rows, left_out = triplets(context, context.recipe.negatives.per_query, context.recipe.training.triplets)
            done = _trained(
                context,
                rows,
                retriever_settings(context.recipe),
                folder,
                context.work,
                context.recipe.seed,
                _shown(advance),
            )
    return _record(folder, done, len(rows), left_out)


def _trained(
    context: Context,
    rows: list[Triplet],
    settings: RetrieverSettings,
    folder: Path,
    work: Path | None,
    seed: int,
    progress: Callable[[Progress], None],
) -> Training:
    return train_retriever(
        rows,
        train_queries(context),
        read_training_corpus(context),
        settings,
        folder,
        seed,
        teacher=read_teacher(context, "training"),
        validation=validation(context),
        work=work,
        progress=progress,
    )


def _trained_in_rounds(
    context: Context, folder: Path, progress: Callable[[Progress], None]
) -> tuple[Training, list[Triplet], int]:
    """An epoch after the other, each on what the model before it takes for near (ANCE), and each in a folder of its
    own, so that a training that was killed goes on in its last epoch. By validation the best epoch's model is kept."""
    recipe, settings = context.recipe, retriever_settings(context.recipe)
    rows, left_out = triplets(context, recipe.negatives.per_query, recipe.training.triplets)
    rounds: list[Training] = []
    models: list[Path] = []
    for number in range(settings.epochs):
        place = context.work / f"epoch-{number + 1}"
        finished = place / "training.json"
        if from_main(finished.exists()):
            done = Training(**json.loads(finished.read_text(encoding="utf-8")))
        else:
            if number:
                current = load_encoder(
                    str(models[-1]), max_seq_length=settings.max_seq_length, attention=settings.attention
                )
                rows, left_out = triplets_of(
                    recipe,
                    train_queries(context),
                    mine(context, current).rows,
                    recipe.negatives.per_query,
                    recipe.training.triplets,
                )
            own = replace(
                settings,
                epochs=1,
                base=str(models[-1]) if models else settings.base,
                learning_rate=settings.learning_rate * _left(settings.schedule, number / settings.epochs),
                loss=replace(settings.loss, guide=settings.loss.guide or settings.base),
                schedule="constant",
                warmup=0.0 if number else min(1.0, settings.warmup * settings.epochs),
            )
            done = _trained(context, rows, own, place / "model", place / "checkpoints", recipe.seed + number, progress)
            if process_state().is_main_process:
                write_json(finished, asdict(done))
        rounds.append(done)
        models.append(place / "model")
    best = max(range(len(rounds)), key=lambda n: (max((row[PRIMARY] for row in rounds[n].validated), default=0.0), n))
    if process_state().is_main_process:
        shutil.copytree(models[best], folder, dirs_exist_ok=True)
    starts = [sum(done.ended for done in rounds[:n]) for n in range(len(rounds))]
    later = lambda values, start: [row | {"step": row["step"] + start} for row in values]  # noqa: E731
    log = [row | {"epoch": row["epoch"] + n} for n, done in enumerate(rounds) for row in later(done.log, starts[n])]
    validated = [row for n, done in enumerate(rounds) for row in later(done.validated, starts[n])]
    return (
        Training(
            log,
            validated,
            starts[best] + rounds[best].kept_step,
            starts[-1] + rounds[-1].ended,
            sum(done.steps for done in rounds),
        ),
        rows,
        left_out,
    )


def _left(schedule: str, done: float) -> float:
    """Part of the learning rate that a schedule has left when so much of the training is done."""
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]


@contextmanager
def _tracked(context: Context, trackers: Sequence[str], stage: str) -> Iterator[None]:
    """Where the trackers write, by the variables that they read: below the run's folder, unless the person says
    otherwise."""
    own = {
        "WANDB_PROJECT": "sharpen",
        "WANDB_NAME": f"{context.recipe.name}-{stage}",
        "WANDB_DIR": str(context.folder),
        "TENSORBOARD_LOGGING_DIR": str(context.folder / "tensorboard" / stage),
    }
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
        write_json(
            folder / "training_log.json", {key: value for key, value in asdict(done).items() if key != "resumed_from"}
        )
    steps = {
        "steps": done.ended,
        "kept_step": done.kept_step,
        "first_loss": done.log[0]["loss"],
        "last_loss": done.log[-1]["loss"],
    }
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
        write_json(
            folder / "choice.json",
            {
                "base_share": chosen,
                PRIMARY: [{"base_share": share, "value": value} for share, value in sorted(scores.items())],
            },
        )
    return {"base_share": chosen} | (
        {f"{PRIMARY} on validation": {f"base share {share:g}": value for share, value in sorted(scores.items())}}
        if scores
        else {}
    )


def read_choice(context: Context) -> tuple[float, dict[float, float]]:
    """The base's share in the model, and what each of the shares scored on validation; empty where nothing was
    chosen."""
    choice = json.loads((context.stage_folder("model") / "choice.json").read_text(encoding="utf-8"))
    return choice["base_share"], {row["base_share"]: row["value"] for row in choice[PRIMARY]}


def triplets(context: Context, per_query: int, at_most: int | None = None) -> tuple[list[Triplet], int]:
    """The rows to train on, with ``per_query`` negatives, and how many queries have too few for one."""
    rows = read_negatives(context.stage_folder("negatives") / "negatives.jsonl")
    return triplets_of(context.recipe, train_queries(context), rows, per_query, at_most)


def triplets_of(
    recipe: Recipe, queries: Queries, negatives: Sequence[Negative], per_query: int, at_most: int | None = None
) -> tuple[list[Triplet], int]:
    """``at_most``: so many rows, drawn by seed and query, so that two recipes with the same queries draw the same
    ones."""
    part = recipe.negatives
    known = {q: list(ids) for q, ids in positives(list(queries.values())).items()}
    kept: dict[str, dict[str, list[str]]] = {}
    for negative in negatives:
        if negative.verdict == "relabelled":
            known[negative.query_id].append(negative.doc_id)
        elif negative.verdict == "kept":
            source = negative.miner if part.mix == "concatenation" else ""
            kept.setdefault(source, {}).setdefault(negative.query_id, []).append(negative.doc_id)
    rows: list[tuple[str, Triplet]] = []
    for source in part.by_name() if part.mix == "concatenation" and per_query else [""]:
        rows += [(source, row) for row in make_triplets(known, kept.get(source, {}), per_query)[0]]
    left_out = len(known) - len({row.query_id for _, row in rows})
    if at_most is not None and at_most < len(rows):

        def key(n):
            return hashlib.sha256(
                f"{recipe.seed}/{rows[n][1].query_id}/{rows[n][1].positive_id}/{rows[n][0]}".encode()
            ).digest()

        rows = [rows[n] for n in sorted(sorted(range(len(rows)), key=key)[:at_most])]
    return [row for _, row in rows], left_out


def retriever_settings(recipe: Recipe) -> RetrieverSettings:
    part = recipe.training
    shared = {
        name: getattr(part, name) for name in RetrieverSettings.__dataclass_fields__ if name not in ("loss", "lora")
    }
    return RetrieverSettings(
        **shared, loss=part.loss_settings(), lora=part.lora and LoraSettings(**part.lora.model_dump())
    )


def training_part(recipe: Recipe) -> list[Any]:
    """What of the recipe the training depends on; the base itself is an input, and its share is for later."""
    part = recipe.training.model_dump(
        exclude={"base", "guide", "teacher", "base_share", "checkpoint_steps", "trackers"}
    )
    return [
        part,
        recipe.negatives.per_query,
        recipe.negatives.mix,
        recipe.negatives.model_dump() if recipe.negatives.refresh else None,
    ]


def model_part(recipe: Recipe) -> list[Any]:
    part = recipe.training
    return [
        part.base_share,
        part.validation and [part.validation.model_dump(exclude={"evaluations", "patience"}), search_part(recipe)],
    ]


def guide_input(context: Context) -> dict[str, str]:
    guide = context.recipe.training.guide
    return {"guide": model_digest(guide)} if guide else {}


def teacher_part(recipe: Recipe) -> list[Any]:
    shared = learners(recipe)
    fused = [search_part(recipe)] if any(teacher in (FUSED, BASE) for _, teacher, _ in shared) else []
    return [[learner, per_query] for learner, _, per_query in shared] + fused


def teacher_input(context: Context) -> dict[str, str]:
    return {
        f"teacher of {learner}": teacher if teacher == OWN_RERANKER else scorer_digest(context, teacher)
        for learner, teacher, _ in learners(context.recipe)
    }


def reranker_part(recipe: Recipe) -> Any:
    return recipe.reranker.model_dump(
        exclude={"base", "teacher", "checkpoint_steps", "trackers", "first_stage", "first_stage_share", "depth"}
    )
