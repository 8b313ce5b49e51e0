"""The stages that make queries, and that filter and divide them."""

from __future__ import annotations

from pathlib import Path

from sharpen.evaluation.beir import (
    Corpus,
    Document,
    Query,
    read_qrels,
    read_queries,
    write_corpus,
    write_qrels,
    write_queries,
)
from sharpen.recipes.engine import Folder
from sharpen.recipes.inputs import Inputs
from sharpen.recipes.schema.judged import Evaluated
from sharpen.recipes.stages.pairs import PairsStage, make_pairs
from sharpen.recipes.stages.queries import QueriesStage, make_queries
from sharpen.sdg.filters.settings import FiltersSettings
from sharpen.sdg.labelled import LabelledSettings
from sharpen.sdg.resources import Resources
from sharpen.sdg.splitting import SplitSettings
from sharpen.sdg.strategies.settings import QueriesSettings


def _made(run: Path, queries: list[Query], corpus: Corpus, **settings) -> Inputs:
    """A run's folder with the stage's files."""
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
    corpus = {"d": Document("d", "text")}
    inputs = _made(tmp_path, [*labelled, *own, *made], corpus, split=split, fraction=0.3)
    dev = set(read_qrels(tmp_path / "pairs" / "qrels" / "dev.tsv"))
    assert dev and not any("labelled" in i for i in dev)
    assert {f"of {i}" for i in dev if i.startswith("q")} == {i for i in dev if i.startswith("of")}
    assert not dev & set(inputs.train_queries())


def test_what_is_harvested_where_the_same_is_labelled_stands_with_the_labelled_query(tmp_path):
    corpus = {i: Document(i, f"The text of {i} is this one.", f"The title of {i}") for i in ("a", "b")}
    data, run = tmp_path / "data", tmp_path / "run"
    for folder in (data / "qrels", run / "corpus", run / "queries"):
        folder.mkdir(parents=True)
    for folder in (data, run / "corpus"):
        write_corpus(folder / "corpus.jsonl", corpus)
    write_queries(data / "queries.jsonl", [Query("1", "the title of b")])
    write_qrels(data / "qrels" / "train.tsv", {"1": {"a": 1}})
    part = QueriesStage.model_construct(
        queries=QueriesSettings(strategies=[{"kind": "harvested", "kinds": ["title"]}]),
        labelled=LabelledSettings(data=str(data)),
        evaluated=Evaluated(),
        seed=3,
        **dict.fromkeys(("llm", "encoder", "labelled_files")),
    )
    make_queries(part, Inputs(run), Folder(run / "queries"), Resources())
    queries = read_queries(run / "queries" / "queries.jsonl")
    assert queries["labelled-1"].metadata["also_answers"] == ["b"] and len(queries) == 2


def test_near_duplicates_that_the_split_found_are_named_for_the_negatives(tmp_path):
    page = " ".join(f"word{n} of the page that describes this version" for n in range(40))
    corpus = {f"v{n}": Document(f"v{n}", f"{page} v{n}") for n in range(3)}
    corpus |= {f"d{n}": Document(f"d{n}", f"text {n}") for n in range(30)}
    queries = [Query(i, f"how is {i}", {"positives": [i], "strategy": "document"}) for i in corpus]
    inputs = _made(tmp_path, queries, corpus)
    named = {q.id: q.metadata.get("near_duplicates") for q in inputs.train_queries().values()}
    assert {i: ids for i, ids in named.items() if ids} == {"v0": ["v1", "v2"], "v1": ["v0", "v2"], "v2": ["v0", "v1"]}
