"""Mining beside its peers, with the same candidates out: BM25 (`rank_bm25`) and dense (`mine_hard_negatives` of
sentence-transformers).

    .venv/bin/python scripts/benchmark_mining.py [--parts bm25 dense large] [--model packaged:all-MiniLM-L6-v2]

Each way runs in a process of its own, and its time is from texts to negatives: indexing or encoding, searching, leaving
positives out. `large` repeats both on 50,000 and 200,000 made-up passages, for the growth. Some three quarters of an
hour on 2 cores, most of it for these.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import accumulate

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.retrievers.bm25 import BM25, RankBM25
from sharpen.sdg.negatives import candidates, dense, draw
from sharpen.sdg.negatives.candidates import depth_for

NEGATIVES = 3
"""The default of mine_hard_negatives."""
SIZES = (50_000, 200_000)
FREQUENT = 100
"""The words that are in nearly every text: a query of six must not be made of these."""
PARTS = {
    "bm25": [
        (data, split, way)
        for data, split in (("scifact", "train"), ("cosqa", "test"))
        for way in ("rank_bm25", "sharpen_bm25")
    ],
    "dense": [("scifact", "test", way) for way in ("mine_hard_negatives", "sharpen_dense")],
    "large": [
        (f"made-up-{size}", "", way)
        for size in SIZES
        for way in ("rank_bm25", "sharpen_bm25", "mine_hard_negatives", "sharpen_dense")
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", default="packaged:all-MiniLM-L6-v2")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        data, split, way = options.one
        print(json.dumps(one(data, split, WAYS[way], options.model)))
        return
    print(
        "| data | way | queries | seconds | of these for the queries | queries a second | ratio | same negatives |"
        " memory, GiB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for part in options.parts:
        peer: dict = {}
        for data, split, way in PARTS[part]:
            command = [sys.executable, __file__, "--model", options.model, "--one", data, split, way]
            found = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            if way in ("rank_bm25", "mine_hard_negatives"):
                peer, ratio, same = found, 1.0, 1.0
            else:  # BM25 by the queries' time, as an index is made once; dense from end to end
                key = "searching" if way == "sharpen_bm25" else "seconds"
                ratio = peer[key] / found[key]
                same = sum(len(set(found["negatives"][q]) & set(ids)) for q, ids in peer["negatives"].items()) / sum(
                    len(ids) for ids in peer["negatives"].values()
                )
            print(
                f"| {data} | {way} | {found['queries']:,} | {found['seconds']:.2f} | {found['searching']:.3f} |"
                f" {found['queries'] / found['searching']:,.0f} | {ratio:.2f} | {same:.3f} | {found['gib']:.2f} |",
                flush=True,
            )


def one(data: str, split: str, way: Callable, model: str) -> dict:
    """Negatives of every query by one way, with its seconds, those of the queries alone, and the most memory of the
    process."""
    corpus, queries = made_up(int(data.rpartition("-")[2])) if data.startswith("made-up") else labelled(data, split)
    loaded = load_encoder(model) if way in (by_sentence_transformers, by_dense) else None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    negatives, searching = way(corpus, queries, loaded)
    seconds = time.perf_counter() - started
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "queries": len(queries),
        "seconds": seconds,
        "searching": searching or seconds,
        "gib": gib,
        "gib_before": before / 2**20,
        "negatives": negatives,
    }


def labelled(data: str, split: str) -> tuple[Corpus, list[Query]]:
    """Queries with one positive each, as the peers want them."""
    task = load_task(data, split)
    return task.corpus, [
        Query(q, task.queries[q].text, {"positives": [next(i for i, grade in grades.items() if grade > 0)]})
        for q, grades in task.qrels.items()
    ]


def made_up(size: int) -> tuple[Corpus, list[Query]]:
    """Passages of 30 words, as frequent as in SciFact's abstracts, and 100 queries of six words of one of them."""
    counts = Counter(
        word
        for document in load_task("scifact", "test").corpus.values()
        for word in re.findall(r"[a-z]+", document.content.lower())
    )
    words, weights = zip(*counts.most_common()[FREQUENT:], strict=True)
    rng = random.Random(13)
    cumulated = list(accumulate(weights))
    corpus = {str(n): Document(str(n), " ".join(rng.choices(words, cum_weights=cumulated, k=30))) for n in range(size)}
    asked = rng.sample(sorted(corpus), 100)
    return corpus, [Query(f"q{i}", " ".join(rng.sample(corpus[i].text.split(), 6)), {"positives": [i]}) for i in asked]


def _taken(queries: list[Query], run: dict, corpus: Corpus, name: str) -> dict[str, list[str]]:
    rows = candidates(queries, run, corpus, (), name, (1, NEGATIVES), 0)
    kept: dict[str, list[str]] = {}
    for n in draw(queries, {name: rows}, {name: 1.0}, NEGATIVES, 0).rows:
        if n.verdict == "kept":
            kept.setdefault(n.query_id, []).append(n.doc_id)
    return kept


def _by_words(index: type[BM25]) -> Callable:
    def way(corpus: Corpus, queries: list[Query], _model: object) -> tuple[dict, float]:
        made = index(corpus)
        started = time.perf_counter()
        run = made.search({q.id: q.text for q in queries}, depth_for(NEGATIVES, len(corpus)))
        searching = time.perf_counter() - started
        return _taken(queries, run, corpus, "bm25"), searching

    return way


def by_dense(corpus: Corpus, queries: list[Query], model) -> tuple[dict, None]:
    return (
        _taken(
            queries, dense.mine(queries, corpus, depth_for(NEGATIVES, len(corpus)), model=model).run, corpus, "dense"
        ),
        None,
    )


def by_sentence_transformers(corpus: Corpus, queries: list[Query], model) -> tuple[dict, None]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    model = SentenceTransformer(
        model[0].auto_model.name_or_path, device=str(model.device)
    )  # as it comes, without our attention
    pairs = Dataset.from_dict(
        {"anchor": [q.text for q in queries], "positive": [corpus[q.metadata["positives"][0]].content for q in queries]}
    )
    texts = [d.content for d in corpus.values()]
    found = mine_hard_negatives(pairs, model, corpus=texts, verbose=False)
    ids: dict[str, str] = {}
    for document in corpus.values():
        ids.setdefault(document.content, document.id)
    by_text = {q.text: q.id for q in queries}
    negatives: dict[str, list[str]] = {}
    for row in found:
        negatives.setdefault(by_text[row["anchor"]], []).append(ids[row["negative"]])
    return negatives, None


WAYS: dict[str, Callable] = {
    "rank_bm25": _by_words(RankBM25),
    "sharpen_bm25": _by_words(BM25),
    "mine_hard_negatives": by_sentence_transformers,
    "sharpen_dense": by_dense,
}


if __name__ == "__main__":
    main()
