"""Documents of queries with the scores of several retrievers, and the weights by which their sum is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharpen.evaluation.beir import Run
from sharpen.evaluation.datasets import Task

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Tried for each retriever, beside the first one's 1."""
DEPTH = 10
"""Of the nDCG by which weights are chosen."""


@dataclass(frozen=True)
class Candidates:
    """Documents of each query, with the standardized scores of several scorers.

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

    def of(self, scorers: Sequence[str]) -> Candidates:
        """The same documents with the scores of these scorers only."""
        rows = [self.scorers.index(name) for name in scorers]
        return Candidates(tuple(scorers), self.documents, {q: scores[rows] for q, scores in self.scores.items()})

    def best(self, weights: Mapping[str, float], depth: int) -> Candidates:
        """The ``depth`` best of each query by a mixture."""
        documents, scores = {}, {}
        for q, row in self.run(weights).items():
            order = np.argsort(-np.array(list(row.values())), kind="stable")[:depth]
            documents[q] = [self.documents[q][n] for n in order]
            scores[q] = self.scores[q][:, order]
        return Candidates(self.scorers, documents, scores)

    def with_scorer(self, name: str, scores: Mapping[tuple[str, str], float]) -> Candidates:
        """The same with one scorer more, which scores (query ID, document ID) pairs and cannot score a whole corpus:
        its scores are standardized over the candidates."""
        added = {}
        for q, documents in self.documents.items():
            row = np.array([[scores[q, d] for d in documents]], dtype=np.float32)
            added[q] = np.concatenate([self.scores[q], standardized_rows(row)])
        return Candidates((*self.scorers, name), self.documents, added)


class JudgedCandidates:
    """Candidates with the grades that the task gives them: nDCG@10 of any mixture in a millisecond or so.

    A document with the query's ID is left out, and one that was cut into chunks has the score of its best, as in
    ``search_task``; ties, which do not come with scores of dense retrievers, are broken in the candidates' order.
    """

    def __init__(self, candidates: Candidates, task: Task) -> None:
        self.scorers, self._queries = candidates.scorers, list(task.qrels)
        columns, gains, places = [], [], []
        ideal = []
        for row, (q, grades) in enumerate(task.qrels.items()):
            chunks: dict[str, list[int]] = {}
            for column, i in enumerate(candidates.documents[q]):
                document = task.corpus[i].doc_id if task.by_document else i
                if document != q:
                    chunks.setdefault(document, []).append(column)
            columns += [candidates.scores[q][:, of_document] for of_document in chunks.values()]
            gains += [max(0, grades.get(document, 0)) for document in chunks]
            places += [(row, place) for place in range(len(chunks))]
            best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:DEPTH]
            ideal.append(sum(grade / np.log2(n + 2) for n, grade in enumerate(best)))
        self._ideal = np.array(ideal)
        # of all queries, one after the other: scores, where each document's chunks begin, and its place in a matrix
        self._scores = np.concatenate([np.zeros((len(self.scorers), 0), np.float32), *columns], axis=1)
        self._starts = np.cumsum([0, *(block.shape[1] for block in columns)])[:-1]
        self._places = tuple(np.array(places, dtype=int).reshape(-1, 2).T)
        shape = (len(ideal), max([DEPTH, *(place + 1 for _, place in places)]))
        self._gains, self._empty = np.zeros(shape, np.float32), np.full(shape, -np.inf, np.float32)
        self._gains[self._places] = gains

    def quality(self, weights: Mapping[str, float]) -> float:
        """Mean nDCG@10 of the weighted sums, 0 to 1; a scorer without a weight has 0."""
        return float(np.mean(self._values(weights)))

    def by_query(self, weights: Mapping[str, float]) -> dict[str, float]:
        """nDCG@10 of each query, of which ``quality`` is the mean."""
        return dict(zip(self._queries, self._values(weights).tolist(), strict=True))

    def _values(self, weights: Mapping[str, float]) -> np.ndarray:
        row = np.array([weights.get(name, 0.0) for name in self.scorers], dtype=np.float32)
        scores = self._empty.copy()
        if len(self._starts):
            scores[self._places] = np.maximum.reduceat(row @ self._scores, self._starts)
        first = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        gains = np.take_along_axis(self._gains, first, axis=1)
        return gains @ (1 / np.log2(np.arange(DEPTH) + 2)) / self._ideal


def standardized_rows(scores: np.ndarray) -> np.ndarray:
    """Each row with mean 0 and standard deviation 1 (all 0 where its values are the same), in place.

    >>> standardized_rows(np.array([[1.0, 3.0], [5.0, 5.0]])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    return standardize(scores)[0]


def standardize(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As ``standardized_rows``, with the standard deviations that the rows had, of shape (rows, 1)."""
    scores -= scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    scores /= np.where(deviation > 1e-12, deviation, 1.0)
    return scores, deviation


def fit_weights(
    judged: JudgedCandidates, grid: Sequence[float] = WEIGHTS, rounds: int = 3
) -> tuple[dict[str, float], float]:
    """Weights with the highest nDCG@10 on the queries, and this value.

    It begins with the best single scorer at weight 1 and goes through the others, taking for each the weight of
    ``grid`` that is best with the rest as they are, until nothing changes or ``rounds`` are over. Of equally good
    weights the smallest is taken. The value is the best of many looks at these queries, so it is too high; the weights
    are confirmed on others.

    >>> from sharpen.evaluation.beir import Document, Query
    >>> task = Task([Document("a", "Ice"), Document("b", "Bread")], [Query("q", "glacier")], {"q": {"a": 1}})
    >>> scores = {"q": np.array([[0.0, 1.0], [2.0, 0.0]], dtype=np.float32)}
    >>> candidates = Candidates(("bm25", "base"), {"q": ["a", "b"]}, scores)
    >>> fit_weights(JudgedCandidates(candidates, task))
    ({'bm25': 0.0, 'base': 1.0}, 1.0)
    """
    alone = {name: judged.quality({name: 1.0}) for name in judged.scorers}
    best = max(alone, key=alone.__getitem__)
    weights = {name: float(name == best) for name in judged.scorers}
    value = alone[best]
    for _ in range(rounds):
        before = dict(weights)
        for name in judged.scorers:
            if name == best:
                continue
            curve = weight_curve(judged, weights, name, grid)
            value = max(curve.values())
            weights[name] = min(w for w, quality in curve.items() if quality == value)
        if weights == before:
            break
    return weights, value


def weight_curve(
    judged: JudgedCandidates,
    weights: Mapping[str, float],
    name: str,
    grid: Sequence[float] = WEIGHTS,
) -> dict[float, float]:
    """nDCG@10 for each weight of ``name`` in ``grid``, with the other ``weights`` as they are."""
    return {w: judged.quality({**weights, name: w}) for w in grid}
