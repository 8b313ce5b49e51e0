"""Hard negatives a second, with the same negatives out.

    python scripts/benchmark.py mining [--part bm25 --part dense] [--data scifact] [--passages 50000]

bm25 prints a row each for rank_bm25, for bm25s by its own search, and for sharpen; the ratios are those of the search
alone, as an index is made once, and of all, from texts to negatives. dense prints a row for mine_hard_negatives of
sentence-transformers and one for sharpen, on --documents of the dataset and the queries that they answer. Every row is
measured in a process of its own, whose most memory stands in the last column. --passages measures bm25 on so many
made-up passages, too, for the growth.

About 3 minutes on two AVX2 cores; --passages 200000 some 3 more.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.common import MODEL, SEED, Table, in_fresh_process, peak_gib, subset, timed

if TYPE_CHECKING:
    from sharpen.evaluation.beir import Corpus, Query, Run
    from sharpen.sdg import Resources

NEGATIVES = 3
"""Of each query: the default of mine_hard_negatives."""
FREQUENT = 100
"""Words that are in nearly every text, so that a query of six must not be made of them."""


class Part(StrEnum):
    BM25 = "bm25"
    DENSE = "dense"


ALL_PARTS = list(Part)


@dataclass
class Measured:
    """``indexing`` and ``searching``: seconds (dense: all are ``seconds``). ``negatives``: query ID to document IDs."""

    seconds: float
    queries: int
    negatives: dict[str, list[str]] = field(repr=False)
    gib: float
    indexing: float = 0.0
    searching: float = 0.0


@dataclass(frozen=True)
class Given:
    """A miner whose ranking is there already."""

    run: Run
    ranks: tuple[int, int] = (1, NEGATIVES)

    def mine(self, *_arguments: Any) -> Run:
        return self.run


def main(
    part: Annotated[list[Part], typer.Option(help="Again for another one.")] = ALL_PARTS,
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "scifact",
    split: Annotated[str, typer.Option(help="Whose queries get negatives.")] = "train",
    documents: Annotated[int, typer.Option(help="Of dense; 0: all.", min=0)] = 600,
    passages: Annotated[list[int] | None, typer.Option(help="Made up, of bm25; again for more.")] = None,
    model: Annotated[str, typer.Option(help="Of dense: a folder, a hub name or packaged:<name>.")] = MODEL,
) -> None:
    if Part.BM25 in part:
        _compare_bm25(f"{data}, {split}", data, split)
        for size in passages or ():
            _compare_bm25(f"{size:,} made-up passages", size)
    if Part.DENSE in part:
        _compare_dense(data, split, documents or None, model)


def _compare_bm25(name: str, *source: Any) -> None:
    columns = ("", "index, s", "queries/s", "ratio", "all, s", "ratio of all", "same negatives", "memory, GiB")
    table = Table(f"BM25 negatives on {name}", columns, ("rank-bm25", "bm25s"))
    peer = None
    for way in BM25_WAYS:
        measured = in_fresh_process(mine_by_words, way, *source)
        peer = peer or measured
        table.row(
            way,
            f"{measured.indexing:.2f}",
            f"{measured.queries / measured.searching:,.0f}",
            f"{peer.searching / measured.searching:.2f}",
            f"{measured.seconds:.2f}",
            f"{peer.seconds / measured.seconds:.2f}",
            f"{_same(peer, measured):.3f}",
            f"{measured.gib:.2f}",
        )


def _compare_dense(data: str, split: str, documents: int | None, model: str) -> None:
    table, peer = None, None
    for way in DENSE_WAYS:
        measured = in_fresh_process(mine_by_vectors, way, data, split, documents, model)
        table = table or Table(
            f"Dense negatives of {measured.queries:,} queries, {documents or 'all'} documents of {data}",
            ("", "seconds", "ratio", "same negatives", "memory, GiB"),
            ("sentence-transformers", "openvino"),
        )
        peer = peer or measured
        seconds, ratio = f"{measured.seconds:.1f}", f"{peer.seconds / measured.seconds:.2f}"
        table.row(way, seconds, ratio, f"{_same(peer, measured):.3f}", f"{measured.gib:.2f}")


def _same(peer: Measured, measured: Measured) -> float:
    """Fraction of the peer's negatives that are the other's, too."""
    same = sum(len(set(measured.negatives.get(q, ())) & set(ids)) for q, ids in peer.negatives.items())
    return same / sum(map(len, peer.negatives.values()))


def mine_by_words(way: str, *source: Any) -> Measured:
    """From texts to negatives, in this process."""
    import sharpen.evaluation.retrievers.bm25  # noqa: F401
    from sharpen.sdg import Resources
    from sharpen.sdg.negatives import depth_for

    resources = Resources()  # made here, with all that it loads, so that importing is not counted
    corpus, queries = made_up(*source) if len(source) == 1 else labelled(*source)
    with timed() as all_of_it:
        with timed() as indexing:
            search = BM25_WAYS[way](corpus)
        with timed() as searching:
            run = search({q.id: q.text for q in queries}, depth_for(NEGATIVES, len(corpus)))
        negatives = _negatives(queries, corpus, Given(run), resources)
    return Measured(all_of_it.seconds, len(queries), negatives, peak_gib(), indexing.seconds, searching.seconds)


def mine_by_vectors(way: str, data: str, split: str, documents: int | None, model: str) -> Measured:
    """From texts to negatives, in this process, with the model loaded before."""
    corpus, queries = labelled(data, split, documents)
    mine = DENSE_WAYS[way](corpus, queries, model)
    with timed() as watch:
        negatives = mine()
    return Measured(watch.seconds, len(queries), negatives, peak_gib())


def labelled(data: str, split: str, documents: int | None = None) -> tuple[Corpus, list[Query]]:
    """Queries with one positive each, as the peers want them."""
    from sharpen.evaluation.beir import Query
    from sharpen.evaluation.datasets import load_task

    task = subset(load_task(data, split), documents)
    first = {q: next(i for i, grade in grades.items() if grade > 0) for q, grades in task.qrels.items()}
    return task.corpus, [Query(q, task.queries[q].text, {"positives": [i]}) for q, i in first.items()]


def made_up(size: int) -> tuple[Corpus, list[Query]]:
    """Passages of 30 words, as frequent as in SciFact's abstracts, and 100 queries of six words of one of them."""
    from sharpen.evaluation.beir import Document, Query
    from sharpen.evaluation.datasets import load_task

    counts = Counter(
        word
        for document in load_task("scifact", "test").corpus.values()
        for word in re.findall(r"[a-z]+", document.content.lower())
    )
    words, weights = zip(*counts.most_common()[FREQUENT:], strict=True)
    rng = random.Random(SEED)
    cumulated = list(accumulate(weights))
    corpus = {str(n): Document(str(n), " ".join(rng.choices(words, cum_weights=cumulated, k=30))) for n in range(size)}
    asked = rng.sample(sorted(corpus), 100)
    return corpus, [Query(f"q{i}", " ".join(rng.sample(corpus[i].text.split(), 6)), {"positives": [i]}) for i in asked]


def _negatives(queries: list[Query], corpus: Corpus, miner: Any, resources: Resources) -> dict[str, list[str]]:
    from sharpen.sdg import mine_negatives

    mined = mine_negatives(queries, corpus, {"miner": miner}, per_query=NEGATIVES, resources=resources, seed=SEED)
    return {q: [row.doc_id for row in rows] for q, rows in mined.kept.items()}


def _rank_bm25(corpus: Corpus) -> Callable[[dict[str, str], int], Run]:
    """rank_bm25 with Lucene's weights of words, which bm25s and sharpen have, too."""
    from sharpen.evaluation.retrievers.bm25 import RankBM25

    return RankBM25(corpus).search


def _bm25s(corpus: Corpus) -> Callable[[dict[str, str], int], Run]:
    """bm25s as its documentation has it, with the parameters of the others."""
    import bm25s
    import Stemmer

    ids, options = list(corpus), {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index(bm25s.tokenize([d.content for d in corpus.values()], **options), show_progress=False)

    def search(queries: dict[str, str], k: int) -> Run:
        rows, scores = index.retrieve(bm25s.tokenize(list(queries.values()), **options), k=k, show_progress=False)
        return {
            q: {ids[row]: float(score) for row, score in zip(*of_query, strict=True) if score > 0}
            for q, of_query in zip(queries, zip(rows.tolist(), scores.tolist(), strict=True), strict=True)
        }

    return search


def _sharpen_bm25(corpus: Corpus) -> Callable[[dict[str, str], int], Run]:
    from sharpen.evaluation.retrievers.bm25 import BM25

    return BM25(corpus).search


def _sentence_transformers(corpus: Corpus, queries: list[Query], model: str) -> Callable[[], dict[str, list[str]]]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    from sharpen.evaluation.encoders.load import resolve_encoder

    encoder = SentenceTransformer(resolve_encoder(model))
    positives = [corpus[q.metadata["positives"][0]].content for q in queries]
    pairs = Dataset.from_dict({"anchor": [q.text for q in queries], "positive": positives})
    texts = [d.content for d in corpus.values()]
    ids = {document.content: document.id for document in reversed(corpus.values())}
    by_text = {q.text: q.id for q in queries}

    def mine() -> dict[str, list[str]]:
        negatives: dict[str, list[str]] = {}
        for row in mine_hard_negatives(pairs, encoder, corpus=texts, verbose=False):
            negatives.setdefault(by_text[row["anchor"]], []).append(ids[row["negative"]])
        return negatives

    return mine


def _sharpen_dense(corpus: Corpus, queries: list[Query], model: str) -> Callable[[], dict[str, list[str]]]:
    from sharpen.evaluation.encoders.settings import Encoder
    from sharpen.evaluation.models import Models
    from sharpen.sdg import DenseMiner, Resources

    models = Models(Encoder(model=model))
    encoder = models.load()
    resources = Resources(models.with_current(encoder))
    miner = DenseMiner(ranks=(1, NEGATIVES))
    return lambda: _negatives(queries, corpus, miner, resources)


BM25_WAYS: dict[str, Callable] = {"rank_bm25": _rank_bm25, "bm25s": _bm25s, "sharpen": _sharpen_bm25}
DENSE_WAYS: dict[str, Callable] = {
    "sentence-transformers, mine_hard_negatives": _sentence_transformers,
    "sharpen": _sharpen_dense,
}
