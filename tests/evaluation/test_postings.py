"""BM25's index: the scores of bm25s, in shards as in one piece, built once and mapped."""

import random
import tracemalloc
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import bm25s
import numpy as np
import pytest
from bm25s.tokenization import Tokenized

from sharpen.evaluation.beir import Document
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers import bm25
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.postings import KEPT, MappedWords, build_postings


def texts(documents, words=12, vocabulary=300, seed=13):
    """Words as frequent as in any language, some documents without a word."""
    rng = random.Random(seed)
    weights = list(accumulate(1 / (n + 1) for n in range(vocabulary)))
    names = [f"wörd{n}" if n % 7 else f"w{n}" for n in range(vocabulary)]
    return [rng.choices(names, cum_weights=weights, k=rng.randrange(words)) for _ in range(documents)]


def corpus_of(documents, **options):
    return {
        f"d{n}": Document(f"d{n}", " ".join(text), metadata={"language": "en"})
        for n, text in enumerate(texts(documents, **options))
    }


def test_scores_are_those_of_bm25s_to_the_bit():
    given = texts(500)
    postings = build_postings(given, k1=0.9, b=0.4)
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    ids = [[postings.rows[word] for word in text] for text in given]
    index.index(Tokenized(ids=ids, vocab=dict(postings.rows)), show_progress=False)
    assert np.array_equal(postings.scores.data, index.scores["data"])
    assert np.array_equal(postings.scores.indices, index.scores["indices"])
    assert np.array_equal(postings.scores.indptr, index.scores["indptr"])


@pytest.mark.parametrize("shard", [100, 1000])
def test_shards_make_the_same_index_as_one_piece(tmp_path, shard):
    given = texts(300)
    whole = build_postings(given, k1=0.9, b=0.4)
    for folder in (None, tmp_path):
        parts = build_postings(iter(given), k1=0.9, b=0.4, folder=folder, shard=shard)
        for name in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(parts.scores, name), getattr(whole.scores, name))
        assert {word: parts.rows.get(word) for word in whole.rows} == whole.rows
        assert parts.rows.get("nowhere") is None and len(parts.rows) == len(whole.rows)


def test_a_shard_bounds_the_memory_of_building(tmp_path):
    def peak(shard):
        folder = tmp_path / str(shard)
        folder.mkdir()
        tracemalloc.start()
        build_postings(iter(given), k1=0.9, b=0.4, folder=folder, shard=shard)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    given = texts(3000, words=40)
    assert peak(2000) < peak(10**6) / 5


def test_an_index_on_disk_gives_the_same_run_and_is_mapped(tmp_path):
    corpus = corpus_of(400)
    queries = {f"q{n}": " ".join(text) for n, text in enumerate(texts(20, seed=14))} | {"none": "", "?": "zzz"}
    in_memory = BM25(corpus)
    for _ in range(2):  # the second one is mapped
        on_disk = BM25(corpus, indexes=tmp_path)
        assert list(map(list, on_disk.search(queries, 10).values())) == [
            list(found) for found in in_memory.search(queries, 10).values()
        ]
        assert on_disk.search(queries, 10) == in_memory.search(queries, 10)
    assert isinstance(on_disk._rows, MappedWords)
    assert not on_disk._scores.data.flags.writeable  # a view of the file, not a copy of it
    assert [path.suffix for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.name != ".lock"] == [
        ".npy"
    ] * 7


def test_documents_without_a_word_make_an_index_that_finds_nothing(tmp_path):
    corpus = {"a": Document("a", "the of and"), "b": Document("b", "?!")}
    for _ in range(2):
        assert BM25(corpus, indexes=tmp_path).search({"q": "what is the"}, 3) == {"q": {}}


def test_another_text_language_or_setting_is_another_index(tmp_path):
    corpus = corpus_of(20)
    changed = corpus | {"d3": Document("d3", "something else")}
    BM25(corpus, indexes=tmp_path)
    assert len(folders(tmp_path)) == 1
    BM25({f"other {i}": document for i, document in corpus.items()}, indexes=tmp_path)  # other IDs, the same index
    assert len(folders(tmp_path)) == 1
    for given, options in ((changed, {}), (corpus, {"language": "none"}), (corpus, {"b": 0.5})):
        before = folders(tmp_path)
        BM25(given, indexes=tmp_path, **options)
        assert len(folders(tmp_path)) == len(before) + 1
    BM25(corpus, indexes=tmp_path)
    BM25(corpus, k1=2.0, indexes=tmp_path)  # the fifth: the one that was used longest ago goes
    assert len(folders(tmp_path)) == KEPT and len(folders(tmp_path) & before) == 2


def folders(path: Path) -> set[str]:
    return {p.name for p in path.iterdir() if p.is_dir()}


def test_what_is_not_whole_is_built_again_and_never_left_behind(tmp_path, monkeypatch):
    corpus = corpus_of(30)
    expected = BM25(corpus).search({"q": "w0 w7"}, 5)
    BM25(corpus, indexes=tmp_path)
    (scores,) = tmp_path.glob("bm25-*/scores.npy")
    scores.write_bytes(scores.read_bytes()[:-8])
    assert BM25(corpus, indexes=tmp_path).search({"q": "w0 w7"}, 5) == expected

    def stopped(terms, k1, b, folder):
        build_postings(terms, k1, b, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(bm25, "build_postings", stopped)
    with pytest.raises(KeyboardInterrupt):
        BM25(corpus, k1=2.0, indexes=tmp_path)
    assert len(folders(tmp_path)) == 1


def test_models_build_an_index_once_for_all_who_ask(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(bm25, "build_postings", lambda *given: (built.append(given[-1]), build_postings(*given)))
    corpus = corpus_of(30)
    models = Models(indexes=tmp_path)
    first = models.bm25(corpus)
    assert (
        models.bm25(corpus) is models.corpus_scorer("bm25", corpus) is models.with_current(None).bm25(corpus) is first
    )
    again = Models(indexes=tmp_path).bm25(dict(corpus))  # another stage, another process
    assert again.search({"q": "w7"}, 3) == first.search({"q": "w7"}, 3) and len(built) == 1
    models.bm25(corpus, "none")
    assert len(built) == 2


def test_of_several_processes_one_builds(tmp_path):
    with get_context("fork").Pool(3) as pool:
        runs = pool.map(_search, [tmp_path] * 3, chunksize=1)
    assert runs[0] == runs[1] == runs[2] and len((tmp_path / "built").read_text().split()) == 1


def _search(indexes: Path) -> dict:
    def counted(*given):
        with (indexes / "built").open("a") as file:
            file.write("once ")
        return build_postings(*given)

    bm25.build_postings = counted
    return BM25(corpus_of(200), indexes=indexes / "of bm25").search({"q": "w0 w7 w14"}, 10)
