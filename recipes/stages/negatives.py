"""Hard negatives of the queries that are trained on: mined, filtered and drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import write_corpus
from sharpen.evaluation.custom import Custom
from sharpen.evaluation.encoders.settings import Encoder, PrecisionSetting
from sharpen.evaluation.processes import process_state
from sharpen.recipes.decided import DecidedPart, Elsewhere, decisions_of
from sharpen.recipes.engine import Counts, Folder, Stage
from sharpen.recipes.inputs import WRITTEN, Inputs
from sharpen.recipes.schema.recipe import Recipe
from sharpen.sdg.decisions import DecidedNegatives, NegativeDecision, count_decided
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.negatives.mine import MinedNegatives, mine_with_settings
from sharpen.sdg.negatives.record import write_negatives, write_rejected_passages
from sharpen.sdg.negatives.settings import NegativesSettings
from sharpen.sdg.resources import Resources
from sharpen.sdg.splitting import read_split


class NegativesStage(DecidedPart):
    """``extra``: negatives of a query beyond ``negatives.per_query``, which the reranker learns from. ``llm`` and
    ``encoder``: who is asked and who searches where a part names none; None where none does. ``decisions``: of people
    on negatives, made after all filters."""

    READS: ClassVar[tuple[str, ...]] = ("corpus", "pairs")
    LATER: ClassVar[tuple[str, ...]] = ("decisions", "elsewhere")

    negatives: NegativesSettings
    extra: int
    llm: LLMSettings | None
    encoder: Encoder | None
    precision: PrecisionSetting
    seed: int
    decisions: tuple[NegativeDecision, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        negatives = recipe.negatives.with_llm_seed(recipe.queries_seed)
        custom = any(isinstance(part, Custom) for part in (*negatives.miners, *negatives.filters))
        asks = custom or any(part.llm is None for part in negatives.llm_parts())  # a user's own may ask, too
        return cls(
            negatives=negatives,
            extra=recipe.extra_negatives,
            llm=recipe.llm if asks else None,
            encoder=recipe.training.encoder if negatives.needs_base() else None,
            precision=recipe.training.precision,
            seed=recipe.seed,
            decisions=decisions_of(recipe).negatives,
            elsewhere=Elsewhere.of(recipe),
        )

    def mine(self, inputs: Inputs, resources: Resources, current: SentenceTransformer | None = None) -> MinedNegatives:
        """Mine, filter and draw. ``current``: the model in training, in place of its base."""
        split = read_split(inputs.folder("pairs") / "split.jsonl")
        if current is not None:
            resources = replace(resources, models=resources.models.with_current(current))
        decided = (DecidedNegatives(self.decisions),) if self.decisions else ()
        settings = self.negatives.model_copy(update={"filters": (*self.negatives.filters, *decided)})
        return mine_with_settings(
            inputs.train_queries(),
            inputs.corpus(),
            settings,
            held_out=[doc_id for doc_id, side in split.items() if side != "train"],
            more=self.extra,
            resources=resources,
            seed=self.seed,
        )


def mine(part: NegativesStage, inputs: Inputs, folder: Folder, resources: Resources) -> Counts:
    mined = part.mine(inputs, resources)
    if process_state().is_main_process:
        write_negatives(folder.path / "negatives.jsonl", mined.rows)
        if any(miner.kind == "llm" for miner in part.negatives.miners):
            write_corpus(folder.path / WRITTEN, mined.written)
            write_rejected_passages(folder.path / "rejected.jsonl", mined.rejected)
    return mined.counts | ({"decided": count_decided(mined.rows)} if part.decisions else {})


STAGE = Stage("negatives", 7, NegativesStage, mine, shared=True)
