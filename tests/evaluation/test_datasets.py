import hashlib
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sharpen.evaluation import datasets
from sharpen.evaluation.beir import Document, Query, read_corpus, write_corpus, write_qrels, write_queries
from sharpen.evaluation.datasets import CQADUPSTACK_PARTS, Task, find_dataset, load_task, load_tasks, read_judged
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.base import search_task
from sharpen.evaluation.retrievers.bm25 import BM25


def _error(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def test_datasets_are_found_by_name_and_offline_says_where_to_put_them(tmp_path: Path, dataset: Path, monkeypatch):
    monkeypatch.setenv("SHARPEN_DATA", str(dataset.parent))
    assert find_dataset("topics") == dataset
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SHARPEN_CACHE", str(tmp_path / "cache"))
    message = _error(find_dataset, "dbpedia-entity")
    assert "dbpedia-entity/ (corpus.jsonl" in message and str(dataset.parent) in message
    assert "HF_HUB_OFFLINE" in _error(find_dataset, "NanoNQ") and "HF_HUB_OFFLINE" in _error(
        find_dataset, "cqadupstack/tex"
    )
    assert "did you mean scifact?" in _error(find_dataset, "scifakt")
    assert "did you mean NanoSciFact?" in _error(find_dataset, "NanoScifact")
    assert "given away by its owners only; put the folder bioasq/" in _error(find_dataset, "bioasq")
    assert "as cqadupstack/android" in _error(find_dataset, "cqadupstack")
    assert "no dataset there" in _error(find_dataset, str(tmp_path / "nothing"))


def test_a_dataset_is_fetched_once_and_a_broken_download_leaves_nothing(tmp_path: Path, dataset: Path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    dataset.rename(served / "quora")
    shutil.make_archive(str(served / "quora"), "zip", served, "quora")
    (served / "fiqa.zip").write_bytes((served / "quora.zip").read_bytes()[:500])
    monkeypatch.setitem(datasets.BEIR_DATASETS, "quora", hashlib.md5((served / "quora.zip").read_bytes()).hexdigest())
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("SHARPEN_CACHE", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets, "BEIR_SERVER", f"http://127.0.0.1:{server.server_port}")
        folder = find_dataset("quora")
        assert len(read_corpus(folder / "corpus.jsonl")) == 12
        assert "its MD5 sum is" in _error(find_dataset, "fiqa") and datasets.BEIR_DATASETS["nq"] in _error(
            find_dataset, "nq"
        )
        server.shutdown()
    assert "could not be fetched" in _error(find_dataset, "nq")
    assert find_dataset("quora") == folder
    assert [p.name for p in folder.parent.iterdir()] == ["quora"]


def test_nanobeir_is_read_by_the_datasets_library_and_kept_as_a_folder(tmp_path: Path, monkeypatch):
    """From a folder with the layout that it has on the hub."""
    from datasets import Dataset

    hub = tmp_path / "NanoNQ"
    rows = {
        "corpus": {"_id": ["d1", "d2"], "text": ["bread", "ice"]},
        "queries": {"_id": ["q1"], "text": ["what to bake"]},
        "qrels": {"query-id": ["q1"], "corpus-id": ["d1"]},
    }
    for part, columns in rows.items():
        (hub / part).mkdir(parents=True)
        Dataset.from_dict(columns).to_parquet(hub / part / "train-00000-of-00001.parquet")
    configs = "".join(
        f"- config_name: {part}\n  data_files:\n  - split: train\n    path: {part}/train-*\n" for part in rows
    )
    (hub / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.setitem(datasets.NANOBEIR, "NanoNQ", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("SHARPEN_CACHE", str(tmp_path / "cache"))
    task = load_task("NanoNQ")
    assert task.name == "NanoNQ, split test" and task.qrels == {"q1": {"d1": 1}} and task.corpus["d2"].text == "ice"
    shutil.rmtree(hub)
    assert load_task("NanoNQ").texts == {"q1": "what to bake"}


def test_cqadupstack_is_twelve_collections(tmp_path: Path, dataset: Path, monkeypatch):
    for part in CQADUPSTACK_PARTS:
        shutil.copytree(dataset, tmp_path / "all" / "cqadupstack" / part)
    monkeypatch.setenv("SHARPEN_DATA", str(tmp_path / "all"))
    assert [t.name for t in load_tasks("cqadupstack")] == [
        f"cqadupstack/{part}, split test" for part in CQADUPSTACK_PARTS
    ]
    assert find_dataset("cqadupstack/gis") == tmp_path / "all" / "cqadupstack" / "gis"


def test_a_query_does_not_find_itself_and_an_empty_document_is_one(tmp_path: Path):
    """As of ArguAna and Quora, where queries stand in the corpus, and of collections with documents without a text."""
    write_corpus(
        tmp_path / "corpus.jsonl",
        {
            i: Document(i, t)
            for i, t in {"a": "to bake bread", "b": "bread is baked hot", "c": "", "d": "ice and snow"}.items()
        },
    )
    write_queries(tmp_path / "queries.jsonl", [Query("a", "to bake bread")])
    write_qrels(tmp_path / "qrels" / "test.tsv", {"a": {"b": 1}})
    task = load_task(str(tmp_path))
    assert len(task.corpus) == 4 and list(search_task(task, BM25(task.corpus))["a"]) == ["b"]


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.jsonl"])
def test_a_file_of_questions(tmp_path: Path, corpus, name: str):
    ids = list(corpus)[:2]
    rows = [("how long, roughly?", ids[0], 2), ("how long, roughly?", ids[1], 1), ("another one", ids[1], 1)]
    separator = "\t" if name == "q.tsv" else ","
    lines = {"q.jsonl": [f'{{"question": "{q}", "document": "{d}", "grade": {g}}}' for q, d, g in rows]}.get(
        name,
        [f"question{separator}document{separator}grade", *(f'"{q}"{separator}{d}{separator}{g}' for q, d, g in rows)],
    )
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    task = load_task(str(tmp_path / name), corpus=corpus)
    assert task.name == name and task.texts == {"q1": "how long, roughly?", "q2": "another one"}
    assert (
        task.qrels == {"q1": {ids[0]: 2, ids[1]: 1}, "q2": {ids[1]: 1}} == read_judged(str(tmp_path / name), "any")[1]
    )
    alone = load_task(str(tmp_path / name))  # the documents are texts then
    assert sorted(d.text for d in alone.corpus.values()) == sorted(ids) and set(alone.qrels["q1"].values()) == {1, 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,text\na,b\n", "line 1: the header lacks document"),
        ("question,document\na,\n", "line 2: expected a question and a document"),
        ("question,document\n", "no question"),
        ("question,document,grade\na,b,c\n", "line 2: grade"),
        ("question,document\na,nowhere\n", "line 2: document 'nowhere' is not in the corpus"),
        ("", "line 1: the header lacks document, question"),
    ],
)
def test_bad_files_of_questions(tmp_path: Path, corpus, text: str, message: str):
    (tmp_path / "q.csv").write_text(text)
    assert message in _error(load_task, str(tmp_path / "q.csv"), "test", corpus)
    assert "no such file" in _error(load_task, str(tmp_path / "none.csv"))


def test_a_folder_without_a_corpus_needs_one(tmp_path: Path, dataset: Path):
    (dataset / "corpus.jsonl").unlink()
    assert "no other corpus to search was given" in _error(load_task, str(dataset))


def test_a_task_of_ones_own(corpus):
    chunks = [Document(f"{i}/{n}", d.text, metadata={"chunk_of": i}) for i, d in corpus.items() for n in range(2)]
    queries = [Query("q1", "dough", {"positives": ["bread/1"]}), Query("q2", "nothing answers this")]
    task = Task(chunks, queries)
    assert list(task.queries) == ["q1"] and task.qrels == {"q1": {"bread": 1}} and task.groups == {"q1": "bread"}
    assert next(iter(search_task(task, BM25(task.corpus))["q1"])) == "bread"
    exact = Task(corpus=task.corpus, queries=queries, by_document=False, name="chunks")
    assert exact.qrels == {"q1": {"bread/1": 1}} and "bread/1" in search_task(exact, BM25(exact.corpus))["q1"]
    with pytest.raises(InputError, match="none: no query has a relevant document"):
        Task(corpus, queries[1:], name="none")


def test_a_task_searches_the_corpus_that_it_was_given_so_that_its_index_is_found_again(corpus):
    from sharpen.evaluation.encoders.settings import Encoder
    from sharpen.evaluation.models import Models

    task = Task(corpus, [Query("q", "flat tyre")], {"q": {"bicycle": 1}})
    models = Models(Encoder(model="packaged:tiny-bert"))
    assert task.corpus is corpus and models.index(task.corpus) is models.index(corpus)
