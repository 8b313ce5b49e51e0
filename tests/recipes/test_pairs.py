"""The stage that filters and divides queries, given those of the stage before it."""

from __future__ import annotations

from pathlib import Path

from sharpen.evaluation.beir import Document, Query, read_qrels, write_corpus, write_queries
from sharpen.recipes.engine import Folder
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.stages.pairs import PairsStage, make_pairs
from sharpen.sdg.filters.settings import FiltersSettings
from sharpen.sdg.resources import Resources
from sharpen.sdg.splitting import SplitSettings


def _made(run: Path, queries: list[Query], **settings) -> Inputs:
    """A run's folder with the stage's files. Documents are named in the queries."""
    corpus = {i: Document(i, f"the text of {i}") for query in queries for i in query.metadata["positives"]}
    for name in ("corpus", "queries", "pairs"):
        (run / name).mkdir(parents=True)
    write_corpus(run / "corpus" / "corpus.jsonl", corpus)
    write_queries(run / "queries" / "queries.jsonl", queries)
    absent = dict.fromkeys(("fraction", "compared_on", "llm", "encoder", "replay"))
    part = PairsStage.model_construct(
        **absent
        | {"filters": FiltersSettings(round_trip=None), "split": SplitSettings(), "seed": 3, "decisions": ()}
        | settings
    )
    make_pairs(part, Inputs(run), Folder(run / "pairs"), Resources())
    return Inputs(run)


def test_by_query_what_is_made_of_labelled_queries_is_trained_on_as_they_are(tmp_path):
    labelled = [Query(f"labelled-{n}", f"real {n}", {"positives": ["d"], "strategy": "labelled"}) for n in range(30)]
    own = [Query(f"q{n}", f"own {n}", {"positives": ["d"], "strategy": "document"}) for n in range(30)]
    made = [
        Query(f"of {q.id}", f"words {q.text}", {"positives": ["d"], "strategy": "paraphrase", "of": q.id})
        for q in (*labelled, *own)
    ]
    split = SplitSettings(by="query", dev=0.3)
    inputs = _made(tmp_path, [*labelled, *own, *made], split=split, fraction=0.3)
    dev = set(read_qrels(tmp_path / "pairs" / "qrels" / "dev.tsv"))
    assert dev and not any("labelled" in i for i in dev)
    assert {f"of {i}" for i in dev if i.startswith("q")} == {i for i in dev if i.startswith("of")}
    assert not dev & set(inputs.train_queries())
