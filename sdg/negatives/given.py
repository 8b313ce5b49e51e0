"""Negatives that came with the queries, as ``sharpen convert`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Query, Run, chunks_by_document
from sharpen.evaluation.settings import FILE
from sharpen.sdg.labelled import PREFIX
from sharpen.sdg.negatives.base import MinerSettings, MiningResult
from sharpen.sdg.negatives.record import read_negatives

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources


class GivenMiner(MinerSettings):
    """The negatives in a file, for labelled queries that have some there.

    Of a document that was cut, the first chunk stands for it. What is no document of the corpus is left out.
    """

    kind: Literal["given"] = "given"
    data: Annotated[str, FILE] = Field(description="negatives.jsonl, as `sharpen convert` writes it.")

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """At most ``depth`` documents of each query, by their ranks; those of several miners in turns. Raises
        ``InputError`` as ``read_negatives`` does."""
        first = {doc_id: chunks[0].id for doc_id, chunks in chunks_by_document(corpus).items()}
        run: Run = {query.id: {} for query in queries}
        for row in sorted(read_negatives(Path(self.data)), key=lambda row: row.rank):
            doc_id = row.doc_id if row.doc_id in corpus else first.get(row.doc_id)
            ranked = run.get(f"{PREFIX}{row.query_id}")
            if ranked is not None and doc_id and len(ranked) < depth:
                ranked.setdefault(doc_id, 1.0 / (1 + len(ranked)))
        return MiningResult(run)
