"""Which system to serve: what was compared, fused with BM25 and reranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import write_json
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.retrievers.fused import CorpusScorer
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.scorers import BM25_SCORER
from sharpen.evaluation.systems import BM25_NAME, Rerank, compare_systems
from sharpen.recipes.engine import Counts, Folder, Stage
from sharpen.recipes.inputs import SYSTEMS, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.choosing import ChoosingPart
from sharpen.recipes.stages.comparison import ComparisonPart
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.sdg.resources import Resources

BASE, TUNED = "base", "tuned"


class SystemsStage(ComparisonPart):
    """``depth``: documents that the run's reranker puts in order; None: there is none."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "model")

    encoder: Encoder
    tuned: TunedPart
    choosing: ChoosingPart
    depth: int | None
    first_stage_weight: float
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        training, reranker = recipe.training, recipe.reranker
        return cls(
            **cls.common(recipe),
            encoder=training.encoder,
            tuned=TunedPart.of(recipe),
            choosing=ChoosingPart.of(recipe),
            depth=reranker.depth if reranker else None,
            first_stage_weight=reranker.first_stage_weight if reranker else 0.0,
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("reranker",) if self.depth else ()))


def measure_systems(part: SystemsStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    choosing, test = part.choosing.task(inputs, inputs.train_queries()), part.task(inputs)
    made: dict[int, tuple[Corpus, Mapping[str, CorpusScorer]]] = {}

    def members(corpus: Corpus) -> Mapping[str, CorpusScorer]:
        if id(corpus) not in made:
            models, keep = resources.models, corpus is test.corpus
            made[id(corpus)] = (
                corpus,
                {
                    BASE: models.index(corpus, part.encoder, part.approximate, keep),
                    TUNED: part.tuned.index(inputs, models, corpus, part.approximate, keep),
                    BM25_NAME: models.corpus_scorer(BM25_SCORER, corpus),
                },
            )
        return made[id(corpus)][1]

    systems = compare_systems(
        choosing, test, members, baseline=BASE, rerank=_rerank(part, inputs, resources), seed=part.seed
    )
    if process_state().is_main_process:
        write_json(folder.path / SYSTEMS, systems.model_dump(mode="json"))
    return {"systems": len(systems.systems), "queries to choose by": systems.queries, "best": systems.best}


def _rerank(part: SystemsStage, inputs: Inputs, resources: Resources) -> Rerank | None:
    if part.depth is None:
        return None
    model = load_cross_encoder(str(inputs.folder("reranker")))

    def rerank(first: Retriever, corpus: Corpus) -> Retriever:
        return Reranked(
            first, corpus, model, part.depth, None, part.first_stage_weight, precision=part.tuned.options.precision
        )

    return rerank


STAGE = Stage("systems", 3, SystemsStage, measure_systems, shared=True)
