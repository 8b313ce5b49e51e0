"""Search by sparse vectors and by vectors of tokens, against sentence-transformers' own scores."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

from sharpen.evaluation.before_after import compare
from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.encoders.checks import check_any
from sharpen.evaluation.encoders.families import load_any, load_family, own_family
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers import multi_vector
from sharpen.evaluation.retrievers.encoders import encoder_index
from sharpen.evaluation.retrievers.fused import Fused
from sharpen.evaluation.truncation import collect_truncations
from tests.support.tiny_models import encoder, hugging_face

TEXTS = ["bread is made of flour", "ice melts", "guitar sounds " * 40, "tyre flows", "", "salt and water and word"]
CORPUS = {f"d{n}": Document(f"d{n}", text) for n, text in enumerate(TEXTS)}
QUERIES = {"a": "flour and bread", "b": "the ice", "c": "guitar " * 30, "d": ""}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A sparse and a multi-vector encoder of a few thousand weights, as sentence-transformers writes them."""
    folder = tmp_path_factory.mktemp("families")
    torch.manual_seed(3)
    made = {
        "sparse": load_family(str(hugging_face(folder / "mlm", head="ForMaskedLM")), "sparse"),
        "multi_vector": load_family(str(encoder(folder / "dense")), "multi_vector"),
    }
    made["multi_vector"].prompts = {"query": "query: ", "document": "document: "}
    for name, model in made.items():
        model.save_pretrained(str(folder / name), create_model_card=False)
    return {name: folder / name for name in (*made, "mlm", "dense")}


@pytest.mark.parametrize("family", ["sparse", "multi_vector"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_scores_are_those_of_sentence_transformers(family, rows, folders, monkeypatch):
    monkeypatch.setattr(multi_vector, "DOCUMENT_TOKENS", 70)  # several blocks, one of a single long document
    monkeypatch.setattr(multi_vector, "QUERY_TOKENS", 40)
    model = (SparseEncoder if family == "sparse" else MultiVectorEncoder)(str(folders[family]), device="cpu")
    expected = model.similarity(model.encode_query(list(QUERIES.values())), model.encode_document(TEXTS)).numpy()
    index = encoder_index(CORPUS, load_any(str(folders[family])), precision="float32")
    scores = np.concatenate(list(index.score_blocks(list(QUERIES.values()), rows)))
    assert scores.dtype == np.float32 and scores.shape == (4, 6)
    np.testing.assert_allclose(scores, expected, atol=2e-2 if family == "multi_vector" else 1e-4)  # float16 is kept
    run = index.search(QUERIES, 3)
    for row, query in enumerate(QUERIES):
        best = [d for d in np.argsort(-expected[row], kind="stable")[:3] if family != "sparse" or expected[row, d] > 0]
        assert [expected[row, int(d[1:])] for d in run[query]] == pytest.approx(expected[row, best], abs=2e-2)
    assert index.name == family and index.search({}, 3) == {}


def test_mean_maxsim_and_cosines_are_the_models_own(folders):
    mean = load_any(str(folders["multi_vector"]))
    mean.similarity_fn_name = "meanmaxsim"
    cosine = load_any(str(folders["sparse"]))
    cosine.similarity_fn_name = "cosine"
    for model in (mean, cosine):
        index = encoder_index(CORPUS, model, precision="float32")
        expected = model.similarity(model.encode_query(["the ice"]), model.encode_document(TEXTS)).numpy()
        np.testing.assert_allclose(next(index.score_blocks(["the ice"], 1)), expected, atol=1e-2)
    cosine.similarity_fn_name = "euclidean"
    with pytest.raises(InputError, match="compares by euclidean; dot and cosine are known"):
        encoder_index(CORPUS, cosine)
    with pytest.raises(InputError, match="approximate: cells are made of dense vectors, and the model is sparse"):
        encoder_index(CORPUS, cosine, approximate=True)


def test_a_document_of_skipped_words_alone_is_not_found(folders):
    model = load_any(str(folders["multi_vector"]))
    model[2].skiplist_words = [*TEXTS[1].split(), "document", "<s>", "</s>", "<unk>"]
    model[2].resolve_with_tokenizer(model.tokenizer)
    index = encoder_index(CORPUS, model, precision="float32")
    assert "d1" not in index.search(QUERIES, 6)["b"] and next(index.score_blocks(["ice"], 1))[0, 1] == 0
    assert np.isfinite(next(Fused({"m": index}).score_blocks(["ice"], 1))).all()


def test_a_query_without_a_model_is_a_table_of_words(folders):
    """Inference-free SPLADE: documents by the model, queries by a weight for each word."""
    model = load_any(str(folders["sparse"]))
    table = SparseStaticEmbedding(tokenizer=model.tokenizer, weight=torch.rand(len(model.tokenizer)), frozen=True)
    router = Router.for_query_document([table], list(model.children()))
    both = SparseEncoder(modules=[router], device="cpu", similarity_fn_name="dot")
    index = encoder_index(CORPUS, both, precision="float32")
    expected = both.similarity(both.encode_query(["the ice", "bread"]), both.encode_document(TEXTS)).numpy()
    np.testing.assert_allclose(next(index.score_blocks(["the ice", "bread"], 2)), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["sparse", "multi_vector"])
def test_models_fuse_and_score_pairs_by_what_the_base_is(family, folders):
    models = Models(Encoder(model=str(folders[family]), precision="float32"))
    index = models.index(CORPUS)
    assert index is models.index(CORPUS) and index.name == family
    queries = {q: Query(q, text) for q, text in QUERIES.items()}
    pairs = [("a", "d1"), ("a", "d0"), ("b", "d5")]
    scores = models.score("base", pairs, queries, CORPUS)
    block = np.concatenate(list(index.score_blocks(list(QUERIES.values()), 4)))
    assert scores == pytest.approx({("a", "d1"): block[0, 1], ("a", "d0"): block[0, 0], ("b", "d5"): block[1, 5]})
    fused = Fused({"base": index, "bm25": models.bm25(CORPUS)}, {"bm25": 0.3})
    assert set(fused.search(QUERIES, 6)["a"]) == set(CORPUS)
    assert models.fused({"base": 1.0, "bm25": 0.3}, CORPUS).search(QUERIES, 2).keys() == QUERIES.keys()
    with pytest.raises(InputError, match=rf"filters.x: compares the dense vectors .* and it is a {family} encoder"):
        models.dense_index(CORPUS, "filters.x")
    models.forget(models.base)
    assert index is not models.index(CORPUS)


def test_what_a_model_is_follows_from_its_files(folders):
    for plain in ("dense", "sparse", "multi_vector"):
        assert own_family(str(folders["mlm"]), plain) == plain
        assert own_family(str(folders["sparse"]), plain) == "sparse"
        assert own_family(str(folders["multi_vector"]), plain) == "multi_vector"
        assert own_family(str(folders["dense"]), plain) == "dense"
        for name in ("sparse", "multi_vector", "dense", "mlm"):
            check_any(str(folders[name]), plain)
    assert type(load_any(str(folders["mlm"]), "sparse")) is SparseEncoder
    dense = Encoder(model=str(folders["dense"]), precision="float32")
    assert dense.model_copy(update={"family": "sparse"}).fingerprint() == dense.fingerprint()
    plain = Encoder(model=str(folders["mlm"]), family="sparse", precision="float32").fingerprint()
    assert plain["family"] == "sparse"


def test_broken_weights_are_named(folders, tmp_path):
    model = load_any(str(folders["multi_vector"]))
    with torch.no_grad():
        model[1].linear.weight[0, 0] = torch.nan
    model.save_pretrained(str(tmp_path / "nan"), create_model_card=False)
    with pytest.raises(InputError, match=r"the weight 1\.linear\.weight has values that are not finite"):
        load_any(str(tmp_path / "nan"))


def test_two_families_are_compared_by_their_folders(folders):
    task = Task(CORPUS, {q: Query(q, text) for q, text in QUERIES.items() if text}, {"a": {"d0": 1}, "b": {"d1": 1}})
    report = compare(task, str(folders["dense"]), str(folders["sparse"]), bm25=False)
    assert report.verdict and report.comparison.queries == 2
    assert compare(task, load_any(str(folders["multi_vector"])), str(folders["sparse"]), bm25=False).verdict


def test_a_full_disk_and_long_texts_are_told(folders, monkeypatch):
    model = load_any(str(folders["multi_vector"]))
    with collect_truncations() as found, warnings.catch_warnings():
        encoder_index(CORPUS, model)
    assert [(each.what, each.truncated) for each in found.all()] == [("documents", 1)]

    def full(*_):
        raise OSError(28, "No space left on device")

    vectors = multi_vector.TokenVectors(1)
    monkeypatch.setattr(vectors, "_file", type("Full", (), {"write": full})())
    with pytest.raises(InputError, match=r"cannot be written .*No space left.*; set TMPDIR to a folder with more room"):
        vectors.add(np.array([0]), np.array([1]), np.zeros((1, 2)))
