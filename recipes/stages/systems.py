"""Which system to deploy: what was compared, fused with BM25, reranked, cut and quantised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import write_json
from sharpen.evaluation.models import Models
from sharpen.evaluation.processes import process_state
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.fused import CorpusScorer
from sharpen.evaluation.retrievers.quantized import Quantized
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.systems import BM25_NAME, Index, Known, Rerank, Variant, compare_systems
from sharpen.recipes.engine import Counts, Folder, Stage
from sharpen.recipes.inputs import SYSTEMS, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.choosing import ChoosingPart
from sharpen.recipes.stages.comparison import ComparisonPart
from sharpen.recipes.stages.tuned import TunedPart
from sharpen.sdg.resources import Resources

BASE, TUNED = "base", "tuned"
QUANTIZED: dict[str, Variant] = {
    "int8": lambda index: Quantized(index, "int8"),
    "binary": lambda index: Quantized(index, "binary"),
}


class SystemsStage(ComparisonPart):
    """``depth``: documents that the run's reranker puts in order; None: there is none. ``matryoshka``: dimensions to
    which embeddings are cut."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs", "model")
    LATER: ClassVar[tuple[str, ...]] = ("matryoshka",)

    encoder: Encoder
    tuned: TunedPart
    choosing: ChoosingPart
    depth: int | None
    first_stage_weight: float
    matryoshka: tuple[int, ...] = ()
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
            matryoshka=training.matryoshka,
            seed=recipe.seed,
        )

    def reads(self) -> tuple[str, ...]:
        return (*self.READS, *(("reranker",) if self.depth else ()))


def measure_systems(part: SystemsStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    choosing, test = part.choosing.task(inputs, inputs.train_queries()), part.task(inputs)
    indexes = indexes_of(part, inputs, resources.models, (choosing.task.corpus, test.corpus))
    variants = {BASE: dict(QUANTIZED), TUNED: QUANTIZED | {_dimensions(d): _cut(d) for d in part.matryoshka}}
    # what has a vector a text can be cut and kept in fewer bits
    families = {BASE: part.encoder.as_it_is().family, TUNED: part.tuned.encoder(inputs).as_it_is().family}
    variants = {name: of_name for name, of_name in variants.items() if families[name] == "dense"}
    systems = compare_systems(
        choosing,
        test,
        indexes,
        baseline=BASE,
        rerank=_rerank(part, inputs),
        variants=variants,
        seed=part.seed,
    )
    if process_state().is_main_process:
        write_json(folder.path / SYSTEMS, systems.model_dump(mode="json"))
    return {
        "systems": len(systems.systems),
        "queries to choose by": systems.queries,
        "best": systems.best,
        "to deploy": systems.deploy,
    }


def indexes_of(part: SystemsStage, inputs: Inputs, models: Models, corpora: Sequence[Corpus]) -> dict[str, Index]:
    """What makes the index of a corpus by each retriever: of one of ``corpora`` from what is kept, and of any other, a
    sample that is timed, anew."""

    def models_of(corpus: Corpus) -> Models:
        return models if any(corpus is known for known in corpora) else replace(models, partitions=None)

    def bm25(corpus: Corpus, _keep: bool) -> CorpusScorer:
        return models.bm25(corpus) if models_of(corpus) is models else BM25(corpus)

    return {
        BASE: lambda corpus, keep: models_of(corpus).index(corpus, part.encoder, part.approximate, keep),
        TUNED: lambda corpus, keep: part.tuned.index(inputs, models_of(corpus), corpus, part.approximate, keep),
        BM25_NAME: bm25,
    }


def _dimensions(number: int) -> str:
    return f"{number} dimensions"


def _cut(dimensions: int) -> Variant:
    return lambda index: index.cut(dimensions)


def _rerank(part: SystemsStage, inputs: Inputs) -> Rerank | None:
    if part.depth is None:
        return None
    model = load_cross_encoder(str(inputs.folder("reranker")))

    def rerank(first: Retriever, corpus: Corpus, known: Known | None) -> Retriever:
        weight, precision = part.first_stage_weight, part.tuned.options.precision
        reranked = Reranked(first, corpus, model, part.depth, None, weight, precision)
        return reranked if known is None else reranked.remembering(known)

    return rerank


STAGE = Stage("systems", 5, SystemsStage, measure_systems, shared=True)
