"""The tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.files import write_json, write_text
from evaluation.models import process_state
from recipes.engine import Context
from recipes.schema import Recipe
from recipes.stages.corpus import read_own_corpus
from recipes.stages.pairs import train_queries
from sdg.filters.round_trip import positives
from sdg.negatives import kept_negatives
from training.retriever import RetrieverSettings, train_retriever
from training.triplets import make_triplets


def train_model(context: Context, folder: Path) -> dict[str, Any]:
    recipe = context.recipe
    corpus, queries = read_own_corpus(context), train_queries(context)
    negatives = kept_negatives(context.stage_folder("negatives") / "negatives.jsonl")
    triplets, left_out = make_triplets(positives(list(queries.values())), negatives, recipe.negatives.per_query)
    settings = RetrieverSettings(**recipe.training.model_dump())
    with context.progress("training", 0) as advance:
        log = train_retriever(triplets, queries, corpus, settings, folder, recipe.seed, lambda p: advance(note=f"step {p.step} of {p.steps}, loss {p.loss if p.loss is None else round(p.loss, 3)}"))
    if process_state().is_main_process:
        write_json(folder / "training_log.json", log)
        write_text(folder / "README.md", _model_card(recipe, len(triplets)))
    return {"triplets": len(triplets), "queries_left_out": left_out, "steps": log[-1]["step"], "first_loss": log[0]["loss"], "last_loss": log[-1]["loss"]}


def _model_card(recipe: Recipe, triplets: int) -> str:
    llm = recipe.llm.embedded or recipe.llm.model
    labels = f"real labelled ones were mixed in ({Path(recipe.labelled.data).name}, {recipe.labelled.split})" if recipe.labelled else "no human label was used"
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sharpen]
---
# {recipe.name}

`{recipe.training.base}` fine-tuned with `sharpen` on {triplets} triplets of one document collection. The queries were
written by the language model `{llm}`; {labels}. Load it with `SentenceTransformer("this folder")`.
The licences of the base model and of the language model hold for what is made with them.
"""
