"""Which documents queries are written for: drawn at random, or chosen so that they cover the corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sharpen.evaluation.beir import Document
from sharpen.evaluation.languages import n_words
from sharpen.sdg.drawing import drawn
from sharpen.sdg.strategies.base import MIN_WORDS

CLUSTERS = 1000
"""As in DUQGen (Chandradevan et al. 2024)."""
POINTS_PER_CLUSTER = 256
"""Of many more documents so many are drawn to find the clusters by, as faiss does by default."""


def sample_documents(
    documents: Sequence[Document], limit: int | None, seed: int, min_words: int = MIN_WORDS
) -> list[Document]:
    """At most ``limit`` documents in an order drawn by ``seed``, of at least ``min_words`` words, no text twice.

    A document's place hangs on its ID alone, so of a corpus that grows by 1 % about 1 % of the documents drawn are
    others, and one that changes replaces none. A larger limit of the same seed begins with the smaller one's documents.
    What was asked about those that stay is found in the journal.

    >>> documents = [Document(name, f"five words on topic {name}") for name in "abc"]
    >>> sample_documents(documents, 2, seed=1) == sample_documents(documents, 3, seed=1)[:2]
    True
    """
    usable = [d for d in documents if n_words(d.content) >= min_words]
    unique: dict[str, Document] = {}
    for document in sorted(usable, key=lambda d: drawn(seed, "documents", d.id)):
        unique.setdefault(document.copy_key, document)
    return list(unique.values())[:limit]


def select_documents(
    documents: Sequence[Document],
    vectors: np.ndarray,
    n: int,
    seed: int,
    clusters: int = CLUSTERS,
    relevance: float = 0.5,
) -> list[Document]:
    """``n`` documents that cover what ``documents`` are about, of at least 5 words, no text twice.

    ``vectors``: unit vectors, float32 of shape (len(documents), dimension), in the same order. They are put into
    ``clusters`` (at most ``n``; the default is DUQGen's) by k-means. Each cluster gives a document in turn, the large
    ones first; within it, each is the one with the greatest ``relevance`` * (cosine to the cluster's centre) -
    (1 - ``relevance``) * (greatest cosine to those taken before), which is maximal marginal relevance (Carbonell and
    Goldstein 1998). 0.5 weighs both alike and is not tuned; DUQGen draws within a cluster by a softmax instead.

    The same vectors and ``seed`` give the same documents in the same order, wherever they stand in the corpus. From
    ``n`` = ``clusters`` on, a larger ``n`` begins with the documents of a smaller one; below, there are ``n`` clusters,
    and each ``n`` has its own. A corpus that grows has other clusters: 1 % more of Python's documentation replaced 57 %
    of 300 documents chosen so, where ``sample_documents`` replaces 1 %. Raises ``ValueError`` if there is not a vector
    for each document.

    >>> documents = [Document(f"{t}{i}", f"{t} document of number {i}") for t in ("tea", "rye") for i in range(9)]
    >>> vectors = np.repeat(np.eye(2, dtype=np.float32), 9, axis=0)
    >>> sorted(document.id[:3] for document in select_documents(documents, vectors, 2, seed=1))
    ['rye', 'tea']
    """
    if len(documents) != len(vectors):
        raise ValueError(f"{len(documents)} documents and {len(vectors)} vectors; each needs one")
    row = {document.id: number for number, document in enumerate(documents)}
    candidates = sample_documents(documents, None, seed)
    if len(candidates) <= n:
        return candidates
    points = np.ascontiguousarray(vectors[[row[document.id] for document in candidates]], dtype=np.float32)
    members, centres = _clusters(points, min(n, clusters), seed)
    numbers = _quotas([len(rows) for rows in members], n)
    picked = [
        rows[_marginal_relevance(points[rows], centre, number, relevance)]
        for rows, centre, number in zip(members, centres, numbers, strict=True)
    ]
    rounds = range(max(numbers))
    return [candidates[rows[turn]] for turn in rounds for rows in picked if turn < len(rows)]


def _clusters(points: np.ndarray, number: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each cluster that has any, with its centre, the largest first."""
    import faiss

    # faiss begins with points drawn at random, among which small topics have none beside large ones
    begin = _far_apart(points, number, np.random.default_rng(seed))
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": POINTS_PER_CLUSTER}
    means = faiss.Kmeans(points.shape[1], number, niter=20, spherical=True, seed=seed, **limits)
    means.train(points, init_centroids=begin)
    _, nearest = means.index.search(points, 1)
    rows_of = [np.flatnonzero(nearest[:, 0] == cluster) for cluster in range(number)]
    order = sorted((c for c in range(number) if len(rows_of[c])), key=lambda c: (-len(rows_of[c]), rows_of[c][0]))
    return [rows_of[c] for c in order], [means.centroids[c] for c in order]


def _far_apart(points: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Points to begin with, by k-means++ (Arthur and Vassilvitskii 2007): each is drawn by its squared distance to
    those before, and of a few such draws it is the one that leaves least."""
    sample = points[rng.permutation(len(points))[: POINTS_PER_CLUSTER * number]]
    chosen = [int(rng.integers(len(sample)))]
    left = np.maximum(0, 1 - sample @ sample[chosen[0]])  # half of the squared distance, as they are unit vectors
    trials = 2 + int(np.log(number))
    while len(chosen) < number:
        drawn = np.searchsorted(np.cumsum(left, dtype=np.float64), rng.random(trials) * left.sum(dtype=np.float64))
        drawn = np.minimum(drawn, len(sample) - 1)
        after = np.minimum(left, np.maximum(0, 1 - sample[drawn] @ sample.T))
        best = int(after.sum(axis=1).argmin())
        chosen.append(int(drawn[best]))
        left = after[best]
    return sample[chosen]


def _quotas(sizes: Sequence[int], n: int) -> list[int]:
    """How many each gives if they give one in turn until there are ``n``.

    >>> _quotas([5, 2, 1], 6)
    [3, 2, 1]
    """
    numbers = [0] * len(sizes)
    while n:
        for place, size in enumerate(sizes):
            if n and numbers[place] < size:
                numbers[place] += 1
                n -= 1
    return numbers


def _marginal_relevance(points: np.ndarray, centre: np.ndarray, number: int, relevance: float) -> list[int]:
    near = points @ centre
    like_taken = np.full(len(points), 0.0, dtype=np.float32)
    taken: list[int] = []
    for _ in range(number):
        value = relevance * near - (1 - relevance) * like_taken
        value[taken] = -np.inf
        best = int(value.argmax())
        like = points @ points[best]
        like_taken = np.maximum(like_taken, like) if taken else like
        taken.append(best)
    return taken
