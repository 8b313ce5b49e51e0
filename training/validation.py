"""The queries by which the best checkpoint and the base's weight are chosen, and a model's score on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Corpus, Qrels, Queries, chunks_by_document
from sharpen.evaluation.encoders.families import AnyEncoder
from sharpen.evaluation.encoders.settings import EncoderOptions
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY, mean_primary
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.encoders import Index, encoder_index
from sharpen.evaluation.runs import ranking
from sharpen.training.settings import ValidationSettings

BM25_DEPTH = 20
"""Documents of BM25's ranking that a query may bring into the small task's corpus."""


@dataclass(frozen=True)
class Validation:
    """Choosing the best state of a training.

    ``score(model)`` is taken ``evaluations`` times, evenly over the training, and the state with the highest is kept;
    training stops after ``patience`` times in a row without a higher one (None: never). ``metric`` is the score's name.
    ``later``: of equal scores the later state is kept, where few values are possible. Every process calls ``score``,
    and must get the same value.

    >>> Validation("ndcg@10", score=lambda model: 0.5).patience
    3
    """

    metric: str
    score: Callable[[Any], float]
    evaluations: int = 5
    patience: int | None = 3
    later: bool = False


@dataclass(frozen=True)
class SmallTask:
    """Queries searched among few documents: scores to compare models by, higher than they would be in the corpus."""

    corpus: Corpus
    queries: Queries
    qrels: Qrels

    def scorer(
        self, options: EncoderOptions, documents: SentenceTransformer | None = None
    ) -> Callable[[AnyEncoder], float]:
        """A function that gives a model's nDCG@10, 0 to 1. ``documents``: what encodes these; None: the model."""
        texts = {query.id: query.text for query in self.queries.values()}

        def index_of(model: AnyEncoder) -> Index:
            return encoder_index(
                self.corpus, model, options.query_prompt, options.document_prompt, precision=options.precision
            )

        kept = index_of(documents) if documents else None

        def score(model: AnyEncoder) -> float:
            index = kept.with_query_encoder(model) if kept else index_of(model)
            run = {
                q: {d: scores[d] for d in ranking(scores) if d != q} for q, scores in index.search(texts, 11).items()
            }
            return mean_primary(self.qrels, run)

        return score

    def validation(
        self,
        options: EncoderOptions,
        settings: ValidationSettings,
        documents: SentenceTransformer | None = None,
    ) -> Validation:
        """To train with: nDCG@10 on this task, as often as ``settings`` has it; ``documents`` as in ``scorer``."""
        return Validation(PRIMARY, self.scorer(options, documents), settings.evaluations, settings.patience)


def small_task(
    corpus: Corpus,
    queries: Queries,
    qrels: Qrels,
    settings: ValidationSettings,
    exclude: Container[str] = (),
    seed: int = 13,
) -> SmallTask:
    """At most ``settings.queries`` of the queries, drawn by ``seed``, and at most ``settings.documents`` of the corpus.

    Documents are the relevant ones and, of the others, BM25's best of each query, the best of all queries first.
    ``qrels`` may name documents that were cut into chunks: each chunk counts as relevant. ``exclude``: IDs of queries
    that are trained on or compared on at the end, under whatever ID they come there.

    Raises ``InputError`` if no query is left.

    >>> from sharpen.evaluation.beir import Document, Query
    >>> texts = {"a": "bread rises", "b": "a flat tyre", "c": "dough rises"}
    >>> corpus = {i: Document(i, text) for i, text in texts.items()}
    >>> queries, qrels = {"q": Query("q", "what rises")}, {"q": {"a": 1}}
    >>> sorted(small_task(corpus, queries, qrels, ValidationSettings(documents=2)).corpus)
    ['a', 'c']
    """
    qrels = {q: grades for q, grades in _by_chunk(corpus, qrels).items() if grades and q not in exclude}
    if not qrels:
        raise InputError(f"training.validation: no query to choose by: {_why_none(settings)}")
    chosen = sorted(qrels)
    if len(chosen) > settings.queries:
        chosen = sorted(random.Random(seed).sample(chosen, settings.queries))
    qrels = {q: qrels[q] for q in chosen}
    relevant = dict.fromkeys(i for grades in qrels.values() for i in grades)
    run = BM25(corpus).search({q: queries[q].text for q in chosen}, min(len(corpus), BM25_DEPTH))
    by_rank = dict.fromkeys(
        i for row in zip_longest(*(ranking(run[q]) for q in chosen)) for i in row if i is not None and i not in relevant
    )
    pool = list(relevant) + list(by_rank)[: max(0, settings.documents - len(relevant))]
    return SmallTask({i: corpus[i] for i in pool}, {q: queries[q] for q in chosen}, qrels)


def _by_chunk(corpus: Corpus, qrels: Qrels) -> Qrels:
    """People label documents; each of their chunks counts as relevant."""
    chunks = chunks_by_document(corpus)
    return {
        q: {
            i: grade
            for d, grade in grades.items()
            if grade > 0
            for i in ([d] if d in corpus else [c.id for c in chunks.get(d, [])])
        }
        for q, grades in qrels.items()
    }


def _why_none(settings: ValidationSettings) -> str:
    if settings.data is None:
        return "split.dev holds out none of the generated ones; raise it, or queries.documents"
    return (
        f"none of the documents of {settings.data}, split {settings.split}, is in the corpus, or all are evaluated or"
        " trained on"
    )
