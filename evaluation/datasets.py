"""What is evaluated on: collections by name, folders, and files of questions, each as a ``Task``."""

from __future__ import annotations

import difflib
import hashlib
import os
import random
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sharpen.evaluation.beir import (
    Corpus,
    Document,
    Qrels,
    Queries,
    Query,
    read_corpus,
    read_qrels,
    read_queries,
    text_key,
    write_corpus,
    write_qrels,
    write_queries,
)
from sharpen.evaluation.files import InputError, atomic_folder, cache_folder
from sharpen.evaluation.ids import KnownIds
from sharpen.evaluation.questions import read_questions
from sharpen.evaluation.significance import document_groups

BEIR_SERVER = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
BEIR_DATASETS = {
    "msmarco": "444067daf65d982533ea17ebd59501e4",
    "trec-covid": "ce62140cb23feb9becf6270d0d1fe6d1",
    "nfcorpus": "a89dba18a62ef92f7d323ec890a0d38d",
    "nq": "d4d3d2e48787a744b6f6e691ff534307",
    "hotpotqa": "f412724f78b0d91183a0e86805e16114",
    "fiqa": "17918ed23cd04fb15047f73e6c3bd9d9",
    "arguana": "8ad3e3c2a5867cdced806d6503f29b99",
    "webis-touche2020": "46f650ba5a527fc69e0a6521c5a23563",
    "cqadupstack": "4e41456d7df8ee7760a7f866133bda78",
    "quora": "18fb154900ba42a600f84b839c173167",
    "dbpedia-entity": "c2a39eb420a3164af735795df012ac2c",
    "scidocs": "38121350fc3a4d2f48850f6aff52e4a9",
    "fever": "5a818580227bfb4b35bb6fa46d9b6c03",
    "climate-fever": "8b66f0a9126c521bae2bde127b4dc99d",
    "scifact": "5f7d1de60b170fc8027bb7898e2efca1",
}
"""Those that its server gives away, and the MD5 sums of the archives that it publishes beside them."""
CQADUPSTACK = "cqadupstack"
CQADUPSTACK_PARTS = (
    "android",
    "english",
    "gaming",
    "gis",
    "mathematica",
    "physics",
    "programmers",
    "stats",
    "tex",
    "unix",
    "webmasters",
    "wordpress",
)
LICENSED = ("bioasq", "signal1m", "trec-news", "robust04")
"""Collections of BEIR that only their owners give away."""
NANOBEIR = {
    f"Nano{name}": f"zeta-alpha-ai/Nano{name}"
    for name in (
        "ArguAna",
        "ClimateFEVER",
        "DBPedia",
        "FEVER",
        "FiQA2018",
        "HotpotQA",
        "MSMARCO",
        "NFCorpus",
        "NQ",
        "QuoraRetrieval",
        "SCIDOCS",
        "SciFact",
        "Touche2020",
    )
}
"""The thirteen small ones, with 50 queries each, and where the hub has them."""

Unknown = Literal["error", "drop"]
"""What to do with qrels of documents that the corpus lacks."""


@dataclass(frozen=True, eq=False)
class Task:
    """A corpus to search, queries, and which documents answer them.

    ``corpus`` and ``queries``: by ID, or any iterable of ``Document`` and ``Query``. ``qrels``: query ID to document ID
    to grade; None: the IDs in each query's ``metadata["positives"]``, with grade 1. Queries without a relevant document
    are left out. ``by_document``: qrels name documents, and a document that was cut into chunks has the score of its
    best chunk; False: qrels name chunks, and chunks are ranked. Raises ``InputError`` if no query is left.

    >>> task = Task([Document("d1", "Ice flows downhill.")], [Query("q1", "glacier")], {"q1": {"d1": 1}}, name="ice")
    >>> task.name, task.texts, task.qrels
    ('ice', {'q1': 'glacier'}, {'q1': {'d1': 1}})
    """

    corpus: Corpus
    queries: Queries
    qrels: Qrels | None = None
    name: str = "task"
    by_document: bool = True

    def __post_init__(self) -> None:
        corpus, queries = _by_id(self.corpus), _by_id(self.queries)
        qrels = self.qrels
        if qrels is None:
            qrels = {q.id: dict.fromkeys(q.metadata.get("positives", ()), 1) for q in queries.values()}
        if self.by_document:
            qrels = {q: _by_document(grades, corpus) for q, grades in qrels.items()}
        judged = {q: grades for q, grades in qrels.items() if any(g > 0 for g in grades.values())}
        qrels = {q: grades for q, grades in judged.items() if q in queries}
        if judged and not qrels:
            raise InputError(
                f"{self.name}: none of the judged queries (as {next(iter(judged))!r}) is among the queries, which are"
                f" {KnownIds(queries).first()}"
            )
        if not qrels:
            raise InputError(f"{self.name}: no query has a relevant document; nothing can be measured with it")
        known = known_ids(corpus)
        if not any(g > 0 and d in known for grades in qrels.values() for d, g in grades.items()):
            raise InputError(f"{self.name}: none of the judged documents{_unlike(qrels, KnownIds(known))}")
        for name, value in (("corpus", corpus), ("queries", {q: queries[q] for q in qrels}), ("qrels", qrels)):
            object.__setattr__(self, name, value)

    @cached_property
    def groups(self) -> dict[str, str]:
        """Which queries are about the same document, for intervals."""
        return document_groups(self.qrels, self.corpus)

    @property
    def known(self) -> set[str]:
        """IDs that a run may name: of documents and of chunks."""
        return known_ids(self.corpus)

    @property
    def texts(self) -> dict[str, str]:
        """Query ID to text."""
        return {query.id: query.text for query in self.queries.values()}

    def with_documents(self, n: int, seed: int) -> Task:
        """The same with ``n`` of the documents: those that are judged, and others drawn by ``seed``; itself where there
        are no more. Where ``n`` is less than are judged, queries are left out, drawn by seed, too.

        >>> corpus = [Document(i, f"Text {i}.") for i in "abcdef"]
        >>> task = Task(corpus, [Query("q1", "one"), Query("q2", "two")], {"q1": {"e": 1}, "q2": {"f": 1, "a": 0}})
        >>> len(task.with_documents(4, seed=1).corpus), sorted(task.with_documents(3, seed=1).corpus)
        (4, ['a', 'e', 'f'])
        """
        names = {i: d.doc_id if self.by_document else i for i, d in self.corpus.items()}
        if len(set(names.values())) <= n:
            return self
        rng, chosen, kept = random.Random(seed), set(), set()
        for query in rng.sample(sorted(self.qrels), len(self.qrels)):
            judged = chosen | set(self.qrels[query])
            if not kept or len(judged) <= n:
                chosen = judged
                kept.add(query)
        others = sorted(set(names.values()) - chosen)
        chosen |= set(rng.sample(others, max(0, n - len(chosen))))
        corpus = {i: d for i, d in self.corpus.items() if names[i] in chosen}
        qrels = {q: grades for q, grades in self.qrels.items() if q in kept}
        return Task(corpus, self.queries, qrels, self.name, self.by_document)

    def sample(self, n: int, seed: int) -> Task:
        """The same with ``n`` of the queries, drawn by ``seed``; itself where there are no more."""
        if len(self.qrels) <= n:
            return self
        chosen = sorted(random.Random(seed).sample(sorted(self.qrels), n))
        return Task(self.corpus, self.queries, {q: self.qrels[q] for q in chosen}, self.name, self.by_document)


def load_task(
    data: str, split: str = "test", corpus: Corpus | None = None, unknown_documents: Unknown = "error"
) -> Task:
    """Queries that people judged, as a task.

    ``data``: a folder in BEIR layout; the name of a dataset of BEIR (``cqadupstack/<part>`` for one of its twelve) or
    NanoBEIR; or a CSV or JSONL file with ``question``, ``document`` and maybe ``grade``, where a document is an ID of
    ``corpus`` or, without one, the text itself. ``corpus``: what is searched; None: the folder's own. Raises
    ``InputError`` as the readers do, and where none of the judged documents is in the corpus.
    """
    files = judged_files(data, split)
    if corpus is None and "corpus" in files:
        corpus = read_corpus(files["corpus"])
    if corpus is None and "questions" not in files:
        raise InputError(
            f"{files['queries'].parent / 'corpus.jsonl'} is missing, and no other corpus to search was given"
        )
    queries, qrels = read_judged(
        data, split, None if corpus is None or unknown_documents == "drop" else known_ids(corpus)
    )
    if corpus is None:
        ids = {text: text_key(text)[:16] for grades in qrels.values() for text in grades}
        corpus = {i: Document(i, text) for text, i in ids.items()}
        qrels = {q: {ids[text]: grade for text, grade in grades.items()} for q, grades in qrels.items()}
    path = files.get("qrels") or files["questions"]
    known, judged = KnownIds(known_ids(corpus)), qrels
    qrels = {q: {i: g for d, g in grades.items() if (i := known.find(d))} for q, grades in judged.items()}
    known.warn(path, "documents")
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise InputError(f"{path}: none of its documents{_unlike(judged, known)}")
    name = Path(data).name if Path(data).expanduser().exists() else data
    return Task(corpus, queries, qrels, name if "questions" in files else f"{name}, split {split}")


def load_tasks(data: str, split: str = "test") -> list[Task]:
    """``load_task``, but for CQADupStack, which is twelve collections whose means are averaged."""
    names = [f"{CQADUPSTACK}/{part}" for part in CQADUPSTACK_PARTS] if data == CQADUPSTACK else [data]
    return [load_task(name, split) for name in names]


def judged_files(data: str, split: str) -> dict[str, Path]:
    """The files that ``data`` stands for: ``queries``, ``qrels`` and, where it is there, ``corpus``; or ``questions``
    alone."""
    path = Path(data).expanduser()
    if path.is_file() or path.suffix in (".csv", ".tsv", ".jsonl"):
        return {"questions": path}
    folder = path if (path / "queries.jsonl").exists() else find_dataset(data)
    corpus = folder / "corpus.jsonl"
    return {"queries": folder / "queries.jsonl", "qrels": folder / "qrels" / f"{split}.tsv"} | (
        {"corpus": corpus} if corpus.exists() else {}
    )


def read_judged(data: str, split: str, documents: Iterable[str] | None = None) -> tuple[Queries, Qrels]:
    """Queries and qrels alone; ``documents``: all that the qrels may name. Raises ``InputError`` as the readers do."""
    files = judged_files(data, split)
    if "questions" in files:
        return read_questions(files["questions"], documents)
    queries = read_queries(files["queries"])
    return queries, read_qrels(files["qrels"], queries, documents)


def find_dataset(name_or_folder: str) -> Path:
    """The folder of a dataset in BEIR layout, given as a folder or as the name of a dataset of BEIR or NanoBEIR.

    A name is looked for in ``$SHARPEN_DATA``, ``data`` and the cache, and then fetched: BEIR's from
    its public server, and compared with its published sum; NanoBEIR's from the hub. Raises ``InputError`` that says
    where to put the files when there is no network.
    """
    folder = Path(name_or_folder).expanduser()
    if (folder / "corpus.jsonl").is_file():
        return folder
    if found := local_dataset(name_or_folder):
        return found
    first, *rest = folder.parts or ("",)
    part_of_cqadupstack = first == CQADUPSTACK and len(rest) == 1 and rest[0] in CQADUPSTACK_PARTS
    if (folder.exists() or len(folder.parts) > 1) and not part_of_cqadupstack:
        raise InputError(
            f"{folder}: no dataset there; a folder with corpus.jsonl, queries.jsonl and qrels/ is expected"
        )
    where = (
        f"put the folder {name_or_folder}/ (corpus.jsonl, queries.jsonl, qrels/) into one of:"
        f" {', '.join(map(str, _places()))}"
    )
    if name_or_folder == CQADUPSTACK:
        raise InputError(
            f"{CQADUPSTACK} is twelve collections; name one of them, as {CQADUPSTACK}/{CQADUPSTACK_PARTS[0]} (`sharpen"
            " evaluate` takes all of them and averages)"
        )
    if name_or_folder in LICENSED:
        raise InputError(f"{name_or_folder} is given away by its owners only; {where}")
    if name_or_folder in NANOBEIR:
        return _fetch_nano(name_or_folder, cache_folder() / "beir", where)
    if not part_of_cqadupstack and name_or_folder not in BEIR_DATASETS:
        near = difflib.get_close_matches(name_or_folder, [*BEIR_DATASETS, *NANOBEIR], n=1)
        raise InputError(
            f"{name_or_folder}: no such folder, and no dataset of BEIR or NanoBEIR"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    fetched = _fetch_beir(first, cache_folder() / "beir", where)
    if not (fetched.joinpath(*rest) / "corpus.jsonl").is_file():
        raise InputError(f"{fetched.joinpath(*rest)}: no corpus.jsonl there; remove {fetched}, and it is fetched again")
    return fetched.joinpath(*rest)


def local_dataset(name: str) -> Path | None:
    """The folder of a dataset in ``$SHARPEN_DATA``, ``data`` or the cache; None where it would have to be fetched."""
    return next((place / name for place in _places() if (place / name / "corpus.jsonl").is_file()), None)


def _places() -> list[Path]:
    named = [Path(p) for p in os.environ.get("SHARPEN_DATA", "").split(os.pathsep) if p]
    return [*named, Path("data"), cache_folder() / "beir"]


def _fetch_beir(name: str, cache: Path, where: str) -> Path:
    _may_fetch(name, where)
    from beir.util import download_url, unzip

    url = f"{BEIR_SERVER}/{name}.zip"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        # beside the cache first: a download that broke off must not be taken for the dataset
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch:
            archive = Path(scratch) / f"{name}.zip"
            download_url(url, str(archive))
            with archive.open("rb") as file:
                md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if md5 != BEIR_DATASETS[name]:
                raise InputError(
                    f"{url}: its MD5 sum is {md5}, and BEIR publishes {BEIR_DATASETS[name]}: the download broke off,"
                    f" or the file is another one; try again, or {where}"
                )
            unzip(str(archive), scratch)
            return (Path(scratch) / name).rename(cache / name)
    except InputError:
        raise
    except Exception as error:  # requests' errors, or a zip without the folder
        raise InputError(
            f"dataset {name!r} was not found and could not be fetched from {url} ({type(error).__name__}: {error});"
            f" {where}"
        ) from error


def _fetch_nano(name: str, cache: Path, where: str) -> Path:
    _may_fetch(name, where)
    from datasets import load_dataset

    try:
        corpus, queries, qrels = (
            load_dataset(NANOBEIR[name], part, split="train") for part in ("corpus", "queries", "qrels")
        )
    except Exception as error:  # the hub's errors are of many kinds
        raise InputError(
            f"dataset {name!r} was not found and could not be fetched from {NANOBEIR[name]} on the hub"
            f" ({type(error).__name__}: {error}); {where}"
        ) from error
    with atomic_folder(cache / name) as folder:
        write_corpus(folder / "corpus.jsonl", {row["_id"]: Document(row["_id"], row["text"]) for row in corpus})
        write_queries(folder / "queries.jsonl", (Query(row["_id"], row["text"]) for row in queries))
        judged: Qrels = {}
        for row in qrels:
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = 1
        write_qrels(folder / "qrels" / "test.tsv", judged)
    return cache / name


def _may_fetch(name: str, where: str) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise InputError(f"dataset {name!r} was not found, and HF_HUB_OFFLINE forbids to fetch it; {where}")


def _by_id(items: Mapping[str, Any] | Iterable[Any]) -> dict[str, Any]:
    if isinstance(items, dict):  # as it is: whoever has made an index of it finds that again
        return items
    return dict(items) if isinstance(items, Mapping) else {item.id: item for item in items}


def known_ids(corpus: Corpus) -> set[str]:
    """What qrels may name: chunks, and the documents that they are of."""
    return set(corpus) | {d.doc_id for d in corpus.values()}


def _unlike(qrels: Qrels, known: KnownIds) -> str:
    first = next((d for grades in qrels.values() for d in grades), "none")
    return f" (as {first!r}) is in the corpus that is searched, which has {known.first()}; is it of another collection?"


def _by_document(grades: dict[str, int], corpus: Corpus) -> dict[str, int]:
    """Labels of chunks as labels of their documents: by these is ranked, whichever of the two people labelled."""
    result: dict[str, int] = {}
    for i, grade in grades.items():
        doc_id = corpus[i].doc_id if i in corpus else i
        result[doc_id] = max(grade, result.get(doc_id, grade))
    return result
