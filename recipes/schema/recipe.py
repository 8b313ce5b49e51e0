"""A recipe: its parts, and what holds between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sharpen.evaluation.encoders.settings import EncoderOptions
from sharpen.evaluation.partitions.settings import EngineSettings
from sharpen.evaluation.scorers import RERANKER, Teacher, llm_members, members_of
from sharpen.evaluation.settings import FILE, Settings
from sharpen.recipes.schema.corpus import CorpusPart
from sharpen.recipes.schema.evaluation import AT_HAND, EvaluationPart
from sharpen.recipes.schema.generative import GenerativePart
from sharpen.recipes.schema.reranker import RerankerPart
from sharpen.recipes.schema.training import ReplaySettings, TrainingPart
from sharpen.sdg.filters.settings import FiltersSettings
from sharpen.sdg.labelled import LabelledSettings
from sharpen.sdg.llm.settings import JOURNAL, LLMSettings
from sharpen.sdg.negatives.settings import NegativesSettings
from sharpen.sdg.reranking.settings import LLMRerankerSettings
from sharpen.sdg.splitting import SplitSettings
from sharpen.sdg.strategies.settings import QueriesSettings, asks_llm, strategy_name, strategy_names
from sharpen.training.settings import misfit


class Recipe(Settings):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="The run's folder under runs."
    )
    runs: str = Field("runs", description="Folder that holds the runs and the journal of LLM answers.")
    journal: str | None = Field(
        None, description=f"The file of LLM answers that all runs share. Default: {JOURNAL} in runs."
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(13, description="Of all that is drawn at random.")
    engine: EngineSettings | None = Field(
        None,
        description=(
            "Who encodes documents, scores pairs, searches and asks, in shards that are kept: local or ray; null: this"
            " process, or those of accelerate launch, and nothing is kept but what stages write."
        ),
    )
    corpus: CorpusPart
    llm: LLMSettings | None = Field(
        None,
        description=(
            "Who writes, and scores as a teacher; null: nobody, where all strategies are harvested and no miner, judge"
            " or teacher asks."
        ),
    )
    queries: QueriesSettings
    labelled: LabelledSettings | None = Field(
        None, description="Real labelled pairs to train on, too; strategies that rewrite queries take these as well."
    )
    filters: FiltersSettings = FiltersSettings()
    decisions: Annotated[str, FILE] | None = Field(
        None,
        description=(
            "decisions.jsonl of another run (sharpen serve): what people decided on its queries and negatives counts"
            " here, too, as far as they are the same."
        ),
    )
    split: SplitSettings = SplitSettings()
    negatives: NegativesSettings = NegativesSettings()
    training: TrainingPart
    reranker: RerankerPart | None = Field(None, description="A reranker, trained beside the retriever.")
    generative: GenerativePart | None = Field(
        None,
        description=(
            "A language model that writes the identifier of the document that answers, in place of the tuned encoder:"
            " training then names the encoder to compare with."
        ),
    )
    llm_reranker: LLMRerankerSettings = LLMRerankerSettings()
    evaluation: EvaluationPart = EvaluationPart()

    @property
    def journal_file(self) -> Path:
        return Path(self.journal or Path(self.runs) / JOURNAL)

    @model_validator(mode="after")
    def _parts_fit(self):
        for rule in RULES:
            for problem in rule(self):
                raise ValueError(problem)
        return self

    @property
    def generates(self) -> bool:
        """Whether queries are written at all."""
        return self.labelled is None or self.labelled.fraction < 1

    @property
    def asks_for_queries(self) -> bool:
        """Whether an LLM is asked for queries."""
        return self.generates and any(map(asks_llm, self.queries.strategies))

    @property
    def queries_seed(self) -> int:
        return self.seed if self.queries.seed is None else self.queries.seed

    @property
    def generated_split(self) -> Literal["dev", "test"]:
        """The split of the run's own queries that is compared on where the recipe names no others."""
        return "test" if self.split.test and self.evaluation.split != "dev" else "dev"

    @property
    def extra_negatives(self) -> int:
        """What the reranker learns from beyond the retriever's negatives."""
        return max(0, self.reranker.negatives - self.negatives.per_query) if self.reranker else 0

    @property
    def replay(self) -> ReplaySettings | None:
        """The earlier run that this one goes on from."""
        return self.generative.replay if self.generative else self.training.replay

    @property
    def mines(self) -> bool:
        """Whether there are rows of mined negatives: for the retriever, or for the reranker."""
        if self.generative:
            return False
        return self.training.takes_negatives or self.reranker is not None

    def learners(self) -> list[tuple[Literal["training", "reranker"], Teacher, int]]:
        """Who learns a teacher's scores, with the teacher and the negatives of a query."""
        if self.generative:
            return []
        candidates = [("training", self.training.teacher, self.negatives.per_query)]
        if self.reranker:
            candidates.append(("reranker", self.reranker.teacher, self.reranker.negatives))
        return [(learner, teacher, per_query) for learner, teacher, per_query in candidates if teacher]


def _evaluation_fits(recipe: Recipe) -> Iterator[str]:
    evaluation = recipe.evaluation
    if evaluation.data is None and not recipe.generates:
        yield "evaluation.data: without it generated queries are compared on, and labelled.fraction is 1; give it"
    if evaluation.data is None and evaluation.split not in ("test", "dev"):
        yield (
            "evaluation.split: the run's own queries are split into train, dev and test, and compared on test or dev;"
            f" got {evaluation.split!r}"
        )
    used = [(part.data, part.split) for part in (recipe.labelled, recipe.training.validation) if part]
    for other in evaluation.others:
        if (other.data, other.split) in used:
            yield (
                f"evaluation.others: {other.data}, split {other.split}, is trained on or chosen by; give another split"
            )


def _llm_fits(recipe: Recipe) -> Iterator[str]:
    if recipe.llm:
        return
    places: list[tuple[str, str]] = []
    if recipe.asks_for_queries:
        asking = [(n, s) for n, s in enumerate(recipe.queries.strategies) if asks_llm(s)]
        places += [(f"queries.strategies.{n}", strategy_name(s)) for n, s in asking]
    if recipe.filters.judge and recipe.filters.judge.llm is None:
        places.append(("filters.judge", "the judge"))
    places += [(f"{learner}.teacher", s) for learner, teacher, _ in recipe.learners() for s in llm_members(teacher)]
    for key in ("miners", "filters"):
        asking = [(n, p) for n, p in enumerate(getattr(recipe.negatives, key)) if getattr(p, "llm", p) is None]
        places += [(f"negatives.{key}.{n}", p.kind) for n, p in asking]
    if recipe.generative and recipe.generative.identifiers.asks_llm:
        places.append(("generative.identifiers.kind", "keywords"))
    for place, name in places:
        yield f"{place}: {name} asks an LLM, and the recipe has none; give the part llm"


def _labelled_fits(recipe: Recipe) -> Iterator[str]:
    labelled, first = recipe.labelled, next(filter(asks_llm, recipe.queries.strategies), None)
    if labelled is None and getattr(first, "rewrites", False):
        yield (
            f"queries.strategies: {first.kind} works on the queries of earlier strategies or of labelled (not on"
            " harvested ones), so it cannot be the first"
        )
    if labelled and (labelled.data, labelled.split) == (recipe.evaluation.data, recipe.evaluation.split):
        yield "labelled: these are the queries that are evaluated on; give another split"


def _reranker_fits(recipe: Recipe) -> Iterator[str]:
    reranker = recipe.reranker
    if reranker and reranker.first_stage == "bm25" and not recipe.evaluation.bm25:
        yield "reranker.first_stage: bm25 is what is compared with, and evaluation.bm25 is false"
    if RERANKER in members_of(recipe.training.teacher or ()):
        if reranker is None:
            yield (
                "training.teacher: reranker is the one that is trained in the same run; give the part reranker, or a"
                " model's folder or name"
            )
        elif reranker.teacher:
            yield "training.teacher: the run's reranker learns from a teacher itself; name that one here, too"


def _negatives_fit(recipe: Recipe) -> Iterator[str]:
    if recipe.negatives.refresh and recipe.training.teacher:
        yield "negatives.refresh: a teacher has scored the first negatives only; take a loss without one"
    if recipe.negatives.refresh and recipe.training.lora:
        yield "negatives.refresh: adapters are merged after the first epoch; take training.lora: null"
    if recipe.negatives.refresh and recipe.training.family != "dense":
        yield "negatives.refresh: mines with dense encoders only; leave it out, or take training.family: dense"
    if recipe.evaluation.approximate and recipe.training.family != "dense":
        yield "evaluation.approximate: cells are made of dense vectors; leave it out, or take training.family: dense"
    if reason := misfit(recipe.training, recipe.negatives.per_query):
        yield reason


def _validation_fits(recipe: Recipe) -> Iterator[str]:
    labelled, evaluation = recipe.labelled, recipe.evaluation
    name, learner = ("generative", recipe.generative) if recipe.generative else ("training", recipe.training)
    if (chosen_by := learner.validation) is None:
        return
    by = (chosen_by.data, chosen_by.split)
    if labelled and (labelled.data, labelled.split) == by:
        yield f"{name}.validation: these are the labelled queries that are trained on; give another split"
    if by == (evaluation.data, evaluation.split) and chosen_by.data:
        yield (
            f"{name}.validation: these are the queries that are compared on at the end, which what is chosen by them"
            " would win; give another split"
        )
    if chosen_by.data is None:
        yield from _generated_validation_fits(recipe, name)


def _generated_validation_fits(recipe: Recipe, name: str) -> Iterator[str]:
    if not recipe.split.dev:
        yield (f"{name}.validation: without data it takes the queries that split.dev holds out, and split.dev is 0")
    if recipe.evaluation.data is None and (recipe.evaluation.split == "dev" or not recipe.split.test):
        yield (
            f"{name}.validation: the generated queries of split.dev are compared on at the end; give split.test a"
            " fraction, too, or evaluation.data"
        )


def _generative_fits(recipe: Recipe) -> Iterator[str]:
    generative = recipe.generative
    if generative is None:
        return
    if any(other.data != AT_HAND for other in recipe.evaluation.others):
        yield (
            "evaluation.others: a generative retriever finds nothing but its own documents, so there is nothing to"
            " measure elsewhere; take it out"
        )
    if generative.identifiers.kind == "given" and generative.replay:
        yield (
            "generative.identifiers.kind: given has the identifiers of all documents in its file, and replay keeps"
            " those of the earlier run; say kind: text or keywords"
        )
    if recipe.reranker:
        yield (
            "reranker: with generative there is none in the run; sharpen evaluate generative:<model> --rerank puts what"
            " the model finds in order"
        )
    unused = {"training": TrainingPart(base=recipe.training.base), "negatives": NegativesSettings()}
    used = (*EncoderOptions.model_fields, "base")
    for part, default in unused.items():
        for key in type(default).model_fields:
            if key not in used and getattr(getattr(recipe, part), key) != getattr(default, key):
                yield f"{part}.{key}: has no effect with generative; take it out, or say it of generative"
    names = {name for strategy in recipe.queries.strategies for name in strategy_names(strategy)}
    if second := generative.preferences:
        if missing := [name for name in second.strategies if name not in names]:
            yield (
                f"generative.preferences.strategies: there is no strategy {missing[0]!r} in queries; there are"
                f" {', '.join(sorted(names))}"
            )
        if names <= set(second.strategies) and recipe.labelled is None:
            yield "generative.preferences.strategies: no strategy is left for the first stage; add one to queries"


RULES = (
    _evaluation_fits,
    _llm_fits,
    _labelled_fits,
    _reranker_fits,
    _negatives_fit,
    _validation_fits,
    _generative_fits,
)
