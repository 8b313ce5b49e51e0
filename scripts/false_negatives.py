"""How many relevant documents each miner offers as negatives, and how many of them each filter drops.

    python scripts/false_negatives.py [--data scifact] [--split train] [--queries 300] [--documents 0]
        [--model packaged:all-MiniLM-L6-v2] [--cross-encoder FOLDER]

Of the relevant documents of each query one half, at least one, is known as a positive; the others are hidden. Besides,
copies of the known ones are planted, hidden too: one word for word under another title, and one as it would be crawled
a second time (without its title and its last sentence, and with a line of a site around it). A miner that offers one of
the hidden documents on ranks 1 to 30 offers a false negative. Prints a row for each scorer, miner and filter. Recall:
the fraction of these that a filter drops. Precision: the fraction of what it drops that is hidden; that is a lower
bound, as most of what is relevant was never judged.

About ten minutes on two AVX2 cores, most of them for encoding the corpus; --documents 300 --queries 30 takes one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from benchmarks.common import MODEL, SEED, Table, as_help, subset

if TYPE_CHECKING:
    from sharpen.evaluation.beir import Corpus, Queries, Query
    from sharpen.evaluation.encoders.settings import Encoder
    from sharpen.evaluation.models import Models, Pairs, PairScores
    from sharpen.sdg import Resources
    from sharpen.sdg.negatives import Miner, NegativeFilter
    from sharpen.sdg.negatives.record import Rows

RANKS = (1, 30)
RESCORED = 50
"""Of BM25's documents, so many are put in order by a cross-encoder."""
NONE = "none"
DEFAULT_MODELS = [MODEL]
COLUMNS = (
    "scorer",
    "miner",
    "filter",
    "candidates",
    "hidden ones left",
    "fraction of the rest",
    "recall",
    "precision",
    "dropped",
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=as_help(__doc__))
def main(
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "scifact",
    split: Annotated[str, typer.Option(help="Whose queries are mined for.")] = "train",
    queries: Annotated[int, typer.Option(help="At most.", min=1)] = 300,
    documents: Annotated[int, typer.Option(help="Before copies are planted; 0: all.", min=0)] = 0,
    model: Annotated[list[str], typer.Option(help="A bi-encoder; again for more.")] = DEFAULT_MODELS,
    cross_encoder: Annotated[list[str] | None, typer.Option(help="As a run's reranker; again for more.")] = None,
) -> None:
    planted = plant(data, split, queries, documents or None)
    hidden = sum(map(len, planted.hidden.values()))
    table = Table(
        f"False negatives of {len(planted.queries):,} queries of {data}, {split}: {hidden:,} hidden relevant documents"
        f" of {len(planted.corpus):,}",
        COLUMNS,
    )
    for name in model:
        _by_encoder(table, planted, name)
    for path in cross_encoder or ():
        _by_cross_encoder(table, planted, path)


@dataclass(frozen=True)
class Planted:
    """A corpus with copies in it, queries with what is known of their relevant documents, and by query what is
    hidden."""

    corpus: Corpus
    queries: list[Query]
    hidden: Mapping[str, set[str]]


def plant(data: str, split: str, limit: int, documents: int | None) -> Planted:
    """Hide relevant documents, and plant copies of those that are known."""
    import sentencex

    from sharpen.evaluation.beir import Document, Query
    from sharpen.evaluation.datasets import load_task

    task = subset(load_task(data, split), documents)
    rng = random.Random(SEED)
    corpus, queries, hidden = dict(task.corpus), [], {}
    for query_id in rng.sample(sorted(task.qrels), min(limit, len(task.qrels))):
        relevant = sorted(i for i, grade in task.qrels[query_id].items() if grade > 0)
        known = rng.sample(relevant, max(1, len(relevant) // 2))
        hidden[query_id] = set(relevant) - set(known)
        for i in known:
            document = corpus[i]
            sentences = [s.strip() for s in sentencex.segment("en", document.text)]
            crawled = ["Cited by 12. Download the article.", *(sentences[:-1] or sentences), "All rights reserved."]
            for copy in (Document(f"{i}/copy", document.text, "A copy"), Document(f"{i}/again", " ".join(crawled))):
                corpus[copy.id] = copy
                hidden[query_id].add(copy.id)
        queries.append(Query(query_id, task.queries[query_id].text, {"positives": known}))
    return Planted(corpus, queries, hidden)


def _by_encoder(table: Table, planted: Planted, name: str) -> None:
    from sharpen.evaluation.encoders.settings import Encoder
    from sharpen.evaluation.scorers import BASE
    from sharpen.sdg import BM25Miner, DenseMiner, Guide, HybridMiner, RandomMiner, Resources

    miners = {
        "bm25": BM25Miner(ranks=RANKS),
        "dense": DenseMiner(ranks=RANKS),
        "hybrid": HybridMiner(ranks=RANKS),
        "random": RandomMiner(ranks=RANKS),
    }
    resources = Resources(_scores_of_index(Encoder(model=name)))
    _print_rows(table, planted, name.removeprefix("packaged:"), miners, {"guide": Guide()} | _filters(BASE), resources)


def _by_cross_encoder(table: Table, planted: Planted, path: str) -> None:
    from sharpen.evaluation.models import Models
    from sharpen.sdg import BM25Miner, CrossEncoderMiner, Margin, Resources

    miners = {
        "bm25": BM25Miner(ranks=RANKS),
        "cross_encoder of bm25": CrossEncoderMiner(model=path, depth=RESCORED, ranks=RANKS),
    }
    # a guide is an encoder; by a cross-encoder, a margin of 0 is the same
    filters = {"margin 0": Margin(scorer=path, min=0.0)} | _filters(path)
    _print_rows(table, planted, "cross-encoder", miners, filters, Resources(Models(remember_scores=True)))


def _filters(scorer: str) -> dict[str, NegativeFilter]:
    from sharpen.sdg import Absolute, Margin, Percentage

    return {
        "percentage 0.95": Percentage(scorer=scorer, max=0.95),
        "percentage auto": Percentage(scorer=scorer),
        "margin 0.05": Margin(scorer=scorer, min=0.05),
        "margin auto": Margin(scorer=scorer),
        "absolute 0.7": Absolute(scorer=scorer, max=0.7),
        "absolute auto": Absolute(scorer=scorer),
    }


def _scores_of_index(encoder: Encoder) -> Models:
    """Models whose scores of the base come from its index: seven filters ask for the same ones."""
    from sharpen.evaluation.models import Models

    class IndexScores(Models):
        def score(self, scorer: str, pairs: Pairs, queries: Queries, corpus: Corpus) -> PairScores:
            index = self.index(corpus)
            if "places" not in self.cache:
                vectors = index.encode_queries([query.text for query in queries.values()])
                self.cache["vectors"] = dict(zip(queries, vectors, strict=True))
                self.cache["places"] = {doc_id: place for place, doc_id in enumerate(index.ids)}
            vectors, places = self.cache["vectors"], self.cache["places"]
            return {(q, i): float(vectors[q] @ index.vectors[places[i]]) for q, i in pairs}

    return IndexScores(encoder)


def _print_rows(
    table: Table,
    planted: Planted,
    scorer: str,
    miners: Mapping[str, Miner],
    filters: Mapping[str, NegativeFilter],
    resources: Resources,
) -> None:
    """A row for each miner and filter. The filters see the candidates of all miners, as in a recipe."""
    rows = {name: _candidates(planted, name, miner, resources) for name, miner in miners.items()}
    queries = {query.id: query for query in planted.queries}
    filtered = {NONE: rows} | {
        name: each.apply(rows, queries, planted.corpus, resources, SEED).rows for name, each in filters.items()
    }
    for miner, before in rows.items():
        for name, after in filtered.items():
            table.row(scorer, miner, name, *_cells(planted, before, after[miner], name == NONE))


def _candidates(planted: Planted, name: str, miner: Miner, resources: Resources) -> Rows:
    from sharpen.sdg.negatives import depth_for
    from sharpen.sdg.negatives.candidates import candidates

    corpus, queries = planted.corpus, planted.queries
    run = miner.mine(queries, corpus, depth_for(RANKS[1], len(corpus)), resources, SEED).run
    return candidates(queries, run, corpus, (), name, RANKS, SEED)


def _cells(planted: Planted, before: Rows, after: Rows, unfiltered: bool) -> Sequence[str]:
    given, left = _hidden(planted, before), _hidden(planted, after)
    dropped, caught = len(given) - len(left), sum(given) - sum(left)
    never_offered = _copies(before) if unfiltered else 0
    cells = [
        f"{len(given):,}",
        f"{sum(left):,}" + (f" (and {never_offered:,} copies word for word never offered)" if never_offered else ""),
        f"{sum(left) / max(1, len(left)):.2%}",
    ]
    if unfiltered:
        return [*cells, "", "", ""]
    precision = f"{caught / dropped:.2f}" if dropped else ""
    return [*cells, f"{caught / max(1, sum(given)):.2f}", precision, f"{dropped / max(1, len(given)):.1%}"]


def _hidden(planted: Planted, rows: Rows) -> list[bool]:
    """Of each candidate, whether it is hidden."""
    return [n.doc_id in planted.hidden[q] for q, of_query in rows.items() for n in of_query if n.verdict == "candidate"]


def _copies(rows: Rows) -> int:
    from sharpen.sdg.negatives import Reason

    return sum(n.reason == Reason.COPY_OF_POSITIVE for of_query in rows.values() for n in of_query)


if __name__ == "__main__":
    app()
