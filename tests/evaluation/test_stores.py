"""An index handed to vector stores, opened by their own libraries: what it finds is what our search finds."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import pyarrow.parquet as pq
import pytest

from sharpen.evaluation.beir import Corpus, Document
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.stores import IndexInfo, write_store

QUERIES = {"q1": "flat tire what now", "q2": "how long does dough rest", "q3": "ice flowing downhill"}


@pytest.fixture
def documents(corpus: Corpus) -> Corpus:
    many = {f"{i}#{n}": Document(f"{i}#{n}", f"{d.text} {n}", d.title, {"part": n, "of": i}) for n in range(4)
            for i, d in corpus.items()}  # fmt: skip
    return many


@pytest.fixture
def dense(documents: Corpus) -> Dense:
    return Dense(documents, load_encoder("packaged:tiny-bert", device="cpu"))


def written(store: str, target: Path, documents: Corpus, dense: Dense) -> IndexInfo:
    info = IndexInfo(
        store=store,
        model="digest",
        dimension=0,
        documents=0,
        without_token=0,
        query_prompt="query: ",
        document_prompt="",
        max_seq_length=512,
    )
    return write_store(target, documents, dense.ids, dense.vectors, info)


def first_ten(dense: Dense) -> list[list[str]]:
    return [list(found) for found in dense.search(QUERIES, 10).values()]


def test_parquet_has_ids_texts_metadata_and_vectors(documents: Corpus, dense: Dense, tmp_path: Path):
    info = written("parquet", tmp_path / "out", documents, dense)
    table = pq.read_table(tmp_path / "out" / "documents.parquet")
    assert table.column_names == ["row", "id", "title", "text", "metadata", "vector"]
    assert (info.documents, info.dimension) == (len(documents), 128) == (len(table), len(table["vector"][0]))
    row = table.slice(5, 1).to_pylist()[0]
    document = documents[row["id"]]
    assert (row["title"], row["text"], json.loads(row["metadata"])) == (
        document.title,
        document.text,
        document.metadata,
    )
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    found = [
        [table["id"][int(row)].as_py() for row in (vectors @ query).argsort(kind="stable")[::-1][:10]]
        for query in dense.encode_queries(list(QUERIES.values()))
    ]
    assert [set(ids) for ids in found] == [set(ids) for ids in first_ten(dense)]
    assert json.loads((tmp_path / "out" / "index.json").read_text())["query_prompt"] == "query: "


def test_faiss_finds_the_same_documents(documents: Corpus, dense: Dense, tmp_path: Path):
    written("faiss", tmp_path / "out", documents, dense)
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    ids = pq.read_table(tmp_path / "out" / "documents.parquet")["id"].to_pylist()
    _, rows = index.search(dense.encode_queries(list(QUERIES.values())), 10)
    assert [[ids[row] for row in each] for each in rows] == first_ten(dense)


def test_qdrant_finds_the_same_documents(documents: Corpus, dense: Dense, tmp_path: Path):
    qdrant = pytest.importorskip("qdrant_client")
    written("qdrant", tmp_path / "out", documents, dense)
    client = qdrant.QdrantClient(path=str(tmp_path / "out"))
    found = [
        client.query_points("documents", query=query, limit=10).points
        for query in dense.encode_queries(list(QUERIES.values())).tolist()
    ]
    client.close()
    assert [[point.payload["id"] for point in points] for points in found] == first_ten(dense)
    point = found[0][0].payload
    assert point["metadata"] == documents[point["id"]].metadata and point["text"] == documents[point["id"]].text


@pytest.mark.parametrize("store", ["parquet", "faiss", "qdrant"])
def test_the_page_says_how_it_is_searched(store: str, documents: Corpus, dense: Dense, tmp_path: Path):
    written(store, tmp_path / "out", documents, dense)
    page = (tmp_path / "out" / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert "'query: '" in page


def test_a_document_without_a_token_is_left_out_and_counted(documents: Corpus, dense: Dense, tmp_path: Path):
    dense.vectors[3] = 0
    info = written("faiss", tmp_path / "out", documents, dense)
    assert (info.documents, info.without_token) == (len(documents) - 1, 1)
    assert dense.ids[3] not in pq.read_table(tmp_path / "out" / "documents.parquet")["id"].to_pylist()


def test_nothing_is_written_over_and_a_missing_client_is_named(
    documents: Corpus, dense: Dense, tmp_path: Path, monkeypatch
):
    written("faiss", tmp_path / "out", documents, dense)
    with pytest.raises(InputError, match="exists already"):
        written("faiss", tmp_path / "out", documents, dense)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'sharpen\[qdrant\]'"):
        written("qdrant", tmp_path / "other", documents, dense)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
