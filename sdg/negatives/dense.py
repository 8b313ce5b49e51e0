"""Hard negatives that a bi-encoder finds near the query: the model that is trained, or any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Query, Run
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.settings import Count, EncoderName
from sharpen.sdg.negatives.base import MinerSettings, MiningResult

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class DenseOptions(MinerSettings):
    """What miners that search by cosine have in common."""

    model: EncoderName | None = Field(None, description="An encoder's folder or name; null: the base of the training.")
    query_prompt: str | None = Field(
        None, description="Of model; null: the model's own (for the base, those of training)."
    )
    document_prompt: str | None = Field(None, description="As query_prompt.")
    block: Count = Field(100_000, description="Documents whose embeddings are in memory at once.")
    approximate: bool = Field(
        False, description="Search only the cells of a k-means that are nearest to a query (FAISS)."
    )

    def needs_base(self) -> bool:
        return self.model is None

    def encoder(self, resources: Resources) -> Encoder | None:
        """The model with its prompts; None: the base, or the model in training."""
        if self.model is None:
            return None
        return Encoder(
            model=self.model,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            precision=resources.models.precision,
        )

    def nearest(self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources) -> Run:
        """The ``depth`` nearest documents of each query by cosine.

        A corpus of at most ``block`` documents is searched by the index that other steps use, too. A larger one is
        encoded and searched block after block, of which the best are kept, so that memory does not grow with it; where
        there are ``partitions``, each shard of the documents' vectors is a block, and they stay for others.
        """
        texts = {q.id: q.text for q in queries}
        encoder = self.encoder(resources)
        if len(corpus) <= self.block:
            # another encoder's index is asked for again only where several runs mine with it
            keep = encoder is None or resources.models.remember_scores
            return resources.models.index(corpus, encoder, self.approximate, keep).search(texts, depth)
        return self._in_blocks(texts, corpus, depth, resources)

    def _in_blocks(self, texts: dict[str, str], corpus: Corpus, depth: int, resources: Resources) -> Run:
        from sharpen.evaluation.retrievers.encoders import encoder_index  # loads torch

        encoder = self.encoder(resources)
        if (found := resources.models.search_in_parts(texts, corpus, depth, encoder)) is not None:
            return found
        options = encoder or resources.models.need_base()
        model = resources.models.load(encoder)
        ids = list(corpus)
        best: Run = {q: {} for q in texts}
        with resources.progress("encoding to mine", len(corpus)) as advance:
            for start in range(0, len(ids), self.block):
                index = encoder_index(
                    {i: corpus[i] for i in ids[start : start + self.block]},
                    model,
                    options.query_prompt,
                    options.document_prompt,
                    precision=options.precision,
                    progress=advance,
                    approximate=self.approximate,
                )
                for q, scores in index.search(texts, depth).items():
                    merged = best[q] | scores
                    best[q] = {i: merged[i] for i in ranking(merged)[:depth]}
        return best


class DenseMiner(DenseOptions):
    """The nearest documents of each query by cosine."""

    kind: Literal["dense"] = "dense"

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """The ``depth`` nearest documents of each query. Raises ``InputError`` if the model cannot be loaded."""
        return MiningResult(self.nearest(queries, corpus, depth, resources))
