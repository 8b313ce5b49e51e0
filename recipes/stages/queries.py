"""Queries: what the LLM is asked for, and the real ones that are given."""

from __future__ import annotations

from typing import ClassVar, Self

from sharpen.evaluation.beir import Corpus, write_queries
from sharpen.evaluation.files import InputError, write_json, write_jsonl
from sharpen.recipes.engine import Counts, Folder, Stage, StagePart
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.judged import Judged
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.labelled import LabelledQueries, LabelledSettings, read_labelled
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.queries import GeneratedQueries, expected_prompts, generate_queries, sample_documents
from sharpen.sdg.rejections import RejectionReason, write_rejections
from sharpen.sdg.resources import Resources
from sharpen.sdg.strategies.settings import QueriesSettings


class QueriesStage(StagePart):
    """``queries``: None where all are labelled ones. ``evaluated``: those that are compared on, which are left out of
    the labelled ones."""

    READS: ClassVar[tuple[str, ...]] = ("corpus",)

    queries: QueriesSettings | None
    llm: LLMSettings | None
    labelled: LabelledSettings | None
    labelled_files: Judged | None
    evaluated: Judged | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(
            queries=recipe.queries if recipe.generates else None,
            llm=recipe.llm if recipe.generates else None,
            labelled=recipe.labelled,
            labelled_files=Judged.of(recipe.labelled),
            evaluated=Judged.of(recipe.evaluation) if recipe.labelled else None,
            seed=recipe.queries_seed,
        )


def make_queries(part: QueriesStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    labelled = labelled_queries(part, inputs.corpus())
    counts: Counts = {"asked": 0, "kept": 0, "rejected": {}}
    generated = GeneratedQueries()
    if part.queries:
        generated, spending = _generate(part, inputs, labelled, resources)
        counts = generated.counts() | ({"money": spending} if part.llm.prices else {})
    if part.labelled:
        counts |= {"labelled": len(labelled.kept), "labelled_left_out": labelled.left_out()}
    write_queries(folder.path / "queries.jsonl", labelled.kept + generated.kept)
    write_rejections(folder.path / "rejected.jsonl", generated.rejected)
    write_json(folder.path / "strategies.json", {name: stats.to_dict() for name, stats in generated.stats.items()})
    if generated.first_steps:
        write_jsonl(folder.path / "first_steps.jsonl", generated.first_steps)
    return counts


def labelled_queries(part: QueriesStage, corpus: Corpus) -> LabelledQueries:
    """The real queries to train on, without those that are compared on. Raises ``InputError`` if none is left."""
    if part.labelled is None:
        return LabelledQueries()
    return read_labelled(part.labelled, corpus, part.evaluated.texts() if part.evaluated else ())


def _generate(
    part: QueriesStage, inputs: Inputs, labelled: LabelledQueries, resources: Resources
) -> tuple[GeneratedQueries, str]:
    corpus, strategies = inputs.corpus(), part.queries.all_strategies()
    documents = sample_documents(list(corpus.values()), part.queries.documents, part.seed)
    prompts = expected_prompts(strategies, documents, corpus)
    with resources.progress("writing queries", prompts) as advance, resources.open_llm(part.llm) as llm:
        generated = generate_queries(
            corpus,
            llm,
            strategies,
            seed=part.seed,
            documents=part.queries.documents,
            labelled=labelled.kept,
            progress=lambda answer: advance(note=answer.text.strip().split("\n")[0][:60]),
        )
        spending = str(llm.spending)
    counts = generated.counts()
    if unpaid := counts["rejected"].get(RejectionReason.OVER_BUDGET):
        resources.warn(
            f"llm.budget: {unpaid:,} queries were not asked for ({spending}); the run goes on with the"
            f" {counts['kept']:,} that were kept. Raise it and run again to get the rest."
        )
    if not generated.kept:
        first = f" The first was {generated.rejected[0].text[:200]!r}." if generated.rejected else ""
        raise InputError(
            f"llm: none of the {counts['asked']} queries asked for was usable: {counts['rejected']}.{first} Try another"
            " model, or another queries.task and queries.pool"
        )
    return generated, spending


STAGE = Stage("queries", 4, QueriesStage, make_queries)
