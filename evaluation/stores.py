"""An index of a corpus handed to a vector store: IDs, titles, texts, metadata and vectors."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from pydantic import BaseModel

from sharpen.evaluation.beir import Corpus, Document
from sharpen.evaluation.files import InputError, atomic_folder, check_new_folder, write_text

StoreName = Literal["parquet", "faiss", "qdrant"]
DOCUMENTS_FILE, FAISS_FILE, INDEX_FILE = "documents.parquet", "index.faiss", "index.json"
COLLECTION = "documents"
"""Of Qdrant."""
ROWS_AT_ONCE = 10_000


class IndexInfo(BaseModel):
    """``index.json``: what the vectors are of, and how queries are to be encoded.

    ``model``: its digest. ``without_token``: documents that are not in the index, as the encoder reads nothing of them.
    """

    store: StoreName
    model: str
    dimension: int
    documents: int
    without_token: int
    query_prompt: str
    document_prompt: str
    max_seq_length: int | None
    metric: Literal["cosine"] = "cosine"


def write_store(target: Path, corpus: Corpus, ids: list[str], vectors: np.ndarray, info: IndexInfo) -> IndexInfo:
    """Write documents and their unit vectors, float32 of shape (len(ids), dimension), into the folder ``target``, whole
    or not at all, with a README of how it is opened and searched.

    ``ids``: a row's document. Rows of zeros are left out. Raises ``InputError`` for a target that is there already and
    for a client that is not installed.
    """
    check_new_folder(target)
    if info.store == "qdrant" and importlib.util.find_spec("qdrant_client") is None:
        raise InputError("--to qdrant: it needs qdrant-client; run: pip install 'sharpen[qdrant]'")
    rows = np.flatnonzero(vectors.any(axis=1))
    documents, kept = [corpus[ids[row]] for row in rows], np.ascontiguousarray(vectors[rows], dtype=np.float32)
    counts = {"documents": len(documents), "without_token": len(ids) - len(documents), "dimension": kept.shape[1]}
    info = info.model_copy(update=counts)
    with atomic_folder(target) as folder:
        _WRITERS[info.store](folder, documents, kept)
        write_text(folder / INDEX_FILE, info.model_dump_json(indent=2) + "\n")
        write_text(folder / "README.md", _page(info))
    return info


def _write_parquet(folder: Path, documents: list[Document], vectors: np.ndarray) -> None:
    _write_table(folder / DOCUMENTS_FILE, documents, vectors)


def _write_faiss(folder: Path, documents: list[Document], vectors: np.ndarray) -> None:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors, np.arange(len(vectors), dtype=np.int64))
    faiss.write_index(index, str(folder / FAISS_FILE))
    _write_table(folder / DOCUMENTS_FILE, documents, None)


def _write_qdrant(folder: Path, documents: list[Document], vectors: np.ndarray) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    try:
        size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
        client.create_collection(COLLECTION, vectors_config=size)
        for start in range(0, len(documents), ROWS_AT_ONCE):
            part = range(start, min(start + ROWS_AT_ONCE, len(documents)))
            client.upload_collection(
                COLLECTION,
                vectors=vectors[part.start : part.stop],
                ids=list(part),
                payload=[_payload(documents[row]) for row in part],
            )
    finally:
        client.close()


_WRITERS: dict[StoreName, Callable[[Path, list[Document], np.ndarray], None]] = {
    "parquet": _write_parquet,
    "faiss": _write_faiss,
    "qdrant": _write_qdrant,
}


def _payload(document: Document) -> dict:
    return {"id": document.id, "title": document.title, "text": document.text, "metadata": document.metadata}


def _write_table(path: Path, documents: list[Document], vectors: np.ndarray | None) -> None:
    """Columns row (the number in FAISS), id, title, text, metadata (JSON), and vector, where there are any."""
    import pyarrow
    from pyarrow import parquet

    fields = [("row", pyarrow.int64()), *((name, pyarrow.string()) for name in ("id", "title", "text", "metadata"))]
    if vectors is not None:
        fields.append(("vector", pyarrow.list_(pyarrow.float32(), vectors.shape[1])))
    schema = pyarrow.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(documents), ROWS_AT_ONCE):
            part = documents[start : start + ROWS_AT_ONCE]
            columns = {
                "row": list(range(start, start + len(part))),
                "id": [d.id for d in part],
                "title": [d.title for d in part],
                "text": [d.text for d in part],
                "metadata": [json.dumps(d.metadata, ensure_ascii=False) for d in part],
            }
            arrays = [pyarrow.array(columns[name], type_) for name, type_ in fields[:5]]
            if vectors is not None:
                flat = pyarrow.array(vectors[start : start + len(part)].ravel())
                arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


_SEARCHES: dict[StoreName, str] = {
    "parquet": """import pyarrow.parquet as pq

table = pq.read_table("documents.parquet")
vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
best = (vectors @ query).argsort()[::-1][:10]
print([(table["id"][int(row)].as_py(), float(vectors[row] @ query)) for row in best])""",
    "faiss": """import faiss
import pyarrow.parquet as pq

index = faiss.read_index("index.faiss")
ids = pq.read_table("documents.parquet", columns=["id"])["id"].to_pylist()
scores, rows = index.search(query[None], 10)
print([(ids[row], score) for row, score in zip(rows[0], scores[0])])""",
    "qdrant": """from qdrant_client import QdrantClient

client = QdrantClient(path="this folder")
found = client.query_points("documents", query=query, limit=10).points
print([(point.payload["id"], point.score) for point in found])""",
}
_MORE: dict[StoreName, str] = {
    "parquet": "`metadata` is JSON. Most vector stores take such a table as it is.",
    "faiss": "FAISS knows documents by their row in `documents.parquet`, which has texts and metadata.",
    "qdrant": (
        '`client.migrate(QdrantClient(url="http://localhost:6333"))` copies the collection to a server. Its'
        " client keeps\nthe points of its local mode as pickles, which can run code: open your own only."
    ),
}


def _page(info: IndexInfo) -> str:
    return f"""# {info.documents:,} documents, for {info.store}

Vectors of {info.dimension} numbers and of length 1, compared by cosine (or inner product, which is the same for them).
{info.without_token:,} documents are not here, as the encoder reads no token of them.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("the model's folder")
query = model.encode_query("how ice flows", normalize_embeddings=True)
{_SEARCHES[info.store]}
```

Before a query stands {info.query_prompt!r}, before a document {info.document_prompt!r}. {_MORE[info.store]}
"""
