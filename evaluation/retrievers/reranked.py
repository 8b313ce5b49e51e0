"""A retriever's best documents in the order of a cross-encoder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np
from sentence_transformers import CrossEncoder

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.encoders.committee import Committee, committee_scores
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.settings import Precision
from sharpen.evaluation.retrievers.base import Advance, Retriever
from sharpen.evaluation.retrievers.candidates import standardized_rows
from sharpen.evaluation.runs import ranking


class Reranked:
    """The best ``depth`` documents of another retriever, reordered by a cross-encoder or a committee of them; those
    below follow in their order.

    ``first_stage_weight``: of the first retriever's scores in the new ones, both standardized over a query's documents;
    0: the cross-encoder's scores alone. ``precision``: what the cross-encoder computes in.
    """

    name = "reranked"

    def __init__(
        self,
        first: Retriever,
        corpus: Corpus,
        model: CrossEncoder | Committee,
        depth: int = 100,
        progress: Advance | None = None,
        first_stage_weight: float = 0.0,
        precision: Precision = "auto",
    ) -> None:
        self._first, self._corpus, self._model = first, corpus, model
        self._depth, self._progress = depth, progress
        self._weight, self._precision = first_stage_weight, precision
        self._known: list[dict[tuple[str, str], float]] | None = None

    def remembering(self, known: list[dict[tuple[str, str], float]]) -> Reranked:
        """The same that keeps its members' scores of (query, document) texts in ``known``, which others share, and
        takes what is there: several first stages find much of the same."""
        other = copy(self)
        other._known = known
        known.extend({} for _ in range(len(known), len(self._members())))
        return other

    @property
    def models(self) -> int:
        """Cross-encoders that have to be served beside the first retriever."""
        return len(self._members())

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return ``k`` documents of each query."""
        first = self._first.search(queries, max(k, self._depth))
        ranked = {q: ranking(scores) for q, scores in first.items()}
        best = {q: [d for d in documents if d != q][: self._depth] for q, documents in ranked.items()}
        pairs = [(q, d) for q, documents in best.items() for d in documents]
        texts = [(queries[q], self._corpus[d].content) for q, d in pairs]
        scores = dict(zip(pairs, self._scored(texts), strict=True))
        run: Run = {}
        for q, documents in best.items():
            new = np.array([scores[q, d] for d in documents])
            if self._weight and documents:
                new, old = standardized_rows(np.stack([new, np.array([first[q][d] for d in documents])]))
                new = (1 - self._weight) * new + self._weight * old
            reranked = dict(zip(documents, new.tolist(), strict=True))
            lowest = min(reranked.values(), default=0.0)
            below = [d for d in ranked[q] if d not in reranked]
            reranked |= {d: lowest - place for place, d in enumerate(below, start=1)}
            run[q] = {d: reranked[d] for d in ranking(reranked)[:k]}
        return run

    def _members(self) -> list[CrossEncoder]:
        return list(self._model.members) if isinstance(self._model, Committee) else [self._model]

    def _scored(self, pairs: list[tuple[str, str]]) -> list[float]:
        if self._known is None:
            return score_pairs(self._model, pairs, self._progress, precision=self._precision)
        rows = []
        for member, known in zip(self._members(), self._known, strict=True):
            new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
            if new:
                known.update(zip(new, score_pairs(member, new, precision=self._precision), strict=True))
            rows.append([known[pair] for pair in pairs])
        return committee_scores(rows, [query for query, _ in pairs]) if len(rows) > 1 else rows[0]
