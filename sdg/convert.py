"""Pairs and hard negatives that other programs made, into the layout that recipes take: BEIR's, with the negatives in
``negatives.jsonl`` beside it."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpen.evaluation.beir import (
    Document,
    Query,
    read_corpus,
    read_qrels,
    read_queries,
    write_corpus,
    write_qrels,
    write_queries,
)
from sharpen.evaluation.files import InputError, atomic_folder, check_new_folder, read_jsonl
from sharpen.sdg.convert_datasets import is_dataset, read_dataset
from sharpen.sdg.converted import Converted, add_negatives, add_pair, read_parquet, text_id
from sharpen.sdg.negatives.record import write_negatives

MIN_QUALITY = 7.0
"""Of NVIDIA's generated pairs, the least overall score of their judge, as its own converter has it."""
NEGATIVES = "negatives.jsonl"
_PAIR_METADATA = ("answer", "query_type", "reasoning_type", "hop_count", "question_complexity", "hop_contexts")


def convert(source: Path, target: Path, min_quality: float = MIN_QUALITY) -> dict[str, Any]:
    """Read ``source`` in whichever layout of ``LAYOUTS`` it is, and write it to the folder ``target``, which must not
    be there yet: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv`` and, where there are any, hard negatives in
    ``negatives.jsonl``. ``min_quality``: of NVIDIA's generated pairs, the least overall score.

    Returns counts. Raises ``InputError`` for an unknown layout, saying what was looked for, and as the readers do.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = Path(folder) / "generated.jsonl"
    ...     _ = rows.write_text('{"query": "how hot is a kiln", "doc_id": "d", "doc_text": "Kilns fire at 1000 C."}\\n')
    ...     convert(rows, Path(folder) / "converted")
    {'layout': 'InPars', 'documents': 1, 'train': 1}
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    check_new_folder(target)
    layout = next((name for name, (fits, _, _) in LAYOUTS.items() if fits(source)), None)
    if layout is None:
        looked_for = "; ".join(f"{name}: {files}" for name, (_, _, files) in LAYOUTS.items())
        raise InputError(f"{source}: none of the layouts that are known. Looked for were {looked_for}")
    read = LAYOUTS[layout][1]
    data = read(source, min_quality) if read is _read_nvidia_generated else read(source)
    if not any(data.splits.values()):
        raise InputError(f"{source}: {layout}, without one pair that can be used ({data.left_out or 'it is empty'})")
    with atomic_folder(target) as partial:
        write_corpus(partial / "corpus.jsonl", data.corpus)
        write_queries(partial / "queries.jsonl", data.queries.values())
        for split, qrels in data.splits.items():
            if qrels:
                write_qrels(partial / "qrels" / f"{split}.tsv", qrels)
        if data.negatives:
            write_negatives(partial / NEGATIVES, data.rows())
    counts: dict[str, Any] = {"layout": layout, "documents": len(data.corpus)}
    counts |= {split: len(qrels) for split, qrels in data.splits.items() if qrels}
    counts |= {"negatives": sum(1 for _ in data.rows())} if data.negatives else {}
    return counts | ({"left_out": data.left_out} if data.left_out else {})


# ---- BEIR and GPL


def _read_beir(source: Path) -> Converted:
    corpus, queries = read_corpus(source / "corpus.jsonl"), read_queries(source / "queries.jsonl")
    splits = {path.stem: read_qrels(path, queries, corpus) for path in sorted((source / "qrels").glob("*.tsv"))}
    return Converted(corpus, queries, splits)


def _gpl_prefix(source: Path) -> str | None:
    """What stands before ``-queries.jsonl`` (qgen, if nobody said otherwise)."""
    names = [path.name.removesuffix("-queries.jsonl") for path in sorted(source.glob("*-queries.jsonl"))]
    return next((name for name in names if (source / f"{name}-qrels").is_dir()), None)


def _read_gpl(source: Path) -> Converted:
    prefix = _gpl_prefix(source)
    corpus, queries = read_corpus(source / "corpus.jsonl"), read_queries(source / f"{prefix}-queries.jsonl")
    paths = sorted((source / f"{prefix}-qrels").glob("*.tsv"))
    data = Converted(corpus, queries, {path.stem: read_qrels(path, queries, corpus) for path in paths})
    mined, labelled = source / "hard-negatives.jsonl", source / "gpl-training-data.tsv"
    if mined.exists():
        for number, row in read_jsonl(mined):
            query_id, miners = row.get("qid"), row.get("neg")
            if not isinstance(miners, dict) or str(query_id) not in queries:
                raise InputError(f"{mined}, line {number}: expected qid, one of the queries, and neg, IDs by retriever")
            for miner, ids in miners.items():
                add_negatives(data, str(query_id), miner, map(str, ids))
    elif labelled.exists():
        # query, positive, negative, margin: the negative with the smallest margin is the hardest
        rows = [row for row in _tsv(labelled, 4) if row[0] in queries]
        for query_id, _, doc_id, _ in sorted(rows, key=lambda row: float(row[3])):
            add_negatives(data, query_id, "gpl", [doc_id])
    return data


# ---- InPars


def _inpars_files(source: Path) -> tuple[list[Path], list[Path]]:
    """Generated queries, and triples of texts."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    rows = [p for p in files if p.suffix == ".jsonl" and {"query", "doc_id"} <= _first_record(p).keys()]
    return rows, [p for p in files if p.suffix == ".tsv" and len(_first_line(p).split("\t")) == 3 and _is_triples(p)]


def _is_triples(path: Path) -> bool:
    # topics and qrels are tables of short fields, too
    return len(_first_line(path).split("\t")[2].split()) >= 3


def _read_inpars(source: Path) -> Converted:
    generated, triples = _inpars_files(source)
    given = source / "corpus.jsonl" if source.is_dir() else source.parent / "corpus.jsonl"
    corpus = read_corpus(given) if given.exists() and given not in generated else {}
    data = Converted(corpus, {}, {"train": {}})
    for path in generated:
        for number, row in read_jsonl(path):
            doc_id, text = str(row.get("doc_id")), " ".join(str(row.get("query") or "").split())
            if doc_id not in corpus:
                if not (document := row.get("doc_text")):
                    raise InputError(
                        f"{path}, line {number}: the document {doc_id!r} has no doc_text; put the corpus.jsonl"
                        " beside the file"
                    )
                corpus[doc_id] = Document(doc_id, str(document).strip())
            if text:
                add_pair(data, text, doc_id)
            else:
                data.leave_out("lines without a query")
    by_text = {_line(document.content): i for i, document in corpus.items()}
    by_text |= {_line(document.text): i for i, document in corpus.items()}
    for path in triples:
        for text, positive, negative in _tsv(path, 3):
            ids = [by_text.setdefault(_line(t), text_id(t)) for t in (positive, negative)]
            for doc_id, document in zip(ids, (positive, negative), strict=True):
                corpus.setdefault(doc_id, Document(doc_id, document.strip()))
            add_negatives(data, add_pair(data, " ".join(text.split()), ids[0]), "bm25", ids[1:])
    return data


def _line(text: str) -> str:
    return text.replace("\n", " ").strip()


# ---- NVIDIA


def _read_nvidia_exported(source: Path) -> Converted:
    rows = read_parquet(source / "corpus" / "train.parquet")
    corpus = {str(row["id"]): Document(str(row["id"]), row["text"]) for row in rows}
    data = Converted(corpus, {}, {"train": {}, "dev": {}, "test": {}})
    for name, split in (("train", "train"), ("val", "dev")):
        path = source / f"{name}.json"
        for row in _json(path).get("data", []) if path.exists() else []:
            query_id, positives = str(row["question_id"]), [str(d["id"]) for d in row["pos_doc"]]
            if unknown := [i for i in positives if i not in corpus]:
                raise InputError(f"{path}: {query_id}: pos_doc {unknown[0]!r} is not in corpus/train.parquet")
            data.queries[query_id] = Query(query_id, row["question"])
            data.splits[split][query_id] = dict.fromkeys(positives, 1)
            if negatives := [str(d["id"]) for d in row.get("neg_doc") or []]:
                add_negatives(data, query_id, "nvidia", negatives)
    evaluated = source / "eval_beir"
    if (evaluated / "corpus.jsonl").exists():  # its documents have other IDs and the same texts
        held_out, by_text = _read_beir(evaluated), {document.text: i for i, document in corpus.items()}
        place = {i: by_text.get(d.text) or by_text.get(d.content) for i, d in held_out.corpus.items()}
        for query_id, grades in held_out.splits.get("test", {}).items():
            if all(place[i] for i in grades):
                name = f"test-{query_id}"
                data.queries[name] = Query(name, held_out.queries[query_id].text, held_out.queries[query_id].metadata)
                data.splits["test"][name] = {place[i]: grade for i, grade in grades.items()}
            else:
                data.leave_out("test queries whose document is not in the corpus")
    return data


def _generated_files(source: Path) -> list[Path]:
    """The files of generated records: the first kind of which there is any, as the toolkit itself looks for them."""
    if source.is_file():
        return [source] if source.suffix in (".json", ".jsonl", ".parquet") else []
    kinds = (sorted(source.glob(pattern)) for pattern in ("*.jsonl", "generated_batch*.json", "*.json", "*.parquet"))
    return next(filter(None, kinds), [])


def _is_nvidia_generated(source: Path) -> bool:
    files = _generated_files(source)
    return bool(files) and {"chunks", "deduplicated_qa_pairs"} <= _first_record(files[0]).keys()


def _read_nvidia_generated(source: Path, min_quality: float) -> Converted:
    data = Converted({}, {}, {"train": {}})
    for path in _generated_files(source):
        for number, record in enumerate(_records(path), start=1):
            names = record.get("file_name") or [path.stem]
            names = [names] if isinstance(names, str) else list(names)
            texts = {chunk["chunk_id"]: chunk for chunk in record.get("chunks") or [] if chunk.get("text")}
            for chunk in texts.values():
                doc_id, of = text_id(chunk["text"]), chunk.get("doc_path") or chunk.get("doc_id") or "+".join(names)
                metadata = {"chunk_of": str(of), "start": int(chunk.get("start") or 0)}
                data.corpus.setdefault(doc_id, Document(doc_id, chunk["text"], metadata=metadata))
            pairs = record.get("deduplicated_qa_pairs") or []
            scores = (record.get("qa_evaluations") or {}).get("evaluations") or []
            if len(pairs) != len(scores):
                data.leave_out("records with other numbers of pairs and of judgements")
                continue
            for place, (pair, score) in enumerate(zip(pairs, scores, strict=True)):
                key = f"{path.name}/{number}/{place}"
                _add_judged(data, key, pair, score, {i: text_id(c["text"]) for i, c in texts.items()}, min_quality)
    return data


def _add_judged(
    data: Converted,
    key: str,
    pair: Mapping[str, Any],
    score: Mapping[str, Any],
    ids: Mapping[int, str],
    min_quality: float,
) -> None:
    segments = list(pair.get("segment_ids") if pair.get("segment_ids") is not None else [])
    if float((score.get("overall") or {}).get("score") or 0) < min_quality:
        data.leave_out("pairs below the quality")
    elif not pair.get("question") or not segments or not all(segment in ids for segment in segments):
        data.leave_out("pairs without question or segments")
    else:
        query_id = "q" + hashlib.sha256(key.encode()).hexdigest()[:16]
        metadata = {name: pair[name] for name in _PAIR_METADATA if pair.get(name) is not None}
        data.queries[query_id] = Query(query_id, pair["question"], metadata)
        data.splits["train"][query_id] = {ids[segment]: 1 for segment in segments}


# ---- files


def _tsv(path: Path, columns: int) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
            if len(row) != columns:
                raise InputError(f"{path}, line {number}: expected {columns} columns, found {len(row)}")
            yield row


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _records(path: Path) -> Sequence[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [row for _, row in read_jsonl(path)]
    rows = read_parquet(path) if path.suffix == ".parquet" else _json(path)
    return rows if isinstance(rows, list) else [rows]


def _first_record(path: Path) -> dict[str, Any]:
    """Empty where there is none."""
    try:
        record = next((row for _, row in read_jsonl(path)) if path.suffix == ".jsonl" else iter(_records(path)), {})
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n")


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[..., Converted], str]] = {
    "GPL": (
        lambda p: (p / "corpus.jsonl").exists() and _gpl_prefix(p) is not None,
        _read_gpl,
        "a folder with corpus.jsonl, qgen-queries.jsonl and qgen-qrels/train.tsv",
    ),
    "BEIR": (
        lambda p: all((p / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels")),
        _read_beir,
        "a folder with corpus.jsonl, queries.jsonl and qrels/",
    ),
    "NVIDIA, converted": (
        lambda p: (p / "train.json").exists() and (p / "corpus" / "train.parquet").exists(),
        _read_nvidia_exported,
        "a folder with train.json and corpus/train.parquet",
    ),
    "NVIDIA, generated": (
        _is_nvidia_generated,
        _read_nvidia_generated,
        "a .json, .jsonl or .parquet file, or a folder of them, whose records have chunks and deduplicated_qa_pairs",
    ),
    "datasets": (
        is_dataset,
        read_dataset,
        "a folder of datasets: saved by save_to_disk, or with .parquet files, whose columns are anchor and positive"
        " (and negative, ...), or one with corpus, queries and qrels as such files",
    ),
    "InPars": (
        lambda p: any(_inpars_files(p)),
        _read_inpars,
        "a .jsonl file with query, doc_id and doc_text, a .tsv file with query, positive and negative as texts, or a"
        " folder of them, with corpus.jsonl at will",
    ),
}
"""Name of a layout to whether a path has it, what reads it, and how a person recognises it."""
