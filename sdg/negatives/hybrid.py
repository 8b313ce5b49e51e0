"""Hard negatives that BM25 and a bi-encoder find together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.runs import fuse
from sharpen.sdg.negatives.base import MiningResult
from sharpen.sdg.negatives.bm25 import BM25_LANGUAGE, BM25Language, BM25Miner
from sharpen.sdg.negatives.dense import DenseOptions

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class HybridMiner(DenseOptions):
    """BM25 and dense by reciprocal rank fusion."""

    kind: Literal["hybrid"] = "hybrid"
    language: BM25Language | None = BM25_LANGUAGE

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """The ``depth`` best documents of both, fused. Raises ``InputError`` if the model cannot be loaded."""
        by_words = BM25Miner(language=self.language).mine(queries, corpus, depth, resources, seed)
        return MiningResult(fuse([by_words.run, self.nearest(queries, corpus, depth, resources)]))
