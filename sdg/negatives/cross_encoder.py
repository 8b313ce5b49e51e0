"""Hard negatives that a cross-encoder puts first among those that another miner finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.settings import Count, CrossEncoderName
from sharpen.sdg.negatives.base import MinerSettings, MiningResult
from sharpen.sdg.negatives.bm25 import BM25Miner
from sharpen.sdg.negatives.dense import DenseMiner
from sharpen.sdg.negatives.hybrid import HybridMiner

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

FIRST_STAGES = {"bm25": BM25Miner(), "dense": DenseMiner(), "hybrid": HybridMiner()}


class CrossEncoderMiner(MinerSettings):
    """The best documents of a first stage, in the order of a cross-encoder."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    model: CrossEncoderName = Field(
        description="A reranker: a folder (say runs/mine/reranker) or a hub name; safetensors only."
    )
    of: Literal["bm25", "dense", "hybrid"] = Field("bm25", description="Who finds what is scored.")
    depth: Count = Field(100, description="So many of the first stage's documents are scored.")

    @model_validator(mode="after")
    def _deep_enough(self):
        if self.depth < self.ranks[1]:
            raise ValueError(f"depth: {self.depth} documents are scored, and ranks goes to {self.ranks[1]}")
        return self

    def needs_base(self) -> bool:
        return FIRST_STAGES[self.of].needs_base()

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """The first stage's ``self.depth`` best documents of each query (whatever ``depth`` is), with the
        cross-encoder's scores. Raises ``InputError`` if the model cannot be loaded."""
        first = FIRST_STAGES[self.of].mine(queries, corpus, self.depth, resources, seed).run
        pairs = [(q.id, i) for q in queries for i in ranking(first[q.id])[: self.depth]]
        run: Run = {q.id: {} for q in queries}
        for (q, i), score in resources.models.score(self.model, pairs, {q.id: q for q in queries}, corpus).items():
            run[q][i] = score
        return MiningResult(run)
