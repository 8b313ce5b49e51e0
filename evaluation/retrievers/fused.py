"""Several retrievers as one, by the weighted sum of their standardized scores.

A query's scores by one retriever are standardized over all documents of the corpus: they then say by how many standard
deviations a document is better than the corpus, which has one meaning for all retrievers. Over the few documents of a
list it would not: among ten good ones the standard deviation is small, and says nothing of how good they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from sharpen.evaluation.beir import Run
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.candidates import Candidates, standardize

MOST_SCORES = 8_000_000
"""Of a block of queries with all documents, in float32: 32 MB for each retriever."""
CANDIDATES = 100
"""Documents that each retriever brings to the candidates of a query."""


class CorpusScorer(Protocol):
    """A retriever that scores every document of its corpus, as ``BM25`` and ``Dense`` do."""

    ids: list[str]

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """Scores of the queries, at most ``rows`` of them at a time: float32 of shape (queries, documents), the
        documents in the order of ``ids``."""
        ...


class Fused:
    """The weighted sum of several retrievers' scores, each standardized over the corpus for each query.

    ``members``: name to a retriever that scores all documents; all must search the same corpus (``InputError``).
    ``weights``: name to weight (default: 1 each). The sum is taken over all documents, so that no depth has to be
    chosen; this is one pass over the corpus for each query, as exact dense search is. ``unit``: a member in whose own
    units the sums are given (default: standard deviations), which changes no ranking: with weight 1 for it and nothing
    else, they are its scores, less their mean over the corpus. Raises ``InputError`` for a unit without a weight.

    >>> from sharpen.evaluation.beir import Document
    >>> from sharpen.evaluation.retrievers.bm25 import BM25
    >>> texts = {"a": "Bake the bread.", "b": "Ice flows downhill.", "c": "Ice melts."}
    >>> corpus = {i: Document(i, text) for i, text in texts.items()}
    >>> fused = Fused({"stemmed": BM25(corpus), "plain": BM25(corpus, language="none")}, {"plain": 0.5})
    >>> list(fused.search({"q": "how ice flows"}, k=2)["q"])
    ['b', 'c']
    """

    name = "fused"

    def __init__(
        self,
        members: Mapping[str, CorpusScorer],
        weights: Mapping[str, float] | None = None,
        unit: str | None = None,
    ) -> None:
        if unknown := set(weights or ()) - set(members):
            raise InputError(f"fusion: a weight is given for {unknown.pop()!r}, and there are {', '.join(members)}")
        self._members = dict(members)
        self._weights = {name: (weights or {}).get(name, 1.0) for name in members}
        if not members:
            raise InputError("fusion: no retriever is given that scores all documents, as BM25 and encoders do")
        first, *others = self._members.values()
        if any(other.ids != first.ids for other in others):
            raise InputError("fusion: the retrievers search different documents, or the same in another order")
        self.ids, self._unit = first.ids, unit
        if unit and not self._weights.get(unit):
            raise InputError(f"fusion: scores are asked for in the units of {unit}, which has no weight")

    def score_blocks(self, texts: Sequence[str], rows: int) -> Iterator[np.ndarray]:
        """The weighted sums, as a ``CorpusScorer`` gives them: a fusion can be fused again."""
        for blocks, deviations in self._standardized(texts, rows):
            fused = sum(self._weights[name] * block for name, block in blocks.items())
            yield fused * (deviations[self._unit] / self._weights[self._unit]) if self._unit else fused

    def search(
        self,
        queries: Mapping[str, str],
        k: int,
        exclude: Mapping[str, Collection[str]] | None = None,
        never: Collection[str] = (),
    ) -> Run:
        """Return the ``k`` best documents of each query. ``exclude``: query ID to IDs of documents that are left out;
        ``never``: IDs of those that are left out for all."""
        names, k, run = list(queries), min(k, len(self.ids)), {}
        columns = {i: n for n, i in enumerate(self.ids)} if exclude or never else {}
        out = [columns[i] for i in never if i in columns]
        for block in self.score_blocks(list(queries.values()), self._rows()):
            of_block = names[len(run) : len(run) + len(block)]
            block[:, out] = -np.inf
            for row, query in enumerate(of_block):
                block[row, [columns[i] for i in (exclude or {}).get(query, ()) if i in columns]] = -np.inf
            for row, query, best in zip(block, of_block, best_columns(block, k), strict=True):
                run[query] = {self.ids[d]: float(row[d]) for d in best if row[d] > -np.inf}
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
        for blocks, _ in self._standardized(list(queries.values()), self._rows()):
            best = np.concatenate([best_columns(block, depth) for block in blocks.values()], axis=1)
            for row, union in enumerate(map(np.unique, best)):
                query = names[len(documents)]
                documents[query] = [self.ids[d] for d in union]
                scores[query] = np.stack([block[row, union] for block in blocks.values()])
        return Candidates(tuple(self._members), documents, scores)

    def scores_of(self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]) -> Candidates:
        """Every member's standardized scores of the given documents of each query."""
        rows, given = {d: n for n, d in enumerate(self.ids)}, list(queries)
        scores: dict[str, np.ndarray] = {}
        for blocks, _ in self._standardized(list(queries.values()), self._rows()):
            for row in range(len(next(iter(blocks.values())))):
                query = given[len(scores)]
                columns = [rows[d] for d in documents[query]]
                scores[query] = np.stack([block[row, columns] for block in blocks.values()])
        return Candidates(tuple(self._members), {q: list(documents[q]) for q in queries}, scores)

    def _rows(self) -> int:
        return max(1, MOST_SCORES // max(1, len(self.ids)))

    def _standardized(
        self, texts: Sequence[str], rows: int
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Blocks of each member's standardized scores, and the standard deviations that they had."""
        blocks = [member.score_blocks(texts, rows) for member in self._members.values()]
        for of_members in zip(*blocks, strict=True):
            made = {name: standardize(b) for name, b in zip(self._members, of_members, strict=True)}
            yield {name: block for name, (block, _) in made.items()}, {name: d for name, (_, d) in made.items()}


def best_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the ``k`` largest of each row, largest first: integers of shape (rows, k)."""
    k = min(k, scores.shape[1])
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)
