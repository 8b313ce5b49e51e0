"""Embedding distillation: the student's vectors are to say what the teachers' vectors say, for queries and documents.

Neither labels nor negatives are needed, and a teacher may have another width: a linear map from the student's space to
the teacher's is fitted before training and stays as it is, so that what is learnt is only what the student's vectors do
not say yet (EmbedDistill, Kim et al. 2023; LEAF, arXiv 2509.12539).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from sharpen.evaluation.files import InputError
from sharpen.evaluation.scorers import BASE
from sharpen.training.micro_batches import MicroBatches
from sharpen.training.settings import RetrieverSettings
from sharpen.training.triplets import Triplet

QUERY, DOCUMENT = "query", "document"
RIDGES = tuple(10.0**n for n in range(-3, 3))
"""Of the fitted map. The best is taken by leaving each text out: with fewer texts than dimensions, a map without a
ridge is exact for every one of them, and nothing would be left to learn."""


@dataclass(frozen=True)
class TeacherVectors:
    """Vectors of queries and documents by several encoders, the base among them.

    ``queries`` and ``documents``: IDs. ``vectors``: encoder to float32 of shape (queries + documents, its dimension),
    queries first, unit vectors. ``weights``: encoder to its weight in the loss; the base may have none.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> TeacherVectors(["q"], ["d"], {"base": eye}, {"base": 1.0}).row_of
    {('query', 'q'): 0, ('document', 'd'): 1}
    """

    queries: list[str]
    documents: list[str]
    vectors: Mapping[str, np.ndarray]
    weights: Mapping[str, float]

    @property
    def row_of(self) -> dict[tuple[str, str], int]:
        """``query`` or ``document`` and the ID, to the row of its vectors."""
        texts = [(QUERY, q) for q in self.queries] + [(DOCUMENT, d) for d in self.documents]
        return {text: row for row, text in enumerate(texts)}

    def write(self, path: Path) -> None:
        """As Parquet: a row of kind, ID and one vector for each encoder; the weights in the schema's metadata."""
        kinds = [QUERY] * len(self.queries) + [DOCUMENT] * len(self.documents)
        columns: dict[str, Any] = {"kind": kinds, "id": self.queries + self.documents}
        for encoder, vectors in self.vectors.items():
            flat = pa.array(vectors.astype(np.float32).ravel())
            columns[encoder] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        weights = {f"weight:{encoder}": repr(float(weight)) for encoder, weight in self.weights.items()}
        pq.write_table(pa.table(columns).replace_schema_metadata(weights), path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> TeacherVectors:
        """What ``write`` wrote."""
        table = pq.read_table(path)
        kinds, ids = table["kind"].to_pylist(), table["id"].to_pylist()
        vectors = {
            name: table[name].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
            for name in table.column_names
            if name not in ("kind", "id")
        }
        stored = {k.decode().removeprefix("weight:"): float(v) for k, v in (table.schema.metadata or {}).items()}
        of_kind = {kind: [i for k, i in zip(kinds, ids, strict=True) if k == kind] for kind in (QUERY, DOCUMENT)}
        return cls(of_kind[QUERY], of_kind[DOCUMENT], vectors, stored)


def fitted_map(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """The matrix, of shape (student's dimension, teacher's dimension), that takes the student's vectors nearest to the
    teacher's, by ridge regression. Both arguments have a row for each text.

    >>> student = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    >>> fitted_map(student, student[:, ::-1]).round(1).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    fitted = RidgeCV(alphas=RIDGES, fit_intercept=False).fit(student, teacher)
    return np.ascontiguousarray(fitted.coef_.T, dtype=np.float32)


class VectorsLoss(nn.Module):
    """Mean over queries and documents of 1 - cosine(map(student), teacher), summed over the teachers by their weights.

    ``labels`` are numbers of ``rows``. With the base as a teacher, whose map is the identity, its term holds the
    student near to what it was. Raises ``InputError`` if a text of a row has no vector, or no encoder a weight.
    """

    def __init__(
        self, model: nn.Module, vectors: TeacherVectors, rows: Sequence[Triplet], settings: RetrieverSettings
    ) -> None:
        super().__init__()
        self.model = model
        weights = {encoder: weight for encoder, weight in vectors.weights.items() if weight}
        if not weights:
            raise InputError("training.teacher: no encoder has a weight, so there is nothing to learn")
        row_of = vectors.row_of
        try:
            places = [(row_of[QUERY, row.query_id], row_of[DOCUMENT, row.positive_id]) for row in rows]
        except KeyError as error:
            raise InputError(f"training.teacher: no vector of the {' '.join(error.args[0])}") from None
        device = next(model.parameters()).device
        self._places = torch.tensor(places, device=device)
        self._teachers = [
            (weight, torch.from_numpy(np.array(vectors.vectors[encoder])).to(device), fitted.to(device))
            for encoder, weight, fitted in ((e, w, _map(vectors, e)) for e, w in weights.items())
        ]
        self._micro_batches = MicroBatches(settings.precision)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        columns = self._micro_batches.embed(self.model, list(sentence_features))
        with torch.autocast(columns[0].device.type, enabled=False):
            loss = columns[0].new_zeros(())
            for column, places in zip(columns, self._places[labels].T, strict=True):
                student = nn.functional.normalize(column.float(), dim=-1)
                for weight, teacher, fitted in self._teachers:
                    loss = (
                        loss + weight * (1 - nn.functional.cosine_similarity(student @ fitted, teacher[places])).mean()
                    )
            return loss / len(columns)


def _map(vectors: TeacherVectors, encoder: str) -> Tensor:
    base = vectors.vectors[BASE]
    if encoder == BASE:
        return torch.eye(base.shape[1])
    return torch.from_numpy(fitted_map(base, vectors.vectors[encoder]))
