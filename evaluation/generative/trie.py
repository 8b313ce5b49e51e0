"""A trie of token sequences as three arrays: which tokens may follow, looked up by one gather.

Compressed sparse rows, as in STATIC (arXiv 2602.22647): the edges of node ``n`` are ``indptr[n]:indptr[n + 1]``, and
nodes are numbered by breadth, so that no pointer but these is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from sharpen.evaluation.files import InputError, atomic_file


@dataclass(frozen=True, slots=True, eq=False)
class Trie:
    """The sequences that a model may write. The ``i``-th sequence ends in leaf ``i``; node 0 is the root.

    ``indptr``: int32, shape (nodes + 1,): where the edges of each node begin. ``tokens``: int32, shape (edges,), of
    each edge, rising within a node. ``children``: int32, shape (edges,): the node that an edge leads to, or
    ``-1 - leaf``. A leaf is no node: nothing follows it.

    >>> trie = Trie.of([[5, 7, 2], [5, 8, 2], [6, 2]])
    >>> trie.indptr.tolist(), trie.tokens.tolist(), trie.children.tolist()
    ([0, 2, 4, 5, 6, 7], [5, 6, 7, 8, 2, 2, 2], [1, 2, 3, 4, -3, -1, -2])
    >>> trie.leaves, trie.nodes, trie.nbytes
    (3, 5, 80)
    """

    indptr: np.ndarray
    tokens: np.ndarray
    children: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Trie:
        """The trie of ``sequences``, in time and memory that grow with their tokens (some 2 seconds a million of 12).

        Raises ``InputError`` for none at all, an empty one, a negative token, two that are equal, and one that another
        begins with: a model that had written the shorter could not end there. It names their indices.
        """
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        if not len(lengths):
            raise InputError("a trie needs at least one sequence of tokens")
        if not lengths.all():
            raise InputError(f"sequence {int(np.argmin(lengths))} has no tokens, so it can never be written")
        flat = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
        if flat.min() < 0 or flat.max() >= 2**31:
            raise InputError(f"a token's number must be from 0 to 2**31 - 1, not {int(flat[np.argmin(flat)])}")
        return cls(*_levels(flat, lengths))

    @property
    def leaves(self) -> int:
        """Number of sequences."""
        return int((self.children < 0).sum())

    @property
    def nodes(self) -> int:
        """Number of beginnings of sequences that are not whole ones, the empty one among them."""
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory, and about as many in a file."""
        return self.indptr.nbytes + self.tokens.nbytes + self.children.nbytes

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors, whole or not at all."""
        from safetensors.numpy import save_file

        with atomic_file(path) as temporary:
            save_file({name: getattr(self, name) for name in self.__slots__}, temporary)

    @classmethod
    def load(cls, path: Path) -> Trie:
        """What ``save`` wrote. Raises ``InputError`` for a file that is missing, broken or of something else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
            trie = cls(**arrays)
        except (OSError, SafetensorError, TypeError) as error:
            raise InputError(f"{path} is not a trie of identifiers ({error}); write it anew by Trie.save") from None
        if not trie._is_whole():
            raise InputError(f"{path} is not a trie of identifiers: its arrays do not fit; write it anew by Trie.save")
        return trie

    def _is_whole(self) -> bool:
        if any(array.dtype != np.int32 or array.ndim != 1 for array in (self.indptr, self.tokens, self.children)):
            return False
        edges, nodes = len(self.tokens), self.nodes
        return (
            len(self.children) == edges > 0
            and nodes > 0
            and self.indptr[0] == 0
            and self.indptr[-1] == edges
            and bool((np.diff(self.indptr) > 0).all())  # each node leads on
            and np.array_equal(self.children[self.children >= 0], np.arange(1, nodes))
            and np.array_equal(np.sort(-1 - self.children[self.children < 0]), np.arange(self.leaves))
            and int(self.tokens.min()) >= 0
        )


def _levels(flat: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr, tokens and children of the sequences that lie behind each other in ``flat``: level by level, with those
    of one node side by side, so that each level's sort finds them nearly sorted."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    order = np.arange(len(lengths))
    parents = np.zeros(len(lengths), np.int64)  # of each sequence in ``order``, counted within the level
    parent_count, nodes = 1, 1
    counts, tokens, children = [], [], []
    for depth in range(int(lengths.max())):
        token = flat[starts[order] + depth]
        key = parents << 31 | token
        by_key = np.argsort(key, kind="stable")
        order, key = order[by_key], key[by_key]
        is_first = np.concatenate([[True], key[1:] != key[:-1]])
        edge = np.cumsum(is_first) - 1
        ends = lengths[order] == depth + 1
        _refuse_ends_inside(order, edge, ends)
        first = np.flatnonzero(is_first)
        is_leaf = ends[first]
        inner = np.cumsum(~is_leaf) - 1  # the number of each edge among those that lead to a node
        counts.append(np.bincount(key[first] >> 31, minlength=parent_count))
        tokens.append((key[first] & (2**31 - 1)).astype(np.int32))
        children.append(np.where(is_leaf, -1 - order[first], nodes + inner).astype(np.int32))
        order, parents = order[~ends], inner[edge[~ends]]
        parent_count = int((~is_leaf).sum())
        nodes += parent_count
        if sum(map(len, tokens)) >= 2**31:
            raise InputError("the sequences have 2**31 different beginnings or more, which a trie cannot number")
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    return indptr, np.concatenate(tokens), np.concatenate(children)


def _refuse_ends_inside(order: np.ndarray, edge: np.ndarray, ends: np.ndarray) -> None:
    """Raise for a sequence that ends on an edge which another one ends on, or goes on from."""
    shared = ends & (np.bincount(edge)[edge] > 1)
    if not shared.any():
        return
    position = int(np.argmax(shared))
    one = order[position]
    others = (edge == edge[position]) & (order != one)
    if (equal := order[others & ends]).size:
        raise InputError(f"sequences {one} and {equal[0]} are the same tokens; make one of them another")
    raise InputError(
        f"sequence {one} is the beginning of sequence {order[others][0]}, so nothing tells where it ends; put an end"
        " token behind each"
    )
