"""Negatives that came with the queries, as ``sharpen convert`` writes them, or people said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Query, Run, chunks_by_document, read_qrels
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
    data: Annotated[str, FILE] = Field(
        description=(
            "negatives.jsonl, as `sharpen convert` writes it; or qrels (`.tsv`), whose documents of grade 0 are the"
            " negatives, as the marks of `sharpen serve`."
        )
    )

    def mine(
        self, queries: Sequence[Query], corpus: Corpus, depth: int, resources: Resources, seed: int
    ) -> MiningResult:
        """At most ``depth`` documents of each query, by their ranks, those of several miners in turns; those of qrels
        in their order. Raises ``InputError`` as ``read_negatives`` and ``read_qrels`` do."""
        first = {doc_id: chunks[0].id for doc_id, chunks in chunks_by_document(corpus).items()}
        run: Run = {query.id: {} for query in queries}
        for query_id, given in self._negatives():
            doc_id = given if given in corpus else first.get(given)
            ranked = run.get(f"{PREFIX}{query_id}")
            if ranked is not None and doc_id and len(ranked) < depth:
                ranked.setdefault(doc_id, 1.0 / (1 + len(ranked)))
        return MiningResult(run)

    def _negatives(self) -> Iterator[tuple[str, str]]:
        """Query and document, best first."""
        path = Path(self.data)
        if path.suffix == ".tsv":
            for query_id, grades in read_qrels(path).items():
                yield from ((query_id, doc_id) for doc_id, grade in grades.items() if grade <= 0)
        else:
            for row in sorted(read_negatives(path), key=lambda row: row.rank):
                yield row.query_id, row.doc_id
