"""Maps over rows, whose results are kept."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders import precision as of_precision
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.evaluation.partitions import kept as kept_rows
from sharpen.evaluation.partitions.contract import Task
from sharpen.evaluation.partitions.kept import KeptRows, Partitions, row_keys
from sharpen.evaluation.partitions.local import LocalEngine
from sharpen.evaluation.partitions.models import encode_documents, nearest_in_parts, score_in_parts
from sharpen.evaluation.partitions.settings import EngineSettings
from sharpen.evaluation.truncation import collect_truncations

WORDS = ["kiln", "glaze", "ice", "river", "bread", "salt", "lava", "ash", "guitar", "string", "paper", "ink"]
CORPUS = {f"d{n}": Document(f"d{n}", f"{w} {WORDS[n - 3]} {WORDS[n - 7]}") for n, w in enumerate(WORDS)}
BASE = Encoder(model="packaged:tiny-bert")
QUERIES = {word: f"about {word}" for word in WORDS[:5]}


@dataclass
class Lengths:
    name: ClassVar[str] = "lengths"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    outputs: ClassVar[tuple[str, ...]] = ("length",)
    bad: str = ""
    batch_size: int | None = 2
    seen: list[list[str]] = field(default_factory=list)

    def fingerprint(self) -> None:
        return None

    def setup(self) -> None:
        pass

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = table["text"].to_pylist()
        if self.bad in texts:
            raise InputError(f"{self.bad} is bad")
        self.seen.append(texts)
        return pa.table({"length": [len(text) for text in texts]})


def lengths(partitions: Partitions, texts: list[str], bad: str = "") -> tuple[list[int], list[list[str]]]:
    to_do = Lengths(bad=bad)
    kept = partitions.map(to_do, row_keys(texts), lambda numbers: pa.table({"text": [texts[n] for n in numbers]}))
    return kept.column("length"), to_do.seen


@pytest.fixture
def partitions(tmp_path: Path) -> Partitions:
    return Partitions(LocalEngine(), tmp_path / "partitions", rows=3)


def test_only_what_is_new_is_computed_and_copies_once(partitions: Partitions):
    assert lengths(partitions, ["a", "bb", "a", "ccc"]) == ([1, 2, 1, 3], [["a", "bb"], ["ccc"]])
    assert lengths(partitions, ["ccc", "dddd", "a", "bb"]) == ([3, 4, 1, 2], [["dddd"]])
    assert lengths(partitions, ["bb", "a"]) == ([2, 1], [])
    assert lengths(partitions, []) == ([], [])


def test_what_was_finished_before_an_error_is_kept(partitions: Partitions):
    texts = [letter * n for n, letter in enumerate("abcdefgh", start=1)]
    with pytest.raises(InputError, match="fffff is bad"):
        lengths(partitions, texts, bad="f" * 6)
    values, seen = lengths(partitions, texts)
    assert values == list(range(1, 9)) and [text for batch in seen for text in batch] == texts[3:]


def test_a_shard_that_a_disk_has_spoilt_is_computed_again(partitions: Partitions):
    lengths(partitions, ["a", "bb"])
    (path,) = partitions.folder.rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert lengths(partitions, ["a", "bb"]) == ([1, 2], [["a", "bb"]])


class Nobody:
    """An engine that does nothing, and what it was given."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def run(self, _to_do, tasks, _advance) -> None:
        self.tasks += tasks


def test_rows_that_were_computed_and_are_not_there_are_an_error(tmp_path: Path):
    lengths(Partitions(LocalEngine(), tmp_path), ["a", "bb"])
    with pytest.raises(InputError, match="1 rows were computed and are not there"):
        lengths(Partitions(Nobody(), tmp_path), ["a", "ccc"])


def test_what_is_missing_is_what_the_first_process_misses(partitions: Partitions, monkeypatch):
    lengths(partitions, ["a", "bb", "ccc", "dddd"])
    # it looked before another program wrote
    looks = iter([(), None])
    monkeypatch.setattr(kept_rows, "from_main", lambda value: value if (seen := next(looks)) is None else seen)
    nobody = Nobody()
    assert lengths(Partitions(nobody, partitions.folder, rows=3), ["a", "bb", "ccc", "dddd"]) == ([1, 2, 3, 4], [])
    assert len(nobody.tasks) == 2 and all(task.is_done for task in nobody.tasks)


def test_results_of_other_settings_are_others(partitions: Partitions):
    lengths(partitions, ["a"])

    class Twice(Lengths):
        def fingerprint(self):
            return "twice"

        def __call__(self, table: pa.Table) -> pa.Table:
            return pa.table({"length": [2 * len(text) for text in table["text"].to_pylist()]})

    kept = partitions.map(Twice(), row_keys(["a"]), lambda _numbers: pa.table({"text": ["a"]}))
    assert kept.column("length") == [2]


def test_an_index_in_parts_is_the_index_in_memory(partitions: Partitions):
    whole, parts = Models(BASE).index(CORPUS), Models(BASE, partitions=partitions).index(CORPUS)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-5)
    assert len(list(partitions.folder.rglob("*.parquet"))) == 4
    for word, found in parts.search(QUERIES, 4).items():
        assert list(found) == list(whole.search(QUERIES, 4)[word])


def test_a_search_in_parts_finds_what_one_in_memory_does(partitions: Partitions):
    whole = Models(BASE).index(CORPUS).search(QUERIES, 4)
    parts = Models(BASE, partitions=partitions).search_in_parts(QUERIES, CORPUS, 4)
    assert parts.keys() == whole.keys()
    for word, found in whole.items():
        assert list(parts[word]) == list(found)
        assert list(parts[word].values()) == pytest.approx(list(found.values()), abs=1e-5)
    assert not list(partitions.folder.glob("nearest-*/*")) and not list(partitions.folder.glob("queries-*"))


def test_what_has_no_token_is_not_found(partitions: Partitions, tmp_path: Path):
    vectors = np.array([[-1, 0], [0, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 2)
    pq.write_table(pa.table({"vector": column}), path := tmp_path / "vectors.parquet")
    kept = KeptRows((path,), np.zeros(4, dtype=np.int32), np.arange(4))
    scores, rows = nearest_in_parts(partitions, np.array([[1, 0]], dtype=np.float32), kept, 4)
    assert rows.tolist() == [[3, 2, 0, -1]] and scores[0, :3].tolist() == pytest.approx([0.6, 0, -1])


def test_a_grown_corpus_is_encoded_as_far_as_it_is_new(partitions: Partitions):
    models = Models(BASE, partitions=partitions)
    models.index(CORPUS)
    before = set(partitions.folder.rglob("*.parquet"))
    grown = {"new": Document("new", "a text that was not there")} | CORPUS
    vectors = models.index(grown).vectors
    (added,) = set(partitions.folder.rglob("*.parquet")) - before
    assert len(pq.read_table(added)) == 1
    np.testing.assert_allclose(vectors, Models(BASE).index(grown).vectors, atol=1e-5)


def test_what_was_truncated_is_told_of_the_rows_that_are_asked_for(partitions: Partitions):
    base = Encoder(model="packaged:tiny-bert", max_seq_length=4)
    models = Models(base, partitions=partitions)
    models.index({"long": Document("long", "one two three four five six"), "short": Document("short", "one")})
    with collect_truncations() as found:
        models.index({"short": Document("short", "one")})
    assert found.all() == []
    corpus = {"x": Document("x", "one two three four five six"), "y": Document("y", "two")}
    with collect_truncations() as parts:
        models.index(corpus)
    with collect_truncations() as whole:
        Models(base).index(corpus)
    assert parts.all() == whole.all() != []


def test_scores_in_parts_are_those_in_memory(partitions: Partitions, tmp_path: Path):
    model = str(tmp_path / "cross-encoder")
    load_cross_encoder("packaged:tiny-bert", new_head=True).save_pretrained(model)
    queries = {q: Query(q, text) for q, text in QUERIES.items()}
    pairs = [(q, i) for q in queries for i in list(CORPUS)[:4]]
    whole = Models().score(model, pairs, queries, CORPUS)
    parts = Models(partitions=partitions).score(model, pairs[:7], queries, CORPUS)
    parts |= Models(partitions=partitions).score(model, pairs, queries, CORPUS)
    assert parts == {pair: pytest.approx(score, abs=1e-5) for pair, score in whole.items()}
    assert sum(len(pq.read_table(path)) for path in partitions.folder.rglob("*.parquet")) == len(pairs)


def test_workers_compute_in_the_precision_that_their_results_are_kept_by(tmp_path: Path, monkeypatch):
    class Look(Nobody):
        def run(self, to_do, _tasks, _advance) -> None:
            raise InputError(str(getattr(to_do, "encoder", to_do).precision))

    for has_it, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(of_precision, "has_bf16", lambda _device, has_it=has_it: has_it)
        partitions = Partitions(Look(), tmp_path)
        for call in (
            lambda to=partitions: encode_documents(to, CORPUS, BASE, lambda _rows: None),
            lambda to=partitions: score_in_parts(to, "packaged:tiny-bert", "auto", [("a", "b")], lambda _rows: None),
        ):
            with pytest.raises(InputError, match=f"^{precision}$"):
                call()


def test_bm25_in_parts_finds_what_one_search_does(partitions: Partitions, tmp_path: Path):
    queries = QUERIES | {"none": "nothing of it", "empty": ""}
    whole = Models().search_bm25(queries, CORPUS, 4)
    parts = Models(partitions=partitions, indexes=tmp_path / "indexes").search_bm25(queries, CORPUS, 4)
    assert parts == whole and list(map(list, parts.values())) == list(map(list, whole.values()))
    assert whole["kiln"] and not whole["none"]
    assert len(list(partitions.folder.glob("bm25-*/*.parquet"))) == 3


def test_an_engine_is_named_or_has_settings_that_fit_it(monkeypatch):
    assert EngineSettings.model_validate("ray").kind == "ray" and EngineSettings(rows=5).fingerprint() == {}
    with pytest.raises(ValidationError, match="gpus is of the engine ray"):
        EngineSettings(gpus=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'sharpen\[ray\]'"):
        EngineSettings.model_validate("ray").check()
    EngineSettings().check()
