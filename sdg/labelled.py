"""Queries that people wrote, to train on beside the generated ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sharpen.evaluation.beir import Corpus, Qrels, Queries, Query, Run, chunks_by_document
from sharpen.evaluation.files import InputError
from sharpen.evaluation.settings import UNHASHED, Settings
from sharpen.sdg.filters.text import query_key
from sharpen.sdg.strategies.settings import LABELLED

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

PREFIX = "labelled-"
"""Before the IDs of labelled queries, so that none is a generated query's."""


class LabelledSettings(Settings):
    """Real labelled pairs to train on, too."""

    data: Annotated[str, UNHASHED] = Field(
        description="Queries and qrels of the same corpus: a folder in BEIR layout, or the name of a BEIR dataset."
    )
    split: str = Field(
        "train",
        description=(
            "qrels/<split>.tsv of data. Never one that is evaluated on: queries with the text of one of those are left"
            " out."
        ),
    )
    unknown_documents: Literal["error", "drop"] = Field(
        "error", description="What to do with qrels of documents that the corpus lacks."
    )
    fraction: Annotated[float, Field(gt=0, le=1), UNHASHED] = Field(
        0.5,
        description=(
            "Of the queries trained on, these; of what there is more of, some are drawn by seed. 1: no queries are"
            " generated."
        ),
    )


@dataclass
class LabelledQueries:
    """``kept`` queries, with their documents under ``positives``, and how many were left out: ``without_document``,
    ``evaluated_on``."""

    kept: list[Query] = field(default_factory=list)
    without_document: int = 0
    evaluated_on: int = 0

    def left_out(self) -> dict[str, int]:
        return {"without_document": self.without_document, "evaluated_on": self.evaluated_on}


def label_queries(
    queries: Queries,
    qrels: Qrels,
    corpus: Corpus,
    evaluated: Iterable[str] = (),
    resources: Resources | None = None,
) -> LabelledQueries:
    """Real queries as training takes them. ``evaluated``: texts of queries that are evaluated on, which are left out.
    ``resources``: whose index of BM25 is taken.

    A label of a document that was cut goes to the chunk that BM25 ranks first for the query, or to its first chunk.
    IDs get the prefix ``labelled-``.

    >>> from sharpen.evaluation.beir import Document
    >>> texts = {"d#0": "tea", "d#1": "salt"}
    >>> corpus = {i: Document(i, text, metadata={"chunk_of": "d"}) for i, text in texts.items()}
    >>> queries = {"1": Query("1", "how much salt"), "2": Query("2", "Which tea?")}
    >>> labelled = label_queries(queries, {"1": {"d": 1}, "2": {"d": 1}}, corpus, evaluated=["which tea"])
    >>> labelled.kept[0].id, labelled.kept[0].metadata["positives"], labelled.evaluated_on
    ('labelled-1', ['d#1'], 1)
    """
    chunks = chunks_by_document(corpus)
    excluded = {query_key(text) for text in evaluated}
    relevant = {
        q: [d for d, grade in grades.items() if grade > 0 and (d in corpus or d in chunks)]
        for q, grades in qrels.items()
    }
    chosen = {q: ids for q, ids in relevant.items() if ids and query_key(queries[q].text) not in excluded}
    cut = {q: queries[q].text for q, ids in chosen.items() if any(d not in corpus for d in ids)}
    run = _search(cut, corpus, resources)

    def chunk_for(query_id: str, doc_id: str) -> str:
        if doc_id in corpus:
            return doc_id
        return max((chunk.id for chunk in chunks[doc_id]), key=lambda chunk_id: run[query_id].get(chunk_id, 0.0))

    kept = []
    for q, ids in chosen.items():
        positives = list(dict.fromkeys(chunk_for(q, d) for d in ids))
        kept.append(Query(f"{PREFIX}{q}", queries[q].text, {"positives": positives, "strategy": LABELLED}))
    without = sum(not ids for ids in relevant.values())
    return LabelledQueries(kept, without, len(qrels) - without - len(kept))


def read_labelled(
    settings: LabelledSettings,
    corpus: Corpus,
    evaluated: Collection[str] = (),
    resources: Resources | None = None,
) -> LabelledQueries:
    """The labelled queries that ``settings`` name, as of ``label_queries``. Raises ``InputError`` if none is left."""
    from sharpen.evaluation.datasets import known_ids, read_judged

    known = None if settings.unknown_documents == "drop" else known_ids(corpus)
    queries, qrels = read_judged(settings.data, settings.split, known)
    labelled = label_queries(queries, qrels, corpus, evaluated, resources)
    if not labelled.kept:
        raise InputError(
            f"labelled: {settings.data}, split {settings.split}: no query is left of {len(qrels)}:"
            f" {labelled.without_document} have no relevant document in the corpus, {labelled.evaluated_on} are"
            " evaluated on"
        )
    return labelled


def _search(texts: dict[str, str], corpus: Corpus, resources: Resources | None) -> Run:
    if not texts:
        return {}
    from sharpen.evaluation.retrievers.base import RUN_DEPTH
    from sharpen.evaluation.retrievers.bm25 import BM25

    index = resources.models.bm25(corpus) if resources else BM25(corpus)
    return index.search(texts, min(len(corpus), 10 * RUN_DEPTH))
