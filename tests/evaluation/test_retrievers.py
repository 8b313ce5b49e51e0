import re

import numpy as np
import pytest
import torch
from rank_bm25 import BM25Okapi

from sharpen.evaluation.beir import Document
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.encoders.precision import has_bf16, in_precision
from sharpen.evaluation.retrievers import approximate
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense, nearest, nearest_by_torch
from sharpen.evaluation.retrievers.hybrid import Hybrid
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import fuse, ranking
from tests.conftest import cores


@pytest.fixture(scope="module")
def minilm():
    return load_encoder("packaged:all-MiniLM-L6-v2")


def test_bm25_ranks_like_the_reference_implementation(corpus):
    queries = {
        "q1": "knead the dough",
        "q2": "tune the strings of a guitar",
        "q3": "pump up the inner tube of the wheel",
    }
    run = BM25(corpus, k1=1.5, b=0.75, language="none").search(queries, len(corpus))
    # another variant of the idf: the same order where all idf are positive and no term is in most of the documents
    tokens = [re.findall(r"(?u)\b\w\w+\b", d.content.lower()) for d in corpus.values()]
    oracle = BM25Okapi(tokens, k1=1.5, b=0.75)
    for query_id, text in queries.items():
        scores = oracle.get_scores(re.findall(r"(?u)\b\w\w+\b", text.lower()))
        assert ranking(run[query_id])[0] == list(corpus)[int(np.argmax(scores))]


def test_bm25_leaves_out_documents_that_share_no_word_and_stems(corpus):
    assert set(BM25(corpus).search({"q": "volcano erupting"}, 10)["q"]) == {"volcano"}
    assert BM25(corpus).search({"q": "zzz"}, 10) == {"q": {}}


def test_encoding_is_in_order_of_the_texts_and_close_to_float32(minilm):
    texts = [("word " * n).strip() + f" number {n}" for n in (1, 90, 3, 40, 200, 2, 7)]
    by_cores = {}
    for number in (1, 3):
        with cores(number):
            by_cores[number] = encode(minilm, texts, batch_size=3)
            assert torch.get_num_threads() == number
    vectors = by_cores[1]
    assert np.array_equal(by_cores[3], vectors)
    expected = minilm.encode(texts, normalize_embeddings=True)
    assert vectors.dtype == np.float32 and vectors.shape == (7, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * expected).sum(1).min() > 0.999


def test_dense_search_is_exact(corpus, minilm):
    dense = Dense(corpus, minilm)
    queries = {
        f"q{i}": text
        for i, text in enumerate(
            ["puncture repair", "hot drink in the morning", "frozen river of ice", "string instrument"]
        )
    }
    run = dense.search(queries, 3)
    vectors, documents = encode(minilm, list(queries.values())), encode(minilm, [d.content for d in corpus.values()])
    for i, query_id in enumerate(queries):
        best = np.argsort(-(documents @ vectors[i]))[:3]
        assert ranking(run[query_id]) == [list(corpus)[b] for b in best]
    assert [ranking(run[q])[0] for q in queries] == ["bicycle", "coffee", "glacier", "guitar"]
    in_cells = Dense(corpus, minilm, approximate=True)  # of few documents all cells are searched
    for index, other in ((dense, in_cells), (dense.cut(64), in_cells.cut(64)), (dense, in_cells)):
        expected, found = index.search(queries, 3), other.search(queries, 3)
        assert {q: ranking(run) for q, run in found.items()} == {q: ranking(run) for q, run in expected.items()}


def test_prompts_are_put_before_the_texts(corpus, minilm):
    plain, prompted = Dense(corpus, minilm), Dense(corpus, minilm, query_prompt="search for: ")
    assert prompted.search({"q": "bread"}, 2) == plain.search({"q": "search for: bread"}, 2)


def test_fusion():
    fused = fuse([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.2, "c": 0.1}}])
    assert ranking(fused["q"]) == ["b", "a", "c"]
    assert fused["q"]["b"] == pytest.approx(1 / 62 + 1 / 61)


def test_hybrid_is_both_runs_fused(corpus, minilm):
    queries, both = {"q": "bread", "none": "zzz"}, (BM25(corpus), Dense(corpus, minilm))
    run = Hybrid(*both).search(queries, 5)
    fused = fuse([r.search(queries, 1000) for r in both])
    assert run == {q: {d: fused[q][d] for d in ranking(fused[q])[:5]} for q in queries}
    assert ranking(run["q"])[0] == "bread" and len(run["none"]) == 5


def test_nearest_is_exact_or_almost(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 32))
    vectors = (centres[rng.integers(0, 50, 5000)] + 0.5 * rng.standard_normal((5000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:100]
    scores, rows = nearest(queries, vectors, 10)
    products = queries @ vectors.T
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :10], atol=1e-5)
    assert np.allclose(np.take_along_axis(products, rows, axis=1), scores, atol=1e-5)
    by_torch = nearest_by_torch(queries, vectors, 10, torch.device("cpu"), block=37)  # as on a GPU
    assert np.array_equal(by_torch[1], rows) and np.allclose(by_torch[0], scores, atol=1e-5)
    assert nearest_by_torch(queries[:0], vectors, 10, torch.device("cpu"))[1].shape == (0, 10)
    assert nearest(queries, vectors[:3], 10)[1].shape == (100, 3)
    in_cells = approximate.Cells(vectors).search(queries, 10)[1]
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), in_cells.tolist(), strict=True)]) > 0.95
    assert np.array_equal(in_cells, approximate.Cells(vectors).search(queries, 10)[1])
    monkeypatch.setattr(approximate, "COMPRESSED_ABOVE", vectors.nbytes - 1)  # as of what does not fit into memory
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    scores, compressed = approximate.Cells(mapped).search(queries, 10)
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), compressed.tolist(), strict=True)]) > 0.9
    assert np.allclose(np.take_along_axis(products, compressed, axis=1), scores, atol=1e-5)
    assert np.array_equal(compressed, approximate.Cells(mapped).search(queries, 10)[1])
    few = approximate.Cells(mapped).search(queries[:1], 5000)
    assert (few[1] == -1).any() and np.isneginf(few[0][few[1] == -1]).all()


def test_a_corpus_of_stop_words_finds_nothing():
    assert BM25({"a": Document("a", "the of and"), "b": Document("b", "?!")}).search({"q": "what is the"}, 3) == {
        "q": {}
    }


def test_weights_are_bf16_while_encoding_and_as_they_were_after_it(minilm, corpus):
    before = {name: tensor.clone() for name, tensor in minilm.state_dict().items()}
    dtypes = []
    hook = minilm[0].register_forward_hook(lambda *_: dtypes.append(next(minilm.parameters()).dtype))
    try:
        vectors = encode(minilm, [d.content for d in corpus.values()])
        with pytest.raises(RuntimeError, match="stop"), in_precision(minilm):
            raise RuntimeError("stop")
    finally:
        hook.remove()
    assert set(dtypes) == {torch.bfloat16 if has_bf16("cpu") else torch.float32}
    assert all(torch.equal(tensor, before[name]) for name, tensor in minilm.state_dict().items())
    plain = minilm.encode([d.content for d in corpus.values()], normalize_embeddings=True)
    assert (vectors * plain).sum(axis=1).min() > 0.999


def test_a_cut_index_ranks_by_the_first_numbers(minilm, corpus):
    index, queries = Dense(corpus, minilm), {"a": "flat tyre", "b": "growing vegetables"}
    cut = index.cut(48).search(queries, 12)
    vectors = minilm.encode([d.content for d in corpus.values()], truncate_dim=48, normalize_embeddings=True)
    asked = minilm.encode(list(queries.values()), truncate_dim=48, normalize_embeddings=True)
    for row, query in enumerate(queries):
        expected = dict(zip(corpus, (vectors @ asked[row]).tolist(), strict=True))
        assert cut[query] == pytest.approx(expected, abs=0.02)
    assert index.search(queries, 12) != cut


def test_the_order_of_a_reranker_is_mixed_with_that_of_the_first_stage(corpus):
    model = load_cross_encoder("packaged:tiny-bert", new_head=True)
    queries = {"q": "water the ice slowly", "nothing": "xyzzy"}
    bm25 = BM25(corpus).search(queries, 12)
    alone, both, nearly = (
        Reranked(BM25(corpus), corpus, model, 5, first_stage_weight=weight).search(queries, 12)
        for weight in (0.0, 0.5, 0.999999)
    )
    first = ranking(bm25["q"])
    assert (
        len(first) > 5
        and ranking(nearly["q"]) == first
        and set(ranking(alone["q"])[:5]) == set(first[:5])
        and ranking(alone["q"])[5:] == first[5:]
    )
    sides = [np.array([run["q"][d] for d in first[:5]]) for run in (alone, bm25)]
    expected = sum((values - values.mean()) / values.std() for values in sides) / 2
    assert [both["q"][d] for d in first[:5]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert ranking(both["q"])[5:] == first[5:] and both["nothing"] == {}
