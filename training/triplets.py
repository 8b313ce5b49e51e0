"""Triplets hold IDs; texts are looked up when a batch is put together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.encoders.tokens import Tokens, is_right_padded_text, join, split


@dataclass(frozen=True)
class Triplet:
    """One training row: a query, one of its positives and ``negatives`` (the same number in every row)."""

    query_id: str
    positive_id: str
    negative_ids: tuple[str, ...]


def make_triplets(
    positives: Mapping[str, Sequence[str]], negatives: Mapping[str, Sequence[str]], per_query: int
) -> tuple[list[Triplet], int]:
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


def to_dataset(triplets: Sequence[Triplet], scores: Mapping[tuple[str, str], float] | None = None) -> Dataset:
    """Columns ``anchor``, ``positive``, ``negative_1`` ... of IDs, in the order that the losses expect; with a
    teacher's ``scores`` of (query ID, document ID) also ``label``: those of a row's positive and negatives, in this
    order."""
    columns: dict[str, list[Any]] = {
        "anchor": [t.query_id for t in triplets],
        "positive": [t.positive_id for t in triplets],
    }
    for n in range(len(triplets[0].negative_ids)):
        columns[f"negative_{n + 1}"] = [t.negative_ids[n] for t in triplets]
    if scores is not None:
        columns["label"] = [[scores[t.query_id, i] for i in (t.positive_id, *t.negative_ids)] for t in triplets]
    return Dataset.from_dict(columns)


class TextCollator(SentenceTransformerDataCollator):
    """Looks the texts of a batch up by ID, and tokenises each of them once, in the first batch that has it."""

    def set_texts(self, queries: Mapping[str, Query], corpus: Corpus, padding_id: int) -> None:
        """``padding_id``: the tokenizer's, for what is narrower than its batch."""
        self._queries, self._corpus, self._padding_id = queries, corpus, padding_id
        self._tokens: dict[tuple[bool, str], Tokens] = {}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for column in features[0]:
            values = [row[column] for row in features]
            if column == "label":
                batch["label"] = torch.tensor(values)
            else:
                batch |= {f"{column}_{key}": value for key, value in self._column(column, values).items()}
        return batch

    def _column(self, column: str, ids: list[str]) -> dict[str, Any]:
        is_query = column == "anchor"
        if new := [i for i in dict.fromkeys(ids) if (is_query, i) not in self._tokens]:
            found = self.preprocess_fn([self._text(is_query, i) for i in new], prompt=self.prompts.get(column))
            if not is_right_padded_text(found):  # flattened, or more than token IDs: as the model wants it
                return self.preprocess_fn([self._text(is_query, i) for i in ids], prompt=self.prompts.get(column))
            self._tokens |= zip([(is_query, i) for i in new], split(found), strict=True)
        return join([self._tokens[is_query, i] for i in ids], self._padding_id)

    def _text(self, is_query: bool, i: str) -> str:
        return self._queries[i].text if is_query else self._corpus[i].content


class DealtSampler(DefaultBatchSampler):
    """Random batches of ``rows`` rows, the same for any number of processes.

    ``batch_size`` is the global one: with several processes each batch is dealt out in equal parts, one after the other
    as accelerate's sharding takes them. All ``epochs`` come one after the other in a single pass, each in its own
    order, and what is left of one goes into the first batches of the next: the learning rate's schedule must know the
    number of all batches, and only the last ones are smaller. Of these up to ``processes`` - 1 rows are left out, so
    that the parts are equal.
    """

    def __init__(self, rows: int, batch_size: int, processes: int, seed: int, epochs: int = 1) -> None:
        super().__init__(range(rows), batch_size=batch_size // processes, drop_last=False)
        self.batch_size = None  # or accelerate would leave out what is smaller, which is the last batch
        self._global_size, self._processes = batch_size, processes
        self._parts = [part for batch in self._global_batches(rows, seed, epochs) for part in self._deal(batch)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def _deal(self, batch: list[int]) -> list[list[int]]:
        batch = batch[: len(batch) // self._processes * self._processes]
        return [batch[rank :: self._processes] for rank in range(self._processes)] if batch else []

    def _global_batches(self, rows: int, seed: int, epochs: int) -> Iterator[list[int]]:
        waiting: list[int] = []
        for epoch in range(epochs):
            order = list(range(rows))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            waiting += order
            while waiting:
                batch, later = self._take(waiting)
                if len(batch) < self._global_size and epoch + 1 < epochs:
                    break
                waiting = later
                yield batch

    def _take(self, waiting: list[int]) -> tuple[list[int], list[int]]:
        """The next batch, and the rows that go on waiting, in their order."""
        return waiting[: self._global_size], waiting[self._global_size :]


class NoFalseNegativesSampler(DealtSampler):
    """Batches in which no row's document is a positive of another row's query, nor a copy of one.

    With in-batch negatives every document of a batch is a negative of every other row's query. Rows that do not fit a
    batch wait for the next one.
    """

    def __init__(
        self, triplets: Sequence[Triplet], corpus: Corpus, batch_size: int, processes: int, seed: int, epochs: int = 1
    ) -> None:
        texts = {i: corpus[i].copy_key for t in triplets for i in (t.positive_id, *t.negative_ids)}
        known: dict[str, set[str]] = {}
        for t in triplets:
            known.setdefault(t.query_id, set()).add(texts[t.positive_id])
        self._positives = [known[t.query_id] for t in triplets]
        self._documents = [{texts[t.positive_id], *(texts[i] for i in t.negative_ids)} for t in triplets]
        super().__init__(len(triplets), batch_size, processes, seed, epochs)

    def _take(self, waiting: list[int]) -> tuple[list[int], list[int]]:
        batch: list[int] = []
        later: list[int] = []
        positives: set[str] = set()
        documents: set[str] = set()
        for position, row in enumerate(waiting):
            if len(batch) == self._global_size:
                return batch, later + waiting[position:]
            if self._positives[row] & documents or self._documents[row] & positives:
                later.append(row)
                continue
            batch.append(row)
            positives |= self._positives[row]
            documents |= self._documents[row]
        return batch, later
