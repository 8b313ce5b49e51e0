"""How many relevant documents each miner passes off as negatives, and how many each filter finds.

.venv/bin/python scripts/false_negatives.py [--data scifact] [--split train] [--queries 300] [--models
packaged:all-MiniLM-L6-v2 ...] [--cross-encoders FOLDER ...]

Of the relevant documents of each query one half, at least one, is known as a positive; the others are hidden. Besides,
copies of the known ones are planted, hidden too: one word for word under another title, and one as it would be crawled
a second time (without its title and its last sentence, and with a line of a site around it). A miner that offers one of
the hidden documents on ranks 1 to 30 offers a false negative. Recall: what share of these a filter drops. Precision:
what share of what it drops is hidden; that is a lower bound, as most of what is relevant was never judged. Some ten
minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Collection, Mapping, Sequence

import sentencex

from sharpen.evaluation.beir import Corpus, Document, Query, Run
from sharpen.evaluation.datasets import load_task
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import fuse
from sharpen.sdg.negatives import bm25, candidates, cross_encoder
from sharpen.sdg.negatives import random as at_random
from sharpen.sdg.negatives.candidates import depth_for
from sharpen.sdg.negatives.filters import Calibration, Limit, Rows, calibrate, drop_above

RANKS = (1, 30)
RESCORED = 50
"""Of BM25's documents, so many are put in order by a cross-encoder."""
SEED = 13
Score = Callable[[Collection[tuple[str, str]]], Mapping[tuple[str, str], float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scifact")
    parser.add_argument("--split", default="train")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["packaged:all-MiniLM-L6-v2", "packaged:paraphrase-MiniLM-L3-v2", "packaged:tiny-bert"],
    )
    parser.add_argument(
        "--cross-encoders", nargs="*", default=[], help="folders, as of the rerankers that runs have trained"
    )
    options = parser.parse_args()
    corpus, queries, hidden = planted(options.data, options.split, options.queries)
    print(
        f"{options.data}, split {options.split}: {len(queries)} queries, {sum(map(len, hidden.values())):,} hidden"
        f" relevant documents of {len(corpus):,}\n"
    )
    print(
        "| model | miner | filter | candidates | hidden ones left | share of the rest | recall | precision | dropped"
        " |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in options.models:
        _by_encoder(name, corpus, queries, hidden)
    for path in options.cross_encoders:
        _by_cross_encoder(path, corpus, queries, hidden)


def planted(data: str, split: str, limit: int) -> tuple[Corpus, list[Query], dict[str, set[str]]]:
    """The corpus with copies in it, queries with what is known of their relevant documents, and what is hidden."""
    task = load_task(data, split)
    rng = random.Random(SEED)
    corpus, queries, hidden = dict(task.corpus), [], {}
    for query_id in rng.sample(sorted(task.qrels), min(limit, len(task.qrels))):
        relevant = sorted(i for i, grade in task.qrels[query_id].items() if grade > 0)
        known = rng.sample(relevant, max(1, len(relevant) // 2))
        hidden[query_id] = set(relevant) - set(known)
        for i in known:
            document = corpus[i]
            sentences = [s.strip() for s in sentencex.segment("en", document.text)]
            again = " ".join(
                ["Cited by 12. Download the article.", *(sentences[:-1] or sentences), "All rights reserved."]
            )
            for copy in (Document(f"{i}/copy", document.text, "A copy"), Document(f"{i}/again", again)):
                corpus[copy.id] = copy
                hidden[query_id].add(copy.id)
        queries.append(Query(query_id, task.queries[query_id].text, {"positives": known}))
    return corpus, queries, hidden


def _by_encoder(name: str, corpus: Corpus, queries: Sequence[Query], hidden: Mapping[str, set[str]]) -> None:
    index = Dense(corpus, load_encoder(name))
    texts, depth = {q.id: q.text for q in queries}, depth_for(RANKS[1], len(corpus))
    words, near = bm25.mine(queries, corpus, depth).run, index.search(texts, depth)
    found = {
        "bm25": words,
        "dense": near,
        "hybrid": fuse([words, near]),
        "random": at_random.mine(queries, corpus, depth, SEED).run,
    }
    vectors = dict(zip(texts, index.encode_queries(list(texts.values())), strict=True))
    place = {i: n for n, i in enumerate(index.ids)}
    _rows(
        name.removeprefix("packaged:"),
        found,
        lambda pairs: {(q, i): float(vectors[q] @ index.vectors[place[i]]) for q, i in pairs},
        corpus,
        queries,
        hidden,
    )


def _by_cross_encoder(path: str, corpus: Corpus, queries: Sequence[Query], hidden: Mapping[str, set[str]]) -> None:
    model = load_cross_encoder(path)
    texts = {q.id: q.text for q in queries}
    known: dict[tuple[str, str], float] = {}

    def score(pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], float]:
        new = [pair for pair in pairs if pair not in known]
        known.update(zip(new, score_pairs(model, [(texts[q], corpus[i].content) for q, i in new]), strict=True))
        return {pair: known[pair] for pair in pairs}

    found = {
        "bm25": bm25.mine(queries, corpus, RESCORED).run,
        "cross_encoder of bm25": cross_encoder.mine(queries, corpus, RESCORED, score=score, of=bm25.mine).run,
    }
    _rows("cross-encoder", found, score, corpus, queries, hidden)


def _rows(
    shown: str,
    found: Mapping[str, Run],
    score: Score,
    corpus: Corpus,
    queries: Sequence[Query],
    hidden: Mapping[str, set[str]],
) -> None:
    """The table's rows of some miners whose candidates ``score`` filters."""
    rows = {miner: candidates(queries, run, corpus, (), miner, RANKS, SEED) for miner, run in found.items()}
    by_chance = [(q.id, i) for q in queries for i in random.Random(f"{SEED}/{q.id}").sample(sorted(corpus), 5)]
    offered = [(n.query_id, n.doc_id) for own in rows.values() for found_rows in own.values() for n in found_rows]
    scores = score(
        dict.fromkeys([*offered, *((q.id, i) for q in queries for i in q.metadata["positives"]), *by_chance])
    )
    known = calibrate(queries, scores, [scores[pair] for pair in by_chance])
    for miner, own in rows.items():
        copies = sum(n.reason == "same text as a positive" for found_rows in own.values() for n in found_rows)
        for label, limit in limits(known).items():
            _row(shown, miner, label, own, drop_above(own, scores, limit, label) if limit else own, hidden, copies)


def limits(known: Calibration) -> dict[str, Limit | None]:
    return {
        "none": None,
        "guide": known.positives.__getitem__,
        "percentage 0.95": lambda q: 0.95 * known.positives[q],
        "percentage auto": known.near_positive,
        "margin 0.05": lambda q: known.positives[q] - 0.05,
        "margin auto": lambda q: known.positives[q] - known.margin(),
        "absolute 0.7": lambda _q: 0.7,
        "absolute auto": lambda _q: known.absolute(),
    }


def _row(
    model: str, miner: str, label: str, before: Rows, after: Rows, hidden: Mapping[str, set[str]], copies: int
) -> None:
    is_hidden = lambda rows: [n.doc_id in hidden[q] for q, own in rows.items() for n in own if n.verdict == "candidate"]  # noqa: E731
    given, left = is_hidden(before), is_hidden(after)
    dropped, caught = len(given) - len(left), sum(given) - sum(left)
    numbers = [
        f"{len(given):,}",
        f"{sum(left):,}"
        + (f" (and {copies:,} copies word for word never offered)" if label == "none" and copies else ""),
        f"{sum(left) / max(1, len(left)):.2%}",
    ]
    numbers += (
        ["", "", ""]
        if label == "none"
        else [
            f"{caught / max(1, sum(given)):.2f}",
            f"{caught / dropped:.2f}" if dropped else "",
            f"{dropped / max(1, len(given)):.1%}",
        ]
    )
    print("| " + " | ".join([model, miner, label, *numbers]) + " |", flush=True)


if __name__ == "__main__":
    main()
