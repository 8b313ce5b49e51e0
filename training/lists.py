"""Lists of candidates with a teacher's scores: what distillation learns from, without a label of relevance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from sharpen.evaluation.beir import Run
from sharpen.evaluation.files import InputError
from sharpen.training.anchor import Anchor
from sharpen.training.distributions import distribution_loss, teacher_logits
from sharpen.training.micro_batches import MicroBatches
from sharpen.training.settings import RetrieverSettings


@dataclass(frozen=True)
class CandidateLists:
    """For each query the documents that the teacher ranks first, with its scores: the same number for all.

    ``queries``: IDs. ``documents``: IDs, best first, a row of ``size`` for each query. ``scores``: float32 of shape
    (queries, size), in the scale of the teacher.

    >>> lists = CandidateLists.of({"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 1.0}}, size=2)
    >>> lists.queries, lists.documents, lists.scores.tolist()
    (['q1'], [['a', 'b']], [[2.0, 1.0]])
    """

    queries: list[str]
    documents: list[list[str]]
    scores: np.ndarray

    @classmethod
    def of(cls, run: Run, size: int) -> CandidateLists:
        """The first ``size`` documents of each query of a run. Queries with fewer are left out, and those whose
        documents all have the same score, as BM25 gives where no word is known: nothing is said by these."""
        best = {
            q: sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:size]
            for q, scores in run.items()
            if len(scores) >= size
        }
        best = {q: row for q, row in best.items() if row[0][1] > row[-1][1]}
        values = np.array([[score for _, score in row] for row in best.values()], dtype=np.float32)
        return cls(list(best), [[i for i, _ in row] for row in best.values()], values.reshape(len(best), size))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def size(self) -> int:
        """Documents of each query."""
        return self.scores.shape[1]

    def write(self, path: Path) -> None:
        """As Parquet: a row of query ID, document IDs and scores for each query."""
        table = pa.table({"query_id": self.queries, "doc_ids": self.documents, "scores": list(self.scores)})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> CandidateLists:
        """What ``write`` wrote."""
        columns = pq.read_table(path).to_pydict()
        scores = np.array(columns["scores"], dtype=np.float32)
        return cls(columns["query_id"], columns["doc_ids"], scores.reshape(len(scores), -1))


class KeptDocumentsLoss(nn.Module):
    """Learn a teacher's distribution over each query's candidates, whose vectors stay as they are.

    KL(softmax(teacher / ``teacher_temperature``) || softmax(``scale`` x cosine)) over the candidates of a query, with
    the contrastive term and the anchor that the settings ask for: only queries are encoded, and the softmax may be as
    long as one likes. ``vectors``: unit vectors, float32 of shape (documents, dimension). ``labels`` are row numbers in
    ``lists``.
    """

    def __init__(
        self,
        model: nn.Module,
        lists: CandidateLists,
        vectors: np.ndarray,
        rows: Mapping[str, int],
        settings: RetrieverSettings,
    ) -> None:
        super().__init__()
        self.model, self._scale = model, settings.scale
        device = next(model.parameters()).device
        self._vectors = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)
        self._documents = torch.tensor([[rows[i] for i in documents] for documents in lists.documents], device=device)
        self._teacher = torch.from_numpy(teacher_logits(lists.scores, settings)).to(device)
        self._contrastive = settings.contrastive
        self._anchor = Anchor(model, settings.anchor, settings.precision) if settings.anchor else None
        self._micro_batches = MicroBatches(settings.precision)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        columns = list(sentence_features)
        embedded = self._micro_batches.embed(self.model, columns)
        (queries,) = embedded
        with torch.autocast(queries.device.type, enabled=False):
            queries = nn.functional.normalize(queries.float(), dim=-1)
            documents = self._vectors[self._documents[labels]]
            student = torch.einsum("qd,qkd->qk", queries, documents) * self._scale
            loss = distribution_loss(student, self._teacher[labels], self._contrastive)
        return loss + self._anchor(columns, embedded) if self._anchor else loss


def check_lists(lists: CandidateLists, queries: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise ``InputError`` if there is no list, or one of an unknown query."""
    if not len(lists):
        raise InputError("no lists to train on: no query has as many candidates as training.candidates asks for")
    if unknown := [q for q in lists.queries if q not in queries]:
        raise InputError(f"lists: one is of the query {unknown[0]!r}, which is not among the queries")
