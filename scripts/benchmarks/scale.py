"""Seconds and memory of each step as the corpus grows tenfold: what of it is linear, and what it costs beside peers.

    python scripts/benchmark.py scale [--sizes 10000 --sizes 100000 --sizes 1000000] [--encoder packaged:tiny-bert]

Writes a corpus of made-up passages (60 words, as frequent as in any language; one in twenty a near-duplicate of
another) and reads, cuts and splits it, builds the index of BM25 and searches it, encodes, searches embeddings exactly,
and mines negatives and writes them. Each step is a process of its own; its memory is the most that this process and its
children had together, with what the step was given. Vectors that are searched are drawn at random. An --encoder encodes
--sample passages, and its seconds are extrapolated, which is said below the table; by default the encoder is a random
vector of each token and encodes them all. Peers: the index and the search of bm25s, IndexFlatIP of faiss, and
mine_hard_negatives of sentence-transformers. The last column is the growth of the seconds for ten times the passages:
10 is linear. Small sizes say little of it, as what a step loads is counted, too. --step chooses steps by name.

About 6 minutes on two AVX2 cores; a size of 1,000,000 takes some 40 more.
"""

from __future__ import annotations

import gc
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.common import SEED, Table, in_fresh_process, note, timed

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from sharpen.evaluation.beir import Corpus, Query

DEFAULT_SIZES = [10_000, 100_000]
NO_ENCODER = "none"
WORDS = 60
QUERIES = 100
QUERY_WORDS = 6
DIMENSION = 64
TOP = 100
MADE_UP = 300_000
"""Different words; a corpus has those of them that come up."""
SYLLABLES = ["ve", "la", "mo", "sa", "be", "ki", "tu", "ro", "ne", "fi"]
FREQUENT = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on"]
"""So that the passages are in a language, and BM25 has stop words to leave out."""


@dataclass(frozen=True)
class Step:
    """``measure``: given the folder of a size and the encoder, returns the seconds. ``ours``: not a peer's."""

    name: str
    measure: Callable[[Path, str, int], float]
    ours: bool = True


@dataclass(frozen=True)
class Measured:
    """``gib``: the most memory of a step's processes together."""

    seconds: float
    gib: float


def main(
    sizes: Annotated[list[int] | None, typer.Option(help="Numbers of passages; again for more.")] = None,
    encoder: Annotated[str, typer.Option(help="A folder, packaged:<name>, or none.")] = NO_ENCODER,
    sample: Annotated[int, typer.Option(help="Passages that an encoder encodes.", min=1)] = 2000,
    step: Annotated[list[str] | None, typer.Option(help="These only; again for more.")] = None,
) -> None:
    chosen = sorted(sizes or DEFAULT_SIZES)
    steps = [each for each in STEPS if not step or each.name in step]
    columns = ("", *(f"{size:,}: s | GiB" for size in chosen), "growth per factor of ten")
    packages = ("bm25s", "faiss-cpu", "sentence-transformers", "datasketch")
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(size) for size in chosen]
        for folder, size in zip(folders, chosen, strict=True):
            in_fresh_process(prepare, folder, size)
        table = Table("Seconds and memory of made-up passages", " | ".join(columns).split(" | "), packages)
        for each in steps:
            measured = [in_fresh_process(measure, each.name, folder, encoder, sample) for folder in folders]
            cells = [cell for m in measured for cell in (f"{m.seconds:.2f}", f"{m.gib:.2f}")]
            table.row(
                each.name if each.ours else f"*{each.name}*", *cells, growth(chosen, [m.seconds for m in measured])
            )
    if encoder != NO_ENCODER:
        note(f"{encoder} encoded {sample:,} passages of each size; the seconds of encode are extrapolated from these.")
    note("In italics: peers. Growth of less than 10 in small sizes is what a step takes to begin.")


def growth(sizes: list[int], seconds: list[float]) -> str:
    """How many times the seconds that ten times the passages take, from each size to the next.

    >>> growth([10, 100, 1000], [1.0, 10.0, 120.0])
    '10.0, 12.0'
    """
    pairs = zip(zip(sizes, seconds, strict=True), zip(sizes[1:], seconds[1:], strict=True), strict=False)
    rates = [math.exp(math.log(s2 / s1) / math.log10(n2 / n1)) for (n1, s1), (n2, s2) in pairs]
    return ", ".join(f"{rate:.1f}" for rate in rates)


def measure(name: str, folder: Path, encoder: str, sample: int) -> Measured:
    """One step, in this process, with the collector of garbage as in a run."""
    step = next(each for each in STEPS if each.name == name)
    thresholds = gc.get_threshold()
    gc.set_threshold(*thresholds[:2], 100 * thresholds[2])
    with most_memory() as memory:
        seconds = step.measure(folder, encoder, sample)
    return Measured(seconds, memory[0])


@contextmanager
def most_memory() -> Iterator[list[float]]:
    """The most memory of this process and its children together, in GiB, looked at twenty times a second; of this one
    alone, never less than the system says."""
    import psutil

    from benchmarks.common import peak_gib

    found, ended, process = [0.0], threading.Event(), psutil.Process()

    def look() -> None:
        while not ended.wait(0.05):
            together = 0
            for each in (process, *process.children(recursive=True)):
                try:
                    together += each.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            found[0] = max(found[0], together / 2**30)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found[0] = max(found[0], peak_gib())


def prepare(folder: Path, size: int) -> None:
    """Passages, queries of a few of their words, and random vectors, all by a fixed seed."""
    import numpy as np

    from sharpen.evaluation.beir import Query, write_queries
    from sharpen.evaluation.files import write_jsonl

    rng = np.random.default_rng(SEED)
    names = [*FREQUENT, *(word_of(n) for n in range(len(FREQUENT), MADE_UP))]
    queries: list[Query] = []

    def passages() -> Iterator[dict[str, Any]]:
        block: list[list[str]] = []
        for n in range(size):
            if n % 10_000 == 0:
                ranks = (MADE_UP ** rng.random((min(10_000, size - n), WORDS))).astype(int) - 1
                block = [[names[rank] for rank in row] for row in ranks.tolist()]
            text = block[n % 10_000]
            if n % 20 == 19:
                text = [*block[int(rng.integers(n % 10_000))][:-1], "another"]
            if n % (size // QUERIES) == 0:
                asked = [word for word in text if word not in FREQUENT][:QUERY_WORDS]
                queries.append(Query(f"q{n}", " ".join(asked), {"positives": [f"d{n}"]}))
            yield {"_id": f"d{n}", "title": "", "text": " ".join(text)}

    write_jsonl(folder / "corpus.jsonl", passages())
    write_queries(folder / "queries.jsonl", queries[:QUERIES])
    for name, rows in (("vectors", size), ("queries", QUERIES)):
        vectors = rng.standard_normal((rows, DIMENSION), dtype=np.float32)
        np.save(folder / f"{name}.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def word_of(number: int) -> str:
    """A word that can be spoken: two letters for each digit.

    >>> word_of(1234)
    'lamosabe'
    """
    return "".join(SYLLABLES[int(digit)] for digit in str(number))


def _given(folder: Path) -> tuple[Corpus, list[Query]]:
    from sharpen.evaluation.beir import read_corpus, read_queries

    return read_corpus(folder / "corpus.jsonl"), list(read_queries(folder / "queries.jsonl").values())


def _texts(queries: list[Query]) -> dict[str, str]:
    return {query.id: query.text for query in queries}


def _read(folder: Path, _encoder: str, _sample: int) -> float:
    from sharpen.sdg import read_documents

    with timed() as watch:
        documents = read_documents(folder / "corpus.jsonl")
    assert documents
    return watch.seconds


def _chunk(folder: Path, _encoder: str, _sample: int) -> float:
    from sharpen.sdg import chunk

    documents, _ = _given(folder)
    with timed() as watch:
        chunks = chunk(documents)
    assert len(chunks) >= len(documents)
    return watch.seconds


def _split(folder: Path, _encoder: str, _sample: int) -> float:
    from sharpen.sdg import split

    corpus, queries = _given(folder)
    with timed() as watch:
        splits = split(queries, corpus, dev=0.1, test=0.1)
    assert splits.train
    return watch.seconds


def _build(folder: Path, _encoder: str, _sample: int) -> float:
    from sharpen.evaluation.retrievers.bm25 import BM25

    corpus, _ = _given(folder)
    with timed() as watch:
        BM25(corpus, language="en", indexes=folder / "indexes")
    return watch.seconds


def _search(folder: Path, _encoder: str, _sample: int) -> float:
    """By an index that another process has built."""
    from sharpen.evaluation.retrievers.bm25 import BM25

    corpus, queries = _given(folder)
    index = BM25(corpus, language="en", indexes=folder / "indexes")
    with timed() as watch:
        run = index.search(_texts(queries), TOP)
    assert all(next(iter(run[query.id])) for query in queries)
    return watch.seconds


def _encode(folder: Path, encoder: str, sample: int) -> float:
    from sharpen.evaluation.encoders.encode import encode

    corpus, _ = _given(folder)
    model = _model(encoder)
    texts = [document.content for document in corpus.values()][: None if encoder == NO_ENCODER else sample]
    with timed() as watch:
        encode(model, texts)
    return watch.seconds * len(corpus) / len(texts)


def _dense(folder: Path, _encoder: str, _sample: int) -> float:
    from sharpen.evaluation.retrievers.dense import nearest

    vectors, queries = _vectors(folder)
    with timed() as watch:
        nearest(queries, vectors, TOP)
    return watch.seconds


def _write(folder: Path, _encoder: str, _sample: int) -> float:
    """Negatives of a query for every ten passages, of each of which twenty were ranked."""
    import numpy as np

    from sharpen.evaluation.beir import Query
    from sharpen.sdg import mine_negatives
    from sharpen.sdg.negatives.record import write_negatives

    corpus, _ = _given(folder)
    ids = list(corpus)
    drawn = np.random.default_rng(SEED).integers(len(ids), size=(len(ids) // 10, 20)).tolist()
    queries = [Query(f"q{n}", "text", {"positives": [ids[n]]}) for n in range(len(drawn))]
    run = {f"q{n}": {ids[row]: 1.0 / place for place, row in enumerate(of, start=1)} for n, of in enumerate(drawn)}
    miner = _Ranked(run)
    with timed() as watch:
        write_negatives(folder / "negatives.jsonl", mine_negatives(queries, corpus, {"ranked": miner}, seed=SEED))
    return watch.seconds


def _mine(folder: Path, encoder: str, _sample: int) -> float:
    """From texts to a file, by embeddings; only by what can encode all passages."""
    from sharpen.evaluation.encoders.settings import Encoder
    from sharpen.evaluation.models import Models
    from sharpen.sdg import DenseMiner, Resources, mine_negatives
    from sharpen.sdg.negatives.record import write_negatives

    corpus, queries = _given(folder)
    resources = Resources(Models(Encoder(model="none")).with_current(_model(NO_ENCODER)))
    with timed() as watch:
        mined = mine_negatives(queries, corpus, [DenseMiner()], resources=resources, seed=SEED)
        write_negatives(folder / "dense.jsonl", mined)
    return watch.seconds


def _bm25s(folder: Path) -> tuple[Any, float]:
    import bm25s
    import Stemmer

    corpus, queries = _given(folder)
    options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    with timed() as watch:
        tokens = bm25s.tokenize([document.content for document in corpus.values()], **options)
        index.index(tokens, show_progress=False)
    asked = bm25s.tokenize([query.text for query in queries], **options)
    return lambda: index.retrieve(asked, k=TOP, show_progress=False), watch.seconds


def _bm25s_build(folder: Path, _encoder: str, _sample: int) -> float:
    return _bm25s(folder)[1]


def _bm25s_search(folder: Path, _encoder: str, _sample: int) -> float:
    search, _ = _bm25s(folder)
    with timed() as watch:
        search()
    return watch.seconds


def _flat(folder: Path, _encoder: str, _sample: int) -> float:
    import faiss

    vectors, queries = _vectors(folder)
    index = faiss.IndexFlatIP(DIMENSION)
    with timed() as watch:
        index.add(vectors)
        index.search(queries, TOP)
    return watch.seconds


def _peer_mines(folder: Path, _encoder: str, _sample: int) -> float:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    corpus, queries = _given(folder)
    positives = [corpus[query.metadata["positives"][0]].content for query in queries]
    pairs = Dataset.from_dict({"anchor": [query.text for query in queries], "positive": positives})
    texts, model = [document.content for document in corpus.values()], _model(NO_ENCODER)
    with timed() as watch:
        mined = mine_hard_negatives(pairs, model, corpus=texts, range_max=20, num_negatives=4, verbose=False)
        mined.to_json(folder / "peer.jsonl")
    return watch.seconds


def _vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    return np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")


def _model(encoder: str) -> SentenceTransformer:
    """An encoder; of ``none``, the mean of random vectors of the tokens."""
    from sharpen.evaluation.encoders.load import load_encoder, resolve_encoder

    if encoder != NO_ENCODER:
        return load_encoder(encoder)
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(resolve_encoder("packaged:tiny-bert")) / "tokenizer.json"))
    weights = torch.randn(tokenizer.get_vocab_size(), DIMENSION, generator=torch.Generator().manual_seed(SEED))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


@dataclass(frozen=True)
class _Ranked:
    """A miner whose ranking is there already."""

    run: dict[str, dict[str, float]]

    def mine(self, *_arguments: Any) -> dict[str, dict[str, float]]:
        return self.run


STEPS = (
    Step("read", _read),
    Step("chunk", _chunk),
    Step("split", _split),
    Step("BM25, index", _build),
    Step("bm25s, index", _bm25s_build, ours=False),
    Step(f"BM25, {QUERIES} queries", _search),
    Step(f"bm25s, {QUERIES} queries", _bm25s_search, ours=False),
    Step("encode", _encode),
    Step(f"exact search, {QUERIES} queries", _dense),
    Step(f"IndexFlatIP, {QUERIES} queries", _flat, ours=False),
    Step("negatives drawn and written, a query for ten passages", _write),
    Step(f"dense negatives of {QUERIES} queries", _mine),
    Step(f"mine_hard_negatives of {QUERIES} queries", _peer_mines, ours=False),
)
