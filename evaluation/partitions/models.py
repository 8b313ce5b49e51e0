"""What models compute in parts: vectors of documents, scores of pairs, and the nearest vectors."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from sharpen.evaluation.beir import Corpus, Run
from sharpen.evaluation.encoders.encode import encode, score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.encoders.precision import resolve_precision
from sharpen.evaluation.encoders.routes import prompt_of, route_of
from sharpen.evaluation.encoders.settings import Encoder, Precision, PrecisionSetting
from sharpen.evaluation.files import atomic_file
from sharpen.evaluation.partitions.contract import Task
from sharpen.evaluation.partitions.kept import KeptRows, Partitions, row_keys
from sharpen.evaluation.processes import SharedRows, process_state
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.settings import CrossEncoderName, Settings
from sharpen.evaluation.truncation import Truncation, What, collect_truncations, report_truncations

LIMIT, TOKENS = "limit", "tokens"
"""Columns: what the model reads of a text at most, and how many tokens one has that is longer (0: it is not)."""


@dataclass
class EncodeDocuments:
    """Texts to unit vectors, as an encoder encodes documents."""

    name: ClassVar[str] = "vectors"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    outputs: ClassVar[tuple[str, ...]] = ("vector", TOKENS, LIMIT)

    encoder: Encoder
    batch_size: int | None = None
    _model: Any = field(default=None, init=False, repr=False, compare=False)

    def fingerprint(self) -> Any:
        return self.encoder.fingerprint()

    def setup(self) -> None:
        chosen = self.encoder
        self._model = load_encoder(chosen.model, max_seq_length=chosen.max_seq_length, attention=chosen.attention)

    def __call__(self, table: pa.Table) -> pa.Table:
        model = route_of(self._model, "document")
        prompt = prompt_of(self._model, "document", self.encoder.document_prompt)
        texts = table["text"].to_pylist()
        with collect_truncations() as found:
            vectors = encode(model, texts, prompt=prompt, precision=self.encoder.precision)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return pa.table({"vector": column} | _lengths(found.rows, len(texts), model.max_seq_length))


class _CrossEncoder(Settings):
    """What scores depend on."""

    model: CrossEncoderName
    precision: PrecisionSetting


@dataclass
class ScorePairs:
    """Pairs of query and document to a cross-encoder's scores."""

    name: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("query", "document")
    outputs: ClassVar[tuple[str, ...]] = ("score", TOKENS, LIMIT)

    model: str
    precision: Precision = "auto"
    batch_size: int | None = None
    _model: Any = field(default=None, init=False, repr=False, compare=False)

    def fingerprint(self) -> Any:
        return _CrossEncoder(model=self.model, precision=self.precision).fingerprint()

    def setup(self) -> None:
        self._model = load_cross_encoder(self.model)

    def __call__(self, table: pa.Table) -> pa.Table:
        pairs = list(zip(table["query"].to_pylist(), table["document"].to_pylist(), strict=True))
        with collect_truncations() as found:
            scores = score_pairs(self._model, pairs, precision=self.precision)
        return pa.table(
            {"score": pa.array(scores, pa.float64())} | _lengths(found.rows, len(pairs), self._model.max_seq_length)
        )


@dataclass
class Nearest:
    """Vectors, by the shard and the row that they are in, to those with the largest inner products with each query.

    ``queries``: the file of the queries' vectors, a float32 ``.npy`` of shape (queries, dimension); ``position``: what
    a vector is called in the result.
    """

    name: ClassVar[str] = "nearest"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("shard", "row", "position")
    outputs: ClassVar[tuple[str, ...]] = ("query", "position", "score")

    queries: str
    digest: str
    k: int
    batch_size: int | None = None
    _vectors: Any = field(default=None, init=False, repr=False, compare=False)

    def fingerprint(self) -> Any:
        return [self.digest, self.k]

    def setup(self) -> None:
        self._vectors = np.load(self.queries)

    def __call__(self, table: pa.Table) -> pa.Table:
        from sharpen.evaluation.retrievers.dense import nearest  # imports this package's models

        (path,) = table["shard"].unique().to_pylist()
        shard = pq.read_table(path, columns=["vector"], partitioning=None)
        vectors = vectors_of(shard.take(table["row"]))
        with_token = np.flatnonzero(vectors.any(axis=1))  # what has none is not found
        scores, rows = nearest(self._vectors, vectors[with_token], self.k)
        queries, places = np.nonzero(rows >= 0)
        positions = table["position"].to_numpy()[with_token[rows[queries, places]]]
        return pa.table({"query": queries, "position": positions, "score": scores[queries, places]})


@dataclass
class SearchBM25:
    """Queries to their best documents by BM25, as numbers of documents; ``folder``, ``languages`` and ``documents``:
    of an index that is kept, as ``BM25.mapped`` takes them."""

    name: ClassVar[str] = "bm25"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("query",)
    outputs: ClassVar[tuple[str, ...]] = ("positions", "scores")

    folder: Path
    languages: tuple[str, ...]
    documents: int
    k: int
    batch_size: int | None = 1000
    _index: Any = field(default=None, init=False, repr=False, compare=False)

    def fingerprint(self) -> Any:
        return [self.folder.name, self.k]  # the name is a hash of all else

    def setup(self) -> None:
        self._index = BM25.mapped(self.folder, self.languages, self.documents)

    def __call__(self, table: pa.Table) -> pa.Table:
        run = self._index.search(dict(enumerate(table["query"].to_pylist())), self.k)
        return pa.table(
            {
                "positions": pa.array([list(found) for found in run.values()], pa.list_(pa.int64())),
                "scores": pa.array([list(found.values()) for found in run.values()], pa.list_(pa.float64())),
            }
        )


def vectors_of(table: pa.Table) -> np.ndarray:
    """The column ``vector``: float32 of shape (rows, dimension)."""
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def encode_documents(
    partitions: Partitions, corpus: Corpus, encoder: Encoder, advance: Callable[[int], None]
) -> KeptRows:
    """Where the vectors of the documents lie, in the order of ``corpus``. Who collects is told of those that are longer
    than the encoder reads."""
    texts = [document.content for document in corpus.values()]
    kept = partitions.map(
        EncodeDocuments(encoder.model_copy(update={"precision": _resolved(encoder.precision)})),
        row_keys(texts),
        lambda numbers: pa.table({"text": pa.array([texts[n] for n in numbers], pa.string())}),
        advance,
    )
    _report(kept, "documents")
    return kept


def gathered(kept: KeptRows) -> np.ndarray:
    """The vectors as one array, which the processes of one machine share: float32 of shape (rows, dimension)."""
    if not len(kept.rows):
        return np.zeros((0, 0), dtype=np.float32)
    first = pq.read_schema(kept.paths[kept.shards[0]]).field("vector").type.list_size
    shared, state = SharedRows((len(kept.rows), first)), process_state()
    here = np.unique(kept.shards)[state.process_index :: state.num_processes]
    rows = np.flatnonzero(np.isin(kept.shards, here))
    for numbers, table in KeptRows(kept.paths, kept.shards[rows], kept.rows[rows]).parts(["vector"]):
        shared.values[rows[numbers]] = vectors_of(table)
    return shared.exchange(rows)


def score_in_parts(
    partitions: Partitions,
    model: str,
    precision: Precision,
    pairs: Sequence[tuple[str, str]],
    advance: Callable[[int], None],
) -> list[float]:
    """A cross-encoder's scores of pairs of texts, in their order."""
    queries, documents = ([pair[side] for pair in pairs] for side in (0, 1))

    def table(numbers: np.ndarray) -> pa.Table:
        columns = {"query": queries, "document": documents}
        return pa.table({name: pa.array([texts[n] for n in numbers], pa.string()) for name, texts in columns.items()})

    kept = partitions.map(ScorePairs(model, _resolved(precision)), row_keys(queries, documents), table, advance)
    _report(kept, "pairs")
    return kept.column("score")


def bm25_in_parts(
    partitions: Partitions, index: BM25, queries: Mapping[str, str], k: int, advance: Callable[[int], None]
) -> Run:
    """The ``k`` best documents of each query, by an index that is kept in a folder which all workers see."""
    texts = list(queries.values())
    kept = partitions.map(
        SearchBM25(index.folder.absolute(), tuple(index.languages), len(index.ids), k),
        row_keys(texts),
        lambda numbers: pa.table({"query": pa.array([texts[n] for n in numbers], pa.string())}),
        advance,
    )
    found = zip(kept.column("positions"), kept.column("scores"), strict=True)
    return {
        q: {index.ids[i]: score for i, score in zip(*of_query, strict=True)}
        for q, of_query in zip(queries, found, strict=True)
    }


def nearest_in_parts(
    partitions: Partitions, queries: np.ndarray, kept: KeptRows, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """``nearest`` over vectors that lie in shards, of which each worker has one in memory: inner products and numbers
    of rows of ``kept``, of shape (len(queries), k), best first, -1 where there are no more.

    What is found in a shard is kept until all are done, so that a search that was killed goes on.
    """
    state = process_state()
    digest = hashlib.sha256(np.ascontiguousarray(queries).tobytes()).hexdigest()[:32]
    to_do = Nearest(str(partitions.folder / f"queries-{digest}.npy"), digest, k)
    folder = partitions.folder_of(to_do)
    lock = FileLock(partitions.folder / f"nearest-{digest}.lock")
    if state.is_main_process:
        partitions.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # another program that searches for the same would take the folder away
        with atomic_file(Path(to_do.queries)) as temporary, temporary.open("wb") as file:
            np.save(file, queries)
    try:
        state.wait_for_everyone()
        tasks = [_of_shard(folder, kept, shard) for shard in np.unique(kept.shards)]
        partitions.engine.run(to_do, tasks, lambda _rows: None)
        found = _merged([pq.read_table(task.target, partitioning=None) for task in tasks], len(queries), k)
        state.wait_for_everyone()
        if state.is_main_process:  # before another program that waits for the lock writes there
            shutil.rmtree(folder, ignore_errors=True)
            Path(to_do.queries).unlink(missing_ok=True)
    finally:
        if state.is_main_process:
            lock.release()
    return found


def _of_shard(folder: Path, kept: KeptRows, shard: int) -> Task:
    positions = np.flatnonzero(kept.shards == shard)
    rows, path = kept.rows[positions], str(kept.paths[shard])
    name = hashlib.sha256(f"{path}\0".encode() + rows.tobytes() + positions.tobytes()).hexdigest()[:32]
    return Task(
        folder / f"{name}.parquet",
        lambda: pa.table({"shard": pa.array([path] * len(rows)), "row": rows, "position": positions}),
    )


def _merged(tables: list[pa.Table], queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    both = pa.concat_tables(tables)
    query, position, score = (both[name].to_numpy() for name in ("query", "position", "score"))
    order = np.lexsort((position, -score, query))
    query, position, score = query[order], position[order], score[order]
    places = np.arange(len(query)) - np.searchsorted(query, query)
    best = places < k
    scores = np.full((queries, k), -np.inf, dtype=np.float32)
    positions = np.full((queries, k), -1, dtype=np.int64)
    scores[query[best], places[best]], positions[query[best], places[best]] = score[best], position[best]
    return scores, positions


def _resolved(precision: Precision) -> Precision:
    """``auto`` as this machine has it: under that name the results are kept, and a worker's machine may have it
    otherwise."""
    return resolve_precision(precision, process_state().device)


def _lengths(rows: dict[int, int], number: int, limit: float | None) -> dict[str, np.ndarray]:
    tokens = np.zeros(number, dtype=np.int32)
    tokens[list(rows)] = list(rows.values())
    return {TOKENS: tokens, LIMIT: np.full(number, int(limit) if rows else 0, dtype=np.int32)}


def _report(kept: KeptRows, what: What) -> None:
    longer, longest, limit = 0, 0, 0
    for _, table in kept.parts([TOKENS, LIMIT]):
        tokens = table[TOKENS].to_numpy()
        longer += int((tokens > 0).sum())
        longest, limit = max(longest, int(tokens.max())), max(limit, int(table[LIMIT].to_numpy().max()))
    if longer:
        report_truncations([Truncation(what, len(kept.rows), longer, longest, limit)])
