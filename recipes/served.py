"""A run's model for others: exported, checked against what a server gives, and its index for a vector store."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Corpus, read_corpus, read_queries
from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.encoders.load import load_encoder, model_digest
from sharpen.evaluation.encoders.routes import ONE_SIDE, has_routes, prompt_of
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.export.formats import export_model
from sharpen.evaluation.export.reading import ExportInfo, Format
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.evaluation.stores import IndexInfo, StoreName, write_store
from sharpen.evaluation.verification.endpoint import Endpoint
from sharpen.evaluation.verification.sample import draw_sample
from sharpen.evaluation.verification.verify import Verdict, verify_endpoint
from sharpen.recipes.engine import RECIPE
from sharpen.recipes.finished import task_of
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.resources import show_progress
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.tuned import TunedPart

CHECKED_QUERIES, CHECKED_DOCUMENTS = 32, 64
"""By which an exported model is compared with the model itself."""
OWN_TEXTS = Path(__file__).parent / "demo" / "python_docs" / "queries.jsonl"
"""For a model that is no run's, where no data is given."""
SEED = 13


@dataclass(frozen=True)
class ModelWithTexts:
    """``encoder``: a run's model, or any other. ``base``: of a run, what it was tuned from."""

    encoder: Encoder
    base: Encoder | None
    queries: list[str]
    documents: list[str]


def export_to(name: str, to: str, target: Path, data: str | None, console: Console) -> ExportInfo:
    """Export a run's model, or any other, and print how near it is. Raises ``InputError`` for an unknown format and as
    ``export_model`` does."""
    formats = get_args(Format)
    if to not in formats:
        raise InputError(f"--to {to}: no such format; there are {', '.join(formats)}")
    given, rng = model_with_texts(name, data), random.Random(SEED)
    queries = rng.sample(given.queries, min(CHECKED_QUERIES, len(given.queries)))
    documents = rng.sample(given.documents, min(CHECKED_DOCUMENTS, len(given.documents)))
    info = export_model(given.encoder.model, to, target, queries, documents)
    check = info.check
    console.print(
        f"{target}: {info.bytes / 1e6:.1f} MB; over {check.texts} texts, a cosine of {check.mean_cosine:.5f} in the"
        f" mean and {check.least_cosine:.5f} at the least to the model in float32. How it is loaded:"
        f" {target / 'README.md'}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return info


def verify_server(
    name: str, endpoint: Endpoint, console: Console, data: str | None, bare: bool, min_cosine: float
) -> Verdict:
    """Say whether a server gives the vectors of a run's model, or of any other; ``bare`` and ``min_cosine`` as in
    ``verify_endpoint``. Raises ``InputError`` as that does, and for a model with two encoders."""
    given = model_with_texts(name, data)
    ours = _with_prompts(given.encoder)
    if has_routes(ours):
        raise InputError(
            f"{name}: it has an encoder for queries and one for documents, and a server has one; {ONE_SIDE}"
        )
    others = {f"its base, {given.base.model}": lambda: _with_prompts(given.base)} if given.base else {}
    sample = draw_sample(ours, given.queries, given.documents)
    verdict = verify_endpoint(ours, endpoint.vectors, sample, others, bare, min_cosine)
    _print_verdict(verdict, endpoint, console)
    return verdict


def index_to(run: Path, to: str, target: Path, data: str | None, console: Console) -> IndexInfo:
    """Write a run's corpus with the vectors of its model for a vector store. ``data``: other documents, with any
    model. Raises ``InputError`` for an unknown store and as ``write_store`` does."""
    stores = get_args(StoreName)
    if to not in stores:
        raise InputError(f"--to {to}: no such store; there are {', '.join(stores)}")
    recipe = _recipe_of(run)
    if recipe is None and data is None:
        raise InputError(f"{run}: no run, so there are no documents; give --data, documents in BEIR layout")
    encoder = TunedPart.of(recipe).encoder(Inputs(run)) if recipe else Encoder(model=str(run))
    model = _dense(encoder)
    corpus = _documents(data) if data else Inputs(run).corpus()
    models = Models(progress=lambda label, total: show_progress(console, label, total))
    dense = TunedPart.of(recipe).index(Inputs(run), models, corpus) if recipe else models.index(corpus, encoder)
    info = IndexInfo(
        store=to,
        model=model_digest(encoder.model),
        dimension=dense.vectors.shape[1],
        documents=len(corpus),
        without_token=0,
        query_prompt=prompt_of(model, "query", encoder.query_prompt),
        document_prompt=prompt_of(model, "document", encoder.document_prompt),
        max_seq_length=model.max_seq_length,
    )
    info = write_store(target, corpus, dense.ids, dense.vectors, info)
    console.print(
        f"{target}: {info.documents:,} documents, {info.dimension} numbers each. How it is searched:"
        f" {target / 'README.md'}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return info


def model_with_texts(name: str, data: str | None = None) -> ModelWithTexts:
    """A run's model with queries and documents of it, or any model with those of ``data``. Raises ``InputError`` for a
    run without a model, and as readers do."""
    run = Path(name)
    recipe = _recipe_of(run)
    if recipe is None:
        queries, documents = _texts_of(data)
        return ModelWithTexts(Encoder(model=name), None, queries, documents)
    if not (run / "model" / "modules.json").exists():
        raise InputError(f"{run}: no model there yet; `sharpen train {run}` makes it")
    inputs = Inputs(run)
    encoder, base = TunedPart.of(recipe).encoder(inputs), recipe.training.encoder
    if data:
        queries, documents = _texts_of(data)
    else:
        queries = [query.text for query in task_of(recipe, inputs).queries.values()]
        documents = [document.content for document in inputs.corpus().values()]
    return ModelWithTexts(encoder, base, queries, documents)


def _dense(encoder: Encoder) -> SentenceTransformer:
    """Raises ``InputError`` for encoders of other families, whose vectors neither servers nor these stores take."""
    return load_encoder(encoder.model, max_seq_length=encoder.max_seq_length, attention=encoder.attention)


def _with_prompts(encoder: Encoder) -> SentenceTransformer:
    """As ``_dense``, with the prompts of the encoder's options for its own."""
    model = _dense(encoder)
    model.prompts = {
        "query": prompt_of(model, "query", encoder.query_prompt),
        "document": prompt_of(model, "document", encoder.document_prompt),
    }
    return model


def _recipe_of(run: Path) -> Recipe | None:
    is_run = (run / RECIPE).is_file() and not (run / "modules.json").exists()  # a model's folder has a recipe, too
    return load_recipe(str(run)).recipe if is_run else None


def _texts_of(data: str | None) -> tuple[list[str], list[str]]:
    if data is None:
        texts = [query.text for query in read_queries(OWN_TEXTS).values()]
        return texts, texts
    folder = Path(data)
    if (folder / "queries.jsonl").exists():
        queries = [query.text for query in read_queries(folder / "queries.jsonl").values()]
        return queries, [document.content for document in read_corpus(folder / "corpus.jsonl").values()]
    task = load_task(data, "test")
    return list(task.texts.values()), [document.content for document in task.corpus.values()]


def _documents(data: str) -> Corpus:
    path = Path(data)
    if path.is_file():
        return read_corpus(path)
    return read_corpus(path / "corpus.jsonl") if path.is_dir() else load_task(data, "test").corpus


def _print_verdict(verdict: Verdict, endpoint: Endpoint, console: Console) -> None:
    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    where = escape(f"{endpoint.where} (model {endpoint.model})")
    if verdict.serves:
        say(f"[green]{where} serves this model.[/]")
    else:
        say(f"[red]{where} does not serve this model:[/]")
    _print_list(verdict.causes, say)
    asked = f"{verdict.texts - verdict.refused} of {verdict.texts} texts were answered"
    say(f"{asked}; cosine {verdict.mean_cosine:.4f} in the mean, {verdict.least_cosine:.4f} at the least.")
    _print_list(verdict.notes, say)


def _print_list(lines: Sequence[str], say) -> None:
    for line in lines:
        say(f"- {escape(line)}")
