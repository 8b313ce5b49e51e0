"""Which rows make a batch, and what each process gets of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from sentence_transformers.base.sampler import DefaultBatchSampler

from sharpen.evaluation.beir import ALSO_ANSWERS, NEAR_DUPLICATES, Corpus, Query
from sharpen.training.collators import Texts
from sharpen.training.triplets import Triplet


class GlobalBatchSampler(DefaultBatchSampler):
    """Random batches, the same for any number of processes.

    ``batch_size`` is the global one: each batch is split into equal parts, which follow one another as accelerate's
    ``BatchSamplerShard`` takes them. (Its ``split_batches`` drops every short batch but the last, and splits that one
    unevenly, so that gathering across processes would hang.) All ``epochs`` follow one another, each in an order of its
    own, and what is left of one goes into the first batches of the next: the learning rate's schedule must know the
    number of all batches, and only the last ones are smaller. Of these up to ``processes`` - 1 rows are left out, so
    that the parts are equal. ``first``: the order of the first epoch (default: random, too).

    >>> [len(batch) for batch in GlobalBatchSampler(rows=10, batch_size=4, processes=1, seed=13, epochs=2)]
    [4, 4, 4, 4, 4]
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        processes: int,
        seed: int,
        epochs: int = 1,
        *,
        first: Sequence[int] | None = None,
    ) -> None:
        super().__init__(range(rows), batch_size=batch_size // processes, drop_last=False)
        self.batch_size = None  # or accelerate would leave out what is smaller, which is the last batch
        self._global_size, self._processes = batch_size, processes
        self._parts = [part for batch in self._batches(rows, seed, epochs, first) for part in self._split(batch)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def _split(self, batch: list[int]) -> list[list[int]]:
        batch = batch[: len(batch) // self._processes * self._processes]
        return [batch[rank :: self._processes] for rank in range(self._processes)] if batch else []

    def _batches(self, rows: int, seed: int, epochs: int, first: Sequence[int] | None) -> Iterator[list[int]]:
        waiting: deque[int] = deque()
        for epoch in range(epochs):
            if epoch == 0 and first is not None:
                order = first
            else:
                order = list(range(rows))
                random.Random(f"{seed}/{epoch}").shuffle(order)
            waiting.extend(order)
            while waiting:
                batch, passed_over = self._take(waiting)
                if len(batch) < self._global_size and epoch + 1 < epochs:
                    break
                for _ in range(len(batch) + len(passed_over)):  # only these are moved, and not all that wait
                    waiting.popleft()
                waiting.extendleft(reversed(passed_over))
                yield batch

    def _take(self, waiting: Iterable[int]) -> tuple[list[int], list[int]]:
        """The next batch, and the rows before its last one that are not in it; both in their order."""
        return list(islice(waiting, self._global_size)), []


class NoFalseNegativesSampler(GlobalBatchSampler):
    """Batches in which no row's document may answer another row's query.

    With in-batch negatives every document of a batch is a negative of every other row's query. None may be a positive
    of one, a copy of a positive, or what the query's metadata name beside its positives (``also_answers`` and
    ``near_duplicates``, with all their chunks). Rows that do not fit a batch wait for the next one.
    """

    def __init__(
        self,
        triplets: Sequence[Triplet],
        texts: Texts,
        batch_size: int,
        processes: int,
        seed: int,
        epochs: int = 1,
        *,
        first: Sequence[int] | None = None,
    ) -> None:
        corpus = texts.corpus
        keys = {i: corpus[i].copy_key for t in triplets for i in (t.positive_id, *t.negative_ids)}
        positives: dict[str, set[str]] = {}
        for t in triplets:
            positives.setdefault(t.query_id, set()).add(keys[t.positive_id])
        others = {q: found for q in positives if (found := set(_other_answers(texts.queries[q], corpus)))}
        chunks: dict[str, set[str]] = {doc_id: set() for found in others.values() for doc_id in found}
        for i, key in keys.items():
            if (doc_id := corpus[i].doc_id) in chunks:
                chunks[doc_id].add(key)
        for query_id, found in others.items():
            positives[query_id].update(*(chunks[doc_id] for doc_id in found))
        self._positives = [positives[t.query_id] for t in triplets]
        # a set for each row would take five times the memory
        self._documents = [(keys[t.positive_id], *(keys[i] for i in t.negative_ids)) for t in triplets]
        super().__init__(len(triplets), batch_size, processes, seed, epochs, first=first)

    def _take(self, waiting: Iterable[int]) -> tuple[list[int], list[int]]:
        batch: list[int] = []
        passed_over: list[int] = []
        positives: set[str] = set()
        documents: set[str] = set()
        for row in waiting:
            if not documents.isdisjoint(self._positives[row]) or not positives.isdisjoint(self._documents[row]):
                passed_over.append(row)
                continue
            batch.append(row)
            if len(batch) == self._global_size:
                break
            positives.update(self._positives[row])
            documents.update(self._documents[row])
        return batch, passed_over


def _other_answers(query: Query, corpus: Corpus) -> Iterator[str]:
    """The documents, beside those of its positives, that may answer a query."""
    yield from query.metadata.get(NEAR_DUPLICATES, ())
    yield from (corpus[i].doc_id for i in query.metadata.get(ALSO_ANSWERS, ()) if i in corpus)
