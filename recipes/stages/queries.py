"""Queries: what the LLM is asked for, what is harvested, and the real ones that are given."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar, Self

from sharpen.evaluation.beir import Corpus, Document, write_queries
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError, write_json, write_jsonl
from sharpen.evaluation.models import Models
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.retrievers.shared import SharedSearch
from sharpen.evaluation.scorers import BM25_SCORER
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.judged import Evaluated, Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.generated import GeneratedQueries, also_answered
from sharpen.sdg.labelled import LabelledQueries, LabelledSettings, read_labelled
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.queries import expected_prompts, generate_queries
from sharpen.sdg.rejections import RejectionReason, write_rejections
from sharpen.sdg.resources import Resources
from sharpen.sdg.selecting import sample_documents, select_documents
from sharpen.sdg.strategies.base import Strategy
from sharpen.sdg.strategies.harvested import Harvested
from sharpen.sdg.strategies.settings import QueriesSettings
from sharpen.sdg.strategies.simulated_user import SimulatedUser


class QueriesStage(StagePart):
    """``queries``: None where all are labelled ones. ``llm``: None where nothing is asked. ``evaluated``: those that
    are compared on, which are left out of the labelled ones. ``encoder``: who chooses the documents, or what a
    simulated user searches with; None where neither is so."""

    READS: ClassVar[tuple[str, ...]] = ("corpus",)
    LATER: ClassVar[tuple[str, ...]] = ("encoder",)

    queries: QueriesSettings | None
    llm: LLMSettings | None
    labelled: LabelledSettings | None
    labelled_files: Judged | None
    evaluated: Evaluated
    encoder: Encoder | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(
            queries=recipe.queries if recipe.generates else None,
            llm=recipe.llm if recipe.asks_for_queries else None,
            labelled=recipe.labelled,
            labelled_files=Judged.of(recipe.labelled),
            evaluated=Evaluated.of(recipe) if recipe.labelled else Evaluated(),
            encoder=recipe.training.encoder
            if recipe.asks_for_queries and (recipe.queries.select == "coverage" or recipe.queries.needs_base)
            else None,
            seed=recipe.queries_seed,
        )


def make_queries(part: QueriesStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    # on every process, since all of them share the encoding; all else is for the first one
    documents = chosen_documents(part, inputs.corpus(), resources.models)
    if not (part.queries and part.queries.needs_base):
        return _make(part, inputs, folder, resources, documents) if process_state().is_main_process else {}
    with SharedSearch(resources.models.index(inputs.corpus())) as base:
        if process_state().is_main_process:
            return _make(part, inputs, folder, resources, documents, base)
    return {}


def _make(
    part: QueriesStage,
    inputs: Inputs,
    folder: Folder,
    resources: Resources,
    documents: list[Document],
    base: Retriever | None = None,
) -> Counts:
    labelled = labelled_queries(part, inputs.corpus(), resources)
    counts: Counts = {"asked": 0, "kept": 0, "rejected": {}}
    generated = GeneratedQueries()
    if part.queries:
        strategies = strategies_of(part.queries, inputs.corpus(), resources.models, base)
        generated, spending = _generate(part, inputs, strategies, documents, labelled, resources)
        counts = generated.counts() | ({"money": spending} if part.llm and part.llm.prices else {})
    if part.labelled:
        counts |= {"labelled": len(labelled.kept), "labelled_left_out": labelled.left_out()}
    real = [also_answered(query, generated.also_answers.get(query.id, ())) for query in labelled.kept]
    write_queries(folder.path / "queries.jsonl", real + generated.kept)
    write_rejections(folder.path / "rejected.jsonl", generated.rejected)
    write_json(folder.path / "strategies.json", {name: stats.to_dict() for name, stats in generated.stats.items()})
    if generated.first_steps:
        write_jsonl(folder.path / "first_steps.jsonl", generated.first_steps)
    return counts


def chosen_documents(part: QueriesStage, corpus: Corpus, models: Models) -> list[Document]:
    """The documents that the LLM is to write for, as ``queries.select`` says."""
    if part.queries is None or part.encoder is None or part.queries.select != "coverage":
        return sample_documents(list(corpus.values()), part.queries and part.queries.documents, part.seed)
    index = models.dense_index(corpus, "queries.select: coverage")
    return select_documents(list(corpus.values()), index.vectors, part.queries.documents, part.seed)


def strategies_of(
    queries: QueriesSettings, corpus: Corpus, models: Models, base: Retriever | None = None
) -> list[Strategy | Harvested]:
    """The strategies, each simulated user with what it searches by. ``base``: the base's index, where there is one."""
    strategies = queries.all_strategies()
    for n, strategy in enumerate(strategies):
        if isinstance(strategy, SimulatedUser):
            retriever = (
                (base or models.index(corpus)) if strategy.needs_base else models.corpus_scorer(BM25_SCORER, corpus)
            )
            strategies[n] = strategy.model_copy(update={"retriever": retriever})
    return strategies


def labelled_queries(part: QueriesStage, corpus: Corpus, resources: Resources | None = None) -> LabelledQueries:
    """The real queries to train on, without those that are compared on. Raises ``InputError`` if none is left."""
    if part.labelled is None:
        return LabelledQueries()
    return read_labelled(part.labelled, corpus, part.evaluated.texts(), resources)


def _generate(
    part: QueriesStage,
    inputs: Inputs,
    strategies: list[Strategy | Harvested],
    documents: list[Document],
    labelled: LabelledQueries,
    resources: Resources,
) -> tuple[GeneratedQueries, str]:
    corpus = inputs.corpus()
    prompts = expected_prompts(strategies, documents, corpus)
    opened = resources.open_llm(part.llm) if part.llm else nullcontext()
    with resources.progress("writing queries", prompts) as advance, opened as llm:
        generated = generate_queries(
            corpus,
            llm,
            strategies,
            seed=part.seed,
            documents=documents,
            labelled=labelled.kept,
            progress=lambda answer: advance(note=answer.text.strip().split("\n")[0][:60]),
        )
        spending = str(llm.spending) if llm else ""
    counts = generated.counts()
    if unpaid := counts["rejected"].get(RejectionReason.OVER_BUDGET):
        resources.warn(
            f"llm.budget: {unpaid:,} queries were not asked for ({spending}); the run goes on with the"
            f" {counts['kept']:,} that were kept. Raise it and run again to get the rest."
        )
    if not generated.kept:
        first = generated.rejected[0] if generated.rejected else None
        first = f" The first was {first.text[:200]!r}: {first.message}." if first else ""
        if part.llm is None:
            raise InputError(
                f"queries.strategies: none of {counts['asked']} harvested texts is a query: {counts['rejected']}."
                f"{first} Take more kinds, a smaller min_words, or a strategy that asks an LLM"
            )
        raise InputError(
            f"llm: none of the {counts['asked']} queries asked for was usable: {counts['rejected']}.{first} Try another"
            " model, or another queries.task and queries.pool"
        )
    return generated, spending


STAGE = Stage("queries", 5, QueriesStage, make_queries, shared=True)
