"""Pairs and hard negatives in the layouts that other trainers read. IDs are resolved to texts where a layout wants
texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import Corpus, Document, Qrels, Queries, write_corpus, write_qrels, write_queries
from sharpen.evaluation.files import write_json, write_jsonl, write_text
from sharpen.evaluation.languages import language_of

MAX_POSITIVES = 5
"""Of a query, in NVIDIA's layout; its own converter leaves out queries with more."""


@dataclass(frozen=True)
class TrainingData:
    """What is written out. ``splits``: name (train, dev, test) to qrels; ``negatives``: query ID to document IDs, best
    first, of train queries."""

    name: str
    corpus: Corpus
    queries: Queries
    splits: Mapping[str, Qrels]
    negatives: Mapping[str, Sequence[str]] = field(default_factory=dict)
    written: Corpus = field(default_factory=dict)
    """Negatives that an LLM wrote: they stand in no corpus that is searched."""
    decided: bool = False
    """Whether people went through some of it."""

    def document(self, i: str) -> Document:
        return self.corpus.get(i) or self.written[i]

    def positives(self, split: str) -> Iterator[tuple[str, list[str]]]:
        """Query ID and IDs of its relevant documents."""
        for query_id, grades in self.splits.get(split, {}).items():
            if relevant := [doc_id for doc_id, grade in grades.items() if grade > 0]:
                yield query_id, relevant


def export_beir(data: TrainingData, folder: Path) -> dict[str, int]:
    """``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``."""
    write_corpus(folder / "corpus.jsonl", data.corpus)
    write_queries(folder / "queries.jsonl", data.queries.values())
    for split, qrels in data.splits.items():
        if qrels:  # without what an LLM wrote
            there = {q: {i: grade for i, grade in of.items() if i in data.corpus} for q, of in qrels.items()}
            write_qrels(folder / "qrels" / f"{split}.tsv", there)
    return {"documents": len(data.corpus)} | {split: len(qrels) for split, qrels in data.splits.items()}


def export_sentence_transformers(data: TrainingData, folder: Path) -> dict[str, int]:
    """``train.parquet``, ``dev.parquet``, ``test.parquet`` with columns anchor, positive, negative_1, ... as losses of
    sentence-transformers take them (negatives in train only, so load each file by itself); a row for each positive.
    Queries with fewer negatives than the most have are left out of train, as a parquet file has the same columns in all
    rows."""
    counts: dict[str, int] = {}
    most = max((len(ids) for ids in data.negatives.values()), default=0)
    for split in data.splits:
        width = most if split == "train" else 0
        rows = [
            {"anchor": data.queries[query_id].text, "positive": data.document(doc_id).content}
            | {f"negative_{n}": data.document(i).content for n, i in enumerate(negatives[:width], start=1)}
            for query_id, positives in data.positives(split)
            if len(negatives := data.negatives.get(query_id, ())) >= width
            for doc_id in positives
        ]
        if rows:
            _write_parquet(folder / f"{split}.parquet", rows)
        counts[split] = len(rows)
    return counts


def export_tevatron(data: TrainingData, folder: Path) -> dict[str, int]:
    """Tevatron's JSON lines: ``<split>.jsonl`` (query_id, query, positive_passages, negative_passages) and
    ``corpus.jsonl``."""
    write_jsonl(folder / "corpus.jsonl", (_passage(document) for document in data.corpus.values()))

    def row(query_id: str, positives: list[str]) -> dict[str, Any]:
        return {
            "query_id": query_id,
            "query": data.queries[query_id].text,
            "positive_passages": _passages(data, positives),
            "negative_passages": _passages(data, data.negatives.get(query_id, ())),
        }

    return _lines(data, folder, row)


def export_flag_embedding(data: TrainingData, folder: Path) -> dict[str, int]:
    """FlagEmbedding's JSON lines: ``<split>.jsonl`` with query, pos and neg (texts), and their IDs in pos_id and
    neg_id."""

    def row(query_id: str, positives: list[str]) -> dict[str, Any]:
        negatives = list(data.negatives.get(query_id, ()))
        return {
            "query": data.queries[query_id].text,
            "pos": _texts(data, positives),
            "neg": _texts(data, negatives),
            "pos_id": positives,
            "neg_id": negatives,
        }

    return _lines(data, folder, row)


def export_nvidia(data: TrainingData, folder: Path) -> dict[str, int]:
    """The layout of NVIDIA's retriever toolkit: ``train.json`` and ``val.json`` (from dev), ``corpus/train.parquet``
    and ``corpus/merlin_metadata.json``, and ``eval_beir/`` with the test split, or dev where there is no test.

    Its trainers look passages up by ``id`` in the parquet file; queries with more than five positives are left out, as
    by its own converter.
    """
    counts: dict[str, int] = {}
    for split, name in (("train", "train"), ("dev", "val")):
        rows = [
            {
                "question_id": query_id,
                "question": data.queries[query_id].text,
                "corpus_id": data.name,
                "pos_doc": [{"id": doc_id} for doc_id in positives],
                "neg_doc": [{"id": doc_id} for doc_id in data.negatives.get(query_id, ())],
            }
            for query_id, positives in data.positives(split)
            if len(positives) <= MAX_POSITIVES
        ]
        write_json(folder / f"{name}.json", {"corpus": {"path": "./corpus/"}, "data": rows})
        counts[name] = len(rows)
    passages = [{"id": d.id, "text": d.content} for d in [*data.corpus.values(), *data.written.values()]]
    _write_parquet(folder / "corpus" / "train.parquet", passages)
    write_json(folder / "corpus" / "merlin_metadata.json", {"corpus_id": data.name, "class": "TextQADataset"})
    held_out = next((data.splits[split] for split in ("test", "dev") if data.splits.get(split)), {})
    judged = {query_id: data.queries[query_id] for query_id in held_out}
    export_beir(TrainingData(data.name, data.corpus, judged, {"test": held_out}), folder / "eval_beir")
    return counts | {"eval_beir": len(held_out)}


def export_datasets(data: TrainingData, folder: Path) -> dict[str, int]:
    """A dataset of Hugging Face's ``datasets`` in Parquet: corpus, queries, qrels by split, and negatives.

    ``datasets.load_dataset(folder, "queries")`` finds them by the head of ``README.md``.
    """
    documents = [*data.corpus.values(), *data.written.values()]
    queries = [{"_id": q.id, "text": q.text, "strategy": q.metadata.get("strategy")} for q in data.queries.values()]
    parts = {
        "corpus": {"corpus": [{"_id": d.id, "title": d.title, "text": d.text} for d in documents]},
        "queries": {"queries": queries},
        "qrels": {split: _judged(qrels) for split, qrels in data.splits.items() if qrels},
        "negatives": {"train": [{"query-id": q, "corpus-id": i} for q, ids in data.negatives.items() for i in ids]},
    }
    configs = []
    for name, splits in parts.items():
        files = [{"split": split, "path": f"{name}/{split}.parquet"} for split, rows in splits.items() if rows]
        for split, rows in splits.items():
            if rows:
                _write_parquet(folder / name / f"{split}.parquet", rows)
        if files:
            configs.append({"config_name": name, "data_files": files})
    write_text(folder / "README.md", _dataset_page(data, configs))
    return {"documents": len(documents)} | {split: len(qrels) for split, qrels in data.splits.items()}


def _judged(qrels: Qrels) -> list[dict[str, Any]]:
    return [
        {"query-id": q, "corpus-id": i, "score": grade} for q, grades in qrels.items() for i, grade in grades.items()
    ]


def _dataset_page(data: TrainingData, configs: list[dict[str, Any]]) -> str:
    from huggingface_hub import DatasetCardData

    languages = sorted({language_of(d) for d in data.corpus.values()})
    metadata = DatasetCardData(
        pretty_name=data.name,
        language=languages,
        task_categories=["text-retrieval"],
        annotations_creators=["machine-generated"],
        tags=["sharpen", "retrieval", "synthetic"],
        configs=configs,
    )
    rows = [f"| {split} | {len(qrels):,} |" for split, qrels in data.splits.items() if qrels]
    strategies = Counter(str(q.metadata.get("strategy") or "given") for q in data.queries.values())
    kinds = ", ".join(f"{n:,} {name}" for name, n in strategies.most_common())
    negatives = sum(map(len, data.negatives.values()))
    judged = "" if data.decided else " No person judged them, but for those of the strategy labelled."
    documents = [{data.document(i).doc_id for _, ids in data.positives(name) for i in ids} for name in data.splits]
    apart = sum(map(len, documents)) == len(set().union(*documents))
    held_out = "A document is in one split only." if apart else "Queries are held out, their documents are not."
    page = [
        f"# {data.name}",
        "",
        f"Pairs of a query and a document that answers it, made by sharpen for {len(data.corpus):,} documents.{judged}",
        "",
        "| split | queries |",
        "| --- | --- |",
        *rows,
        "",
        f"Queries by strategy: {kinds}. Hard negatives: {negatives:,}. {held_out}",
        "",
        "```python",
        "from datasets import load_dataset",
        'queries, qrels = (load_dataset("this folder", part) for part in ("queries", "qrels"))',
        "```",
        "",
        "The licences of the documents and of the language model hold for what was made with them.",
        "",
    ]
    return f"---\n{metadata.to_yaml()}\n---\n" + "\n".join(page)


EXPORTS: dict[str, Callable[[TrainingData, Path], dict[str, int]]] = {
    "beir": export_beir,
    "nvidia": export_nvidia,
    "sentence-transformers": export_sentence_transformers,
    "tevatron": export_tevatron,
    "flag-embedding": export_flag_embedding,
    "datasets": export_datasets,
}


def _passage(document: Document) -> dict[str, str]:
    return {"docid": document.id, "title": document.title, "text": document.text}


def _passages(data: TrainingData, ids: Iterable[str]) -> list[dict[str, str]]:
    return [_passage(data.document(i)) for i in ids]


def _texts(data: TrainingData, ids: Iterable[str]) -> list[str]:
    return [data.document(i).content for i in ids]


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(path)


def _lines(data: TrainingData, folder: Path, row: Callable[[str, list[str]], dict[str, Any]]) -> dict[str, int]:
    counts = {}
    for split in data.splits:
        rows = [row(query_id, positives) for query_id, positives in data.positives(split)]
        if rows:
            write_jsonl(folder / f"{split}.jsonl", rows)
        counts[split] = len(rows)
    return counts
