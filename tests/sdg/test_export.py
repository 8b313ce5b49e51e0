import json

import pytest
from beir.datasets.data_loader import GenericDataLoader
from datasets import load_dataset

from sharpen.evaluation.beir import Query
from sharpen.sdg.export import EXPORTS, TrainingData


@pytest.fixture
def labelled(corpus):
    queries = {
        q: Query(q, text, {"strategy": "document"})
        for q, text in {
            "q1": "how long does dough rest",
            "q2": "flat tire",
            "q3": "first moves",
            "q4": "ice or lava",
            "q5": "tea or coffee",
        }.items()
    }
    splits = {
        "train": {"q1": {"bread": 1}, "q2": {"bicycle": 1}, "q4": {"glacier": 1, "volcano": 1}},
        "dev": {"q3": {"chess": 1, "guitar": 0}},
        "test": {"q5": {"coffee": 1}},
    }
    negatives = {"q1": ["coffee", "candle"], "q2": ["sailing", "piano"], "q4": ["sailing"]}
    return TrainingData("topics", corpus, queries, splits, negatives)


def test_beir_reads_it(labelled, tmp_path):
    EXPORTS["beir"](labelled, tmp_path)
    for split, qrels in labelled.splits.items():
        corpus, queries, read = GenericDataLoader(str(tmp_path)).load(split=split)
        assert read == qrels and set(queries) == set(qrels)
        assert corpus["chess"] == {"title": "Opening a game of chess", "text": labelled.corpus["chess"].text}


def test_nvidias_trainer_reads_it(labelled, tmp_path):
    """The fields that the retrieval dataset of NeMo Automodel requires, and the corpus as it loads it."""
    counts = EXPORTS["nvidia"](labelled, tmp_path)
    assert counts == {"train": 3, "val": 1, "eval_beir": 1}
    for name in ("train", "val"):
        data = json.loads((tmp_path / f"{name}.json").read_text())
        folder = tmp_path / data["corpus"]["path"]
        metadata = json.loads((folder / "merlin_metadata.json").read_text())
        assert metadata == {"corpus_id": "topics", "class": "TextQADataset"}
        passages = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
        known = dict(zip(passages["id"], passages["text"], strict=True))
        assert len(known) == 12 and known["bread"].startswith("Baking bread Mix flour")
        for row in data["data"]:
            assert (
                set(row) == {"question_id", "question", "corpus_id", "pos_doc", "neg_doc"}
                and row["corpus_id"] == metadata["corpus_id"]
            )
            assert row["pos_doc"] and all(document["id"] in known for document in row["pos_doc"] + row["neg_doc"])
    train = {row["question_id"]: row for row in json.loads((tmp_path / "train.json").read_text())["data"]}
    assert [d["id"] for d in train["q4"]["pos_doc"]] == ["glacier", "volcano"] and [
        d["id"] for d in train["q1"]["neg_doc"]
    ] == ["coffee", "candle"]
    _, queries, qrels = GenericDataLoader(str(tmp_path / "eval_beir")).load(split="test")
    assert set(queries) == {"q5"} and qrels == {"q5": {"coffee": 1}}


def test_sentence_transformers_trains_on_it(labelled, tmp_path):
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from sharpen.evaluation.encoders.packaged import packaged_encoder

    counts = EXPORTS["sentence-transformers"](labelled, tmp_path / "out")
    assert counts == {"train": 2, "dev": 1, "test": 1}  # q4 has fewer negatives than the others
    rows = {
        split: load_dataset(
            "parquet", data_files=str(tmp_path / "out" / f"{split}.parquet"), cache_dir=str(tmp_path / "cache")
        )["train"]
        for split in ("train", "dev")
    }
    assert rows["train"].column_names == ["anchor", "positive", "negative_1", "negative_2"] and rows[
        "dev"
    ].column_names == ["anchor", "positive"]
    assert rows["train"][0]["negative_1"].startswith("Making filter coffee")
    model = SentenceTransformer(str(packaged_encoder("packaged:tiny-bert")), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "scratch"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows["train"], loss=MultipleNegativesRankingLoss(model)
    ).train()


def test_lines_for_tevatron_and_flag_embedding(labelled, tmp_path):
    EXPORTS["tevatron"](labelled, tmp_path / "t")
    rows = [json.loads(line) for line in (tmp_path / "t" / "train.jsonl").open()]
    assert [r["query_id"] for r in rows] == ["q1", "q2", "q4"]
    assert rows[0]["positive_passages"] == [
        {"docid": "bread", "title": "Baking bread", "text": labelled.corpus["bread"].text}
    ]
    assert [p["docid"] for p in rows[0]["negative_passages"]] == ["coffee", "candle"]
    assert sum(1 for _ in (tmp_path / "t" / "corpus.jsonl").open()) == 12
    EXPORTS["flag-embedding"](labelled, tmp_path / "f")
    row = json.loads((tmp_path / "f" / "train.jsonl").open().readline())
    assert (
        row["pos"] == [labelled.corpus["bread"].content]
        and row["neg_id"] == ["coffee", "candle"]
        and all(isinstance(t, str) for t in row["neg"])
    )


def test_datasets_reads_it_and_it_comes_back_the_same(labelled, tmp_path):
    from huggingface_hub import DatasetCard

    from sharpen.evaluation.beir import read_corpus, read_qrels, read_queries
    from sharpen.sdg.convert import convert
    from sharpen.sdg.negatives.record import read_negatives

    folder, cache = tmp_path / "made", str(tmp_path / "cache")
    counts = EXPORTS["datasets"](labelled, folder)
    assert counts == {"documents": 12, "train": 3, "dev": 1, "test": 1}
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".parquet", ".md"}
    corpus, queries, qrels, negatives = (
        load_dataset(str(folder), part, cache_dir=cache) for part in ("corpus", "queries", "qrels", "negatives")
    )
    assert set(corpus["corpus"]["_id"]) == set(labelled.corpus) and len(queries["queries"]) == 5
    assert {split: len(rows) for split, rows in qrels.items()} == {"train": 4, "dev": 2, "test": 1}
    assert len(negatives["train"]) == 5
    card = DatasetCard.load(folder / "README.md")
    assert card.data.language == ["en"] and card.data.configs[0]["config_name"] == "corpus"
    assert convert(folder, tmp_path / "back")["negatives"] == 5
    assert read_qrels(tmp_path / "back" / "qrels" / "dev.tsv") == labelled.splits["dev"]
    back = read_corpus(tmp_path / "back" / "corpus.jsonl")
    assert {i: d.content for i, d in back.items()} == {i: d.content for i, d in labelled.corpus.items()}
    assert {q.id: q.text for q in read_queries(tmp_path / "back" / "queries.jsonl").values()} == {
        q.id: q.text for q in labelled.queries.values()
    }
    rows = read_negatives(tmp_path / "back" / "negatives.jsonl")
    assert {(n.query_id, n.doc_id) for n in rows} == {(q, i) for q, ids in labelled.negatives.items() for i in ids}


def test_the_datasets_page_says_whether_documents_are_held_out(labelled, tmp_path):
    EXPORTS["datasets"](labelled, tmp_path / "by document")
    assert "A document is in one split only." in (tmp_path / "by document" / "README.md").read_text()
    labelled.splits["train"]["q1"]["coffee"] = 1
    EXPORTS["datasets"](labelled, tmp_path / "by query")
    page = (tmp_path / "by query" / "README.md").read_text()
    assert "one split only" not in page and "Queries are held out, their documents are not." in page
