"""Divides the judged queries of a dataset into two halves that share no document: one to train on, one to test on.

    python scripts/halves.py runs/halves-scifact [--data scifact] [--split train] [--seed 13]

Queries that share a relevant document, and near-duplicates of documents, stay in one half. Writes queries.jsonl,
qrels/train.tsv and qrels/test.tsv; `labelled.data` and `evaluation.data` take the folder, beside the dataset as
`corpus.source`. recipes/studies/upper_line.yaml is a study of what the labels bring. A
matter of seconds, not of minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from benchmarks.common import SEED, as_help

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=as_help(__doc__))
def main(
    folder: Annotated[Path, typer.Argument(help="Is made.")],
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "scifact",
    split: Annotated[str, typer.Option(help="Whose queries are divided.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the draw of documents.")] = SEED,
) -> None:
    from sharpen.evaluation.beir import Query, corpus_file, read_corpus, write_qrels, write_queries
    from sharpen.evaluation.datasets import find_dataset, read_judged
    from sharpen.sdg.splitting import split as split_by_document

    corpus = read_corpus(corpus_file(find_dataset(data)))
    queries, qrels = read_judged(data, split, corpus)
    positives = {query: [doc for doc, grade in grades.items() if grade > 0] for query, grades in qrels.items()}
    asked = [Query(q, queries[q].text, {"positives": ids}) for q, ids in positives.items() if ids]
    halves = split_by_document(asked, corpus, dev=0, test=0.5, seed=seed, together=positives.values())
    write_queries(folder / "queries.jsonl", (queries[q.id] for q in asked))
    for name in ("train", "test"):
        members = getattr(halves, name)
        write_qrels(folder / "qrels" / f"{name}.tsv", {q.id: qrels[q.id] for q in members})
        print(f"{folder / 'qrels' / name}.tsv: {len(members)} queries")


if __name__ == "__main__":
    app()
