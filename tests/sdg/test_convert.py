"""What other programs made, in files as they write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpen.evaluation.beir import Document, Query, read_corpus, read_qrels, read_queries, write_qrels
from sharpen.evaluation.files import InputError
from sharpen.sdg.convert import LAYOUTS, convert
from sharpen.sdg.export import TrainingData, export_nvidia
from sharpen.sdg.negatives.given import GivenMiner
from sharpen.sdg.negatives.record import read_negatives
from tests.conftest import write_rows

TEXTS = {"tea": "Tea is brewed from leaves.", "rye": "Rye bread is baked sour.", "kiln": "A kiln fires pots."}


def _read(folder: Path):
    corpus, queries = read_corpus(folder / "corpus.jsonl"), read_queries(folder / "queries.jsonl")
    splits = {path.stem: read_qrels(path, queries, corpus) for path in (folder / "qrels").iterdir()}
    negatives = read_negatives(folder / "negatives.jsonl") if (folder / "negatives.jsonl").exists() else []
    return corpus, queries, splits, [(n.query_id, n.doc_id, n.miner, n.rank) for n in negatives]


def _gpl(folder: Path) -> Path:
    folder.mkdir()
    write_rows(folder / "corpus.jsonl", [{"_id": i, "title": i, "text": text} for i, text in TEXTS.items()])
    write_rows(folder / "qgen-queries.jsonl", [{"_id": "genQ1", "text": "how is tea brewed", "metadata": {}}])
    (folder / "qgen-qrels").mkdir()
    (folder / "qgen-qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\ngenQ1\ttea\t1\n")
    return folder


def test_gpl_with_its_negatives_by_retriever(tmp_path):
    source = _gpl(tmp_path / "gpl")
    negatives = {"bm25": ["rye", "gone", "tea"], "msmarco-MiniLM-L-6-v3": ["kiln", "rye"]}
    write_rows(source / "hard-negatives.jsonl", [{"qid": "genQ1", "pos": ["tea"], "neg": negatives}])
    counts = convert(source, tmp_path / "out")
    corpus, queries, splits, rows = _read(tmp_path / "out")
    assert corpus["tea"].title == "tea" and queries["genQ1"].text == "how is tea brewed"
    assert splits == {"train": {"genQ1": {"tea": 1}}}
    # neither the positive nor what is no document
    assert rows == [
        ("genQ1", "rye", "bm25", 1),
        ("genQ1", "kiln", "msmarco-MiniLM-L-6-v3", 1),
        ("genQ1", "rye", "msmarco-MiniLM-L-6-v3", 2),
    ]
    assert counts == {
        "layout": "GPL",
        "documents": 3,
        "train": 1,
        "negatives": 3,
        "left_out": {"negatives that are no document": 1},
    }


def test_gpl_with_nothing_but_its_pseudo_labels_has_the_smallest_margin_first(tmp_path):
    source = _gpl(tmp_path / "gpl")
    (source / "gpl-training-data.tsv").write_text(
        "genQ1\ttea\tkiln\t7.5\ngenQ1\ttea\trye\t-0.5\ngenQ1\ttea\tkiln\t7.5\n"
    )
    convert(source, tmp_path / "out")
    assert _read(tmp_path / "out")[3] == [("genQ1", "rye", "gpl", 1), ("genQ1", "kiln", "gpl", 2)]


def test_inpars_queries_and_triples(tmp_path):
    source = tmp_path / "inpars"
    source.mkdir()
    row = {"log_probs": [-0.1], "prompt_text": "...", "fewshot_examples": []}
    write_rows(
        source / "synthetic.jsonl",
        [
            row | {"query": " how is\ttea brewed ", "doc_id": "tea", "doc_text": TEXTS["tea"]},
            row | {"query": "", "doc_id": "rye", "doc_text": TEXTS["rye"]},
        ],
    )
    (source / "triples.tsv").write_text(f"how is tea brewed\t{TEXTS['tea']}\t{TEXTS['kiln']}\n")
    (source / "topics-x.tsv").write_text("0\thow is tea brewed\n")
    counts = convert(source, tmp_path / "out")
    corpus, queries, splits, rows = _read(tmp_path / "out")
    assert set(corpus) > {"tea", "rye"} and [q.text for q in queries.values()] == ["how is tea brewed"]
    ((query_id, grades),) = splits["train"].items()
    assert grades == {"tea": 1} and counts["left_out"] == {"lines without a query": 1}
    assert [(q, corpus[i].text, miner) for q, i, miner, _ in rows] == [(query_id, TEXTS["kiln"], "bm25")]
    # the triples alone say as much, but for the documents' names
    convert(source / "triples.tsv", tmp_path / "alone")
    assert {d.text for d in _read(tmp_path / "alone")[0].values()} == {TEXTS["tea"], TEXTS["kiln"]}


def _generated() -> dict:
    question = {"question": "how is tea brewed", "answer": "from leaves", "query_type": "multi_hop", "hop_count": 2}
    return {
        "file_name": ["docs/tea.txt", "docs/rye.txt"],
        "chunks": [
            {"chunk_id": 1, "text": TEXTS["tea"], "start": 0, "doc_id": "tea"},
            {"chunk_id": 2, "text": TEXTS["rye"], "start": 0, "doc_id": "rye"},
        ],
        "deduplicated_qa_pairs": [
            question | {"segment_ids": [1, 2]},
            {"question": "what about rye", "segment_ids": [2]},
            {"question": "what about nothing", "segment_ids": [9]},
        ],
        "qa_evaluations": {"evaluations": [{"overall": {"score": score}} for score in (8, 6.5, 9)]},
    }


@pytest.mark.parametrize("kind", ["generated_batch0.json", "batch.jsonl", "batch.parquet"])
def test_nvidias_generated_records(kind, tmp_path):
    source = tmp_path / "generated"
    source.mkdir()
    records = [_generated(), _generated() | {"file_name": "odd.txt", "qa_evaluations": {"evaluations": []}}]
    if kind.endswith(".json"):
        (source / kind).write_text(json.dumps(records))
    elif kind.endswith(".jsonl"):
        write_rows(source / kind, records)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records[:1]), source / kind)
    counts = convert(source, tmp_path / "out")
    corpus, queries, splits, rows = _read(tmp_path / "out")
    assert {d.text: d.doc_id for d in corpus.values()} == {TEXTS["tea"]: "tea", TEXTS["rye"]: "rye"} and not rows
    (query,) = queries.values()
    assert query.text == "how is tea brewed" and query.metadata["hop_count"] == 2
    assert splits["train"] == {query.id: dict.fromkeys(corpus, 1)}
    left_out = {"pairs below the quality": 1, "pairs without question or segments": 1}
    if kind.endswith(("json", "jsonl")):
        left_out["records with other numbers of pairs and of judgements"] = 1
    assert counts["left_out"] == left_out
    assert convert(source, tmp_path / "more", min_quality=6.0)["train"] == 2


def test_what_is_exported_for_nvidia_comes_back(tmp_path):
    corpus = {i: Document(i, text) for i, text in TEXTS.items()}
    queries = {q: Query(q, f"a query of {q}") for q in ("q1", "q2", "q3")}
    splits = {"train": {"q1": {"tea": 1}}, "dev": {"q2": {"rye": 1}}, "test": {"q3": {"kiln": 1}}}
    export_nvidia(TrainingData("name", corpus, queries, splits, {"q1": ["rye", "kiln"]}), tmp_path / "nvidia")
    convert(tmp_path / "nvidia", tmp_path / "out")
    back, names, found, rows = _read(tmp_path / "out")
    assert {i: d.text for i, d in back.items()} == TEXTS and names["q1"].text == "a query of q1"
    assert found == {"train": {"q1": {"tea": 1}}, "dev": {"q2": {"rye": 1}}, "test": {"test-q3": {"kiln": 1}}}
    assert rows == [("q1", "rye", "nvidia", 1), ("q1", "kiln", "nvidia", 2)]


def test_what_cannot_be_converted_says_what_was_looked_for(tmp_path):
    (tmp_path / "odd").mkdir()
    write_rows(tmp_path / "odd" / "rows.jsonl", [{"text": "neither"}])
    with pytest.raises(InputError, match="Looked for were") as error:
        convert(tmp_path / "odd", tmp_path / "out")
    assert all(files in str(error.value) for _, _, files in LAYOUTS.values()) and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no such file or folder"):
        convert(tmp_path / "nothing", tmp_path / "out")
    source = _gpl(tmp_path / "gpl")
    write_rows(source / "hard-negatives.jsonl", [{"qid": "genQ1", "neg": ["rye"]}])
    with pytest.raises(InputError, match=r"hard-negatives\.jsonl, line 1: expected qid"):
        convert(source, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        convert(source, source)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"query": "q", "doc_id": "d"}) + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 1: the document 'd' has no doc_text"):
        convert(tmp_path / "rows.jsonl", tmp_path / "out")


def test_given_negatives_go_to_the_labelled_queries_that_they_were_found_for(tmp_path):
    source = _gpl(tmp_path / "gpl")
    write_rows(source / "hard-negatives.jsonl", [{"qid": "genQ1", "neg": {"a": ["rye"], "b": ["kiln", "rye"]}}])
    convert(source, tmp_path / "out")
    chunks = {"kiln#0": "kiln", "kiln#1": "kiln", "rye": "rye", "tea": "tea"}
    corpus = {i: Document(i, TEXTS[of], metadata={"chunk_of": of}) for i, of in chunks.items()}
    miner = GivenMiner(data=str(tmp_path / "out" / "negatives.jsonl"))
    queries = [Query("labelled-genQ1", "x", {"positives": ["tea"]}), Query("generated", "y", {"positives": ["tea"]})]
    assert miner.mine(queries, corpus, 5, None, 0).run == {
        "labelled-genQ1": {"rye": 1.0, "kiln#0": 0.5},
        "generated": {},
    }
    qrels = {"genQ1": {"tea": 1, "kiln": 0, "gone": 0, "rye": 0}, "other": {"tea": 0}}
    write_qrels(tmp_path / "marks.tsv", qrels)
    run = GivenMiner(data=str(tmp_path / "marks.tsv")).mine(queries, corpus, 5, None, 0).run
    assert run == {"labelled-genQ1": {"kiln#0": 1.0, "rye": 0.5}, "generated": {}}


@pytest.mark.parametrize("form", ["save_to_disk", "save_dict_to_disk", "parquet"])
def test_pairs_of_datasets_in_arrow_and_parquet(tmp_path, form):
    from datasets import Dataset, DatasetDict

    rows = [
        {"anchor": "how is tea brewed", "positive": TEXTS["tea"], "negative_1": TEXTS["rye"], "negative_2": ""},
        {"anchor": "what fires pots", "positive": TEXTS["kiln"], "negative_1": TEXTS["tea"], "negative_2": ""},
    ]
    source, dataset = tmp_path / "source", Dataset.from_list(rows)
    if form == "save_to_disk":
        dataset.save_to_disk(str(source))
    elif form == "save_dict_to_disk":
        DatasetDict({"train": dataset, "validation": dataset.select([0])}).save_to_disk(str(source))
    else:
        source.mkdir()
        dataset.to_parquet(source / "train-00000-of-00001.parquet")
    counts = convert(source, tmp_path / "out")
    corpus, queries, splits, negatives = _read(tmp_path / "out")
    assert counts["layout"] == "datasets" and {d.text for d in corpus.values()} == set(TEXTS.values())
    assert {q.text for q in queries.values()} == {row["anchor"] for row in rows} and len(splits["train"]) == 2
    assert set(splits) == ({"train", "dev"} if form == "save_dict_to_disk" else {"train"})
    found = {(queries[q].text, corpus[i].text) for q, i, _, _ in negatives}
    assert found == {(row["anchor"], row["negative_1"]) for row in rows}


def test_a_dataset_without_pairs_says_which_columns_it_has(tmp_path):
    from datasets import Dataset

    Dataset.from_list([{"left": "a", "right": "b"}]).save_to_disk(str(tmp_path / "source"))
    with pytest.raises(InputError, match=r"expected a column anchor .* the columns there are left, right"):
        convert(tmp_path / "source", tmp_path / "out")
