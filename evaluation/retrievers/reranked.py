"""A retriever's best documents in the order of a cross-encoder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sentence_transformers import CrossEncoder
from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.retrievers.base import Progress, Retriever
from sharpen.evaluation.runs import ranking


class Reranked:
    """The best ``depth`` documents of another retriever, put in order by a cross-encoder; those below follow as they
    were.

    ``first_share``: part that the first retriever's scores have in the new ones, both with mean 0 and deviation 1 over
    a query's documents; 0: the cross-encoder's alone.
    """

    name = "reranked"

    def __init__(
        self,
        first: Retriever,
        corpus: Corpus,
        model: CrossEncoder,
        depth: int = 100,
        progress: Progress | None = None,
        first_share: float = 0.0,
    ) -> None:
        self._first, self._corpus, self._model, self._depth, self._progress, self._share = (
            first,
            corpus,
            model,
            depth,
            progress,
            first_share,
        )

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return ``k`` documents of each query."""
        first = self._first.search(queries, max(k, self._depth))
        found = {q: ranking(scores) for q, scores in first.items()}
        best = {q: [d for d in ranked if d != q][: self._depth] for q, ranked in found.items()}
        pairs = [(q, doc_id) for q, chosen in best.items() for doc_id in chosen]
        scores = dict(
            zip(
                pairs,
                score_pairs(self._model, [(queries[q], self._corpus[d].content) for q, d in pairs], self._progress),
                strict=True,
            )
        )
        run: Run = {}
        for q, ranked in found.items():
            chosen = best[q]
            own = np.array([scores[q, d] for d in chosen])
            if self._share:
                own = (1 - self._share) * standardized(own) + self._share * standardized(
                    np.array([first[q][d] for d in chosen])
                )
            run[q] = dict(zip(chosen, own.tolist(), strict=True))
            lowest = min(run[q].values(), default=0.0)
            run[q] |= {d: lowest - rank for rank, d in enumerate([d for d in ranked if d not in run[q]], start=1)}
        return {q: {d: own[d] for d in ranking(own)[:k]} for q, own in run.items()}


def standardized(values: np.ndarray) -> np.ndarray:
    """With mean 0 and deviation 1; all 0 where they are the same."""
    return (values - values.mean()) / (values.std() or 1.0) if len(values) else values
