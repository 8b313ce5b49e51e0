"""Hard negatives that BM25 ranks high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.negatives.base import MinerSettings, MiningResult

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


BM25Language = Annotated[str, Field(pattern="^([a-z]{2,3}|none)$")]
BM25_LANGUAGE = Field(
    None,
    description="By which words are stemmed, as a two-letter code; none: words as they are; null: of each document.",
)


class BM25Miner(MinerSettings):
    """The best documents of each query by BM25.

    >>> from sharpen.evaluation.beir import Document, Query
    >>> corpus = {"a": Document("a", "ice on a river"), "b": Document("b", "bread and salt")}
    >>> BM25Miner().mine([Query("q", "thick ice")], corpus, depth=2, resources=None, seed=0).run["q"].keys()
    dict_keys(['a'])
    """

    kind: Literal["bm25"] = "bm25"
    language: BM25Language | None = BM25_LANGUAGE
    backend: Literal["bm25s", "rank_bm25"] = Field(
        "bm25s", description="The same scores by either; rank_bm25 takes many times as long."
    )

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources | None, seed: int
    ) -> MiningResult:
        """The ``depth`` best documents of each query; those that share no word with it are left out."""
        from sharpen.evaluation.retrievers.bm25 import BM25, RankBM25

        texts = {q.id: q.text for q in queries}
        if self.backend == "rank_bm25":
            return MiningResult(RankBM25(corpus, language=self.language).search(texts, depth))
        if resources is None:
            return MiningResult(BM25(corpus, language=self.language).search(texts, depth))
        return MiningResult(resources.models.search_bm25(texts, corpus, depth, self.language))
