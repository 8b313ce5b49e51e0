"""Several retrievers as one, by the weighted sum of their standardized scores.

A query's scores by one retriever are standardized over all documents of the corpus: they then say by how many standard
deviations a document is better than the corpus, which has one meaning for all retrievers. Over the few documents of a
list it would not: among ten good ones the standard deviation is small, and says nothing of how good they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import numpy as np

from sharpen.evaluation.beir import Qrels, Run
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY, evaluate

MOST_SCORES = 8_000_000
"""Of a block of queries with all documents, in float32: 32 MB for each retriever."""
CANDIDATES = 100
"""Documents that each retriever brings to the candidates of a query."""
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Tried for each retriever, beside the first one's 1."""


class CorpusScorer(Protocol):
    """A retriever that scores every document of its corpus, as ``BM25`` and ``Dense`` do."""

    ids: list[str]

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """Scores of the queries, at most ``rows`` of them at a time: float32 of shape (queries, documents), the
        documents in the order of ``ids``."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The documents that any of several scorers has among its best for a query, with the scores of all of them.

    ``documents``: query ID to document IDs. ``scores``: query ID to float32 of shape (scorers, documents), standardized
    over the corpus; rows in the order of ``scorers``.
    """

    scorers: tuple[str, ...]
    documents: dict[str, list[str]]
    scores: dict[str, np.ndarray]

    def run(self, weights: Mapping[str, float]) -> Run:
        """The candidates with the weighted sums of their scores; a scorer without a weight has 0."""
        row = np.array([weights.get(name, 0.0) for name in self.scorers], dtype=np.float32)
        return {
            q: dict(zip(documents, (row @ self.scores[q]).tolist(), strict=True))
            for q, documents in self.documents.items()
        }

    def quality(self, weights: Mapping[str, float], qrels: Qrels) -> float:
        """Mean nDCG@10 of ``run(weights)``, 0 to 1. A document with the query's ID is left out, as in BEIR."""
        run = {q: {d: s for d, s in documents.items() if d != q} for q, documents in self.run(weights).items()}
        return fmean(evaluate(qrels, run, (PRIMARY,))[PRIMARY].values())


class Fused:
    """The weighted sum of several retrievers' scores, each standardized over the corpus for each query.

    ``members``: name to a retriever that scores all documents; all must search the same corpus (``InputError``).
    ``weights``: name to weight (default: 1 each). The sum is taken over all documents, so that no depth has to be
    chosen; this is one pass over the corpus for each query, as exact dense search is.

    >>> from sharpen.evaluation.beir import Document
    >>> from sharpen.evaluation.retrievers.bm25 import BM25
    >>> texts = {"a": "Bake the bread.", "b": "Ice flows downhill.", "c": "Ice melts."}
    >>> corpus = {i: Document(i, text) for i, text in texts.items()}
    >>> fused = Fused({"stemmed": BM25(corpus), "plain": BM25(corpus, language=None)}, {"plain": 0.5})
    >>> list(fused.search({"q": "how ice flows"}, k=2)["q"])
    ['b', 'c']
    """

    name = "fused"

    def __init__(self, members: Mapping[str, CorpusScorer], weights: Mapping[str, float] | None = None) -> None:
        if unknown := set(weights or ()) - set(members):
            raise InputError(f"fusion: a weight is given for {unknown.pop()!r}, and there are {', '.join(members)}")
        self._members = dict(members)
        self._weights = {name: (weights or {}).get(name, 1.0) for name in members}
        first, *others = self._members.values()
        if any(other.ids != first.ids for other in others):
            raise InputError("fusion: the retrievers search different documents, or the same in another order")
        self.ids = first.ids

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """The weighted sums, as a ``CorpusScorer`` gives them: a fusion can be fused again."""
        for blocks in self._standardized(texts, rows):
            yield sum(self._weights[name] * block for name, block in blocks.items())

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the ``k`` best documents of each query."""
        names, k = list(queries), min(k, len(self.ids))
        run: Run = {}
        for block in self.score_blocks(list(queries.values()), self._rows()):
            best = _best(block, k)
            for row, documents in zip(block, best, strict=True):
                run[names[len(run)]] = {self.ids[d]: float(row[d]) for d in documents}
        return run

    def candidates(self, queries: Mapping[str, str], depth: int = CANDIDATES) -> Candidates:
        """What the members' best ``depth`` documents of each query are, with every member's score of each.

        >>> from sharpen.evaluation.beir import Document
        >>> from sharpen.evaluation.retrievers.bm25 import BM25
        >>> corpus = {"a": Document("a", "Bake the bread."), "b": Document("b", "Ice flows downhill.")}
        >>> found = Fused({"bm25": BM25(corpus)}).candidates({"q": "ice"}, depth=1)
        >>> found.documents, found.scores["q"].tolist()
        ({'q': ['b']}, [[1.0]])
        """
        names, depth = list(queries), min(depth, len(self.ids))
        documents: dict[str, list[str]] = {}
        scores: dict[str, np.ndarray] = {}
        for blocks in self._standardized(list(queries.values()), self._rows()):
            best = np.concatenate([_best(block, depth) for block in blocks.values()], axis=1)
            for row, union in enumerate(map(np.unique, best)):
                query = names[len(documents)]
                documents[query] = [self.ids[d] for d in union]
                scores[query] = np.stack([block[row, union] for block in blocks.values()])
        return Candidates(tuple(self._members), documents, scores)

    def _rows(self) -> int:
        return max(1, MOST_SCORES // max(1, len(self.ids)))

    def _standardized(self, texts: Sequence[str], rows: int) -> Iterator[dict[str, np.ndarray]]:
        blocks = [member.score_blocks(texts, rows) for member in self._members.values()]
        for of_members in zip(*blocks, strict=True):
            yield {name: standardized_rows(b) for name, b in zip(self._members, of_members, strict=True)}


def standardized_rows(scores: np.ndarray) -> np.ndarray:
    """Each row with mean 0 and standard deviation 1 (all 0 where its values are the same), in place.

    >>> standardized_rows(np.array([[1.0, 3.0], [5.0, 5.0]])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    scores -= scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    scores /= np.where(deviation > 1e-12, deviation, 1.0)
    return scores


def fit_weights(
    candidates: Candidates, qrels: Qrels, grid: Sequence[float] = WEIGHTS, rounds: int = 3
) -> tuple[dict[str, float], float]:
    """Weights with the highest nDCG@10 on ``qrels``, and this value.

    It begins with the best single scorer at weight 1 and goes through the others, taking for each the weight of
    ``grid`` that is best with the rest as they are, until nothing changes or ``rounds`` are over. Of equally good
    weights the smallest is taken. The value is the best of many looks at these queries, so it is too high; the weights
    are confirmed on others.

    >>> scores = {"q": np.array([[0.0, 1.0], [2.0, 0.0]], dtype=np.float32)}
    >>> fit_weights(Candidates(("bm25", "base"), {"q": ["a", "b"]}, scores), {"q": {"a": 1}})
    ({'bm25': 0.0, 'base': 1.0}, 1.0)
    """
    alone = {name: candidates.quality({name: 1.0}, qrels) for name in candidates.scorers}
    best = max(alone, key=alone.__getitem__)
    weights = {name: float(name == best) for name in candidates.scorers}
    value = alone[best]
    for _ in range(rounds):
        before = dict(weights)
        for name in candidates.scorers:
            if name == best:
                continue
            curve = weight_curve(candidates, qrels, weights, name, grid)
            value = max(curve.values())
            weights[name] = min(w for w, quality in curve.items() if quality == value)
        if weights == before:
            break
    return weights, value


def weight_curve(
    candidates: Candidates,
    qrels: Qrels,
    weights: Mapping[str, float],
    name: str,
    grid: Sequence[float] = WEIGHTS,
) -> dict[float, float]:
    """nDCG@10 for each weight of ``name`` in ``grid``, with the other ``weights`` as they are."""
    return {w: candidates.quality({**weights, name: w}, qrels) for w in grid}


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the ``k`` largest of each row, largest first: integers of shape (rows, k)."""
    k = min(k, scores.shape[1])
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)
