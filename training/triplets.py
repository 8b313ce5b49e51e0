"""Triplets hold IDs; texts are looked up when a batch is put together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from evaluation.data import Corpus, Query


@dataclass(frozen=True)
class Triplet:
    """One training row: a query, one of its positives and ``negatives`` (the same number in every row)."""

    query_id: str
    positive_id: str
    negative_ids: tuple[str, ...]


def make_triplets(positives: Mapping[str, Sequence[str]], negatives: Mapping[str, Sequence[str]], per_query: int) -> tuple[list[Triplet], int]:
    """One triplet for each query and positive, with the first ``per_query`` negatives of the query.

    Returns the triplets and the number of queries left out because they have fewer negatives than that: rows of one
    batch need one shape, and padding with random texts would be a claim about hardness that is not true.
    """
    rows = [
        Triplet(query_id, positive_id, tuple(negatives.get(query_id, ())[:per_query]))
        for query_id, positive_ids in positives.items()
        for positive_id in positive_ids
        if len(negatives.get(query_id, ())) >= per_query
    ]
    return rows, len(positives) - len({row.query_id for row in rows})


def to_dataset(triplets: Sequence[Triplet]) -> Dataset:
    """Columns ``anchor``, ``positive``, ``negative_1`` ... of IDs, in the order that the losses expect."""
    columns: dict[str, list[str]] = {"anchor": [t.query_id for t in triplets], "positive": [t.positive_id for t in triplets]}
    for n in range(len(triplets[0].negative_ids)):
        columns[f"negative_{n + 1}"] = [t.negative_ids[n] for t in triplets]
    return Dataset.from_dict(columns)


class TextCollator(SentenceTransformerDataCollator):
    """Looks the texts of a batch up by ID and tokenises them."""

    def set_texts(self, queries: Mapping[str, Query], corpus: Corpus) -> None:
        self._queries, self._corpus = queries, corpus

    def __call__(self, features: list[dict[str, str]]) -> dict:
        return super().__call__([
            {column: self._queries[i].text if column == "anchor" else self._corpus[i].content for column, i in row.items()} for row in features
        ])


class NoFalseNegativesSampler(DefaultBatchSampler):
    """Random batches in which no row's document is a positive of another row's query, nor a copy of one.

    With in-batch negatives every document of a batch is a negative of every other row's query. Rows that do not fit a
    batch wait for the next one. ``batch_size`` is the global one: with several processes each batch is dealt out in equal
    parts, one after the other as accelerate's sharding takes them, so 1 and N processes train on the same batches, but for
    up to ``processes`` - 1 rows of a smaller batch (an epoch's last), which are left out so that the parts are equal.

    All ``epochs`` come one after the other in a single pass, each in its own order: they need not have equally many
    batches, and the learning rate's schedule must know the number of all.
    """

    def __init__(self, triplets: Sequence[Triplet], corpus: Corpus, batch_size: int, processes: int, seed: int, epochs: int = 1) -> None:
        super().__init__(range(len(triplets)), batch_size=batch_size // processes, drop_last=False)
        self.batch_size = None  # or accelerate would leave out what is smaller, which is an epoch's last batch
        texts = {i: corpus[i].copy_key for t in triplets for i in (t.positive_id, *t.negative_ids)}
        known: dict[str, set[str]] = {}
        for t in triplets:
            known.setdefault(t.query_id, set()).add(texts[t.positive_id])
        self._positives = [known[t.query_id] for t in triplets]
        self._documents = [{texts[t.positive_id], *(texts[i] for i in t.negative_ids)} for t in triplets]
        self._global_size, self._processes = batch_size, processes
        self._parts = [part for epoch in range(epochs) for batch in self._global_batches(f"{seed}/{epoch}") for part in self._deal(batch)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def _deal(self, batch: list[int]) -> list[list[int]]:
        batch = batch[: len(batch) // self._processes * self._processes]
        return [batch[rank :: self._processes] for rank in range(self._processes)] if batch else []

    def _global_batches(self, seed: str) -> Iterator[list[int]]:
        waiting = list(range(len(self._documents)))
        random.Random(seed).shuffle(waiting)
        while waiting:
            batch: list[int] = []
            later: list[int] = []
            positives: set[str] = set()
            documents: set[str] = set()
            for position, row in enumerate(waiting):
                if len(batch) == self._global_size:
                    later += waiting[position:]
                    break
                if self._positives[row] & documents or self._documents[row] & positives:
                    later.append(row)
                    continue
                batch.append(row)
                positives |= self._positives[row]
                documents |= self._documents[row]
            waiting = later
            yield batch
