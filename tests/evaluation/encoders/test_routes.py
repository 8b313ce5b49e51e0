"""Queries and documents are encoded as the model's own ``encode_query`` and ``encode_document`` encode them."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense as DenseLayer
from sentence_transformers.sentence_transformer.modules import Pooling

from sharpen.evaluation.beir import Document
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.routes import prompt_of, route_of, with_routes
from sharpen.evaluation.export.formats import export_model
from sharpen.evaluation.files import InputError
from sharpen.evaluation.retrievers.dense import Dense, similarities
from tests.support.tiny_models import encoder

DOCUMENTS = ["bread is made of flour", "ice melts and flows", "the guitar sounds"]
QUERIES = ["bread flour", "ice", "a guitar"]


def _corpus() -> dict[str, Document]:
    return {str(n): Document(str(n), text) for n, text in enumerate(DOCUMENTS)}


def _assert_same_as_its_own(folder) -> Dense:
    own = SentenceTransformer(str(folder), device="cpu")
    index = Dense(_corpus(), str(folder), precision="float32")
    documents = own.encode_document(DOCUMENTS, normalize_embeddings=True)
    queries = own.encode_query(QUERIES, normalize_embeddings=True)
    np.testing.assert_allclose(index.vectors, documents, atol=1e-5)
    np.testing.assert_allclose(index.encode_queries(QUERIES), queries, atol=1e-5)
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    expected = (queries * documents).sum(axis=1)
    np.testing.assert_allclose(similarities(load_encoder(str(folder)), pairs, precision="float32"), expected, atol=1e-5)
    return index


@pytest.mark.parametrize(
    ("names", "rules"),
    [
        (("query", "document"), None),
        (("document", "query"), None),
        (("small", "large"), {("query", "text"): "small", ("document", None): "large"}),
        (("small", "large"), {("query", None): "large", (None, "text"): "small"}),
        (("query", "document"), {("query", "text"): "document", (None, None): "query"}),
        (("query", "text"), None),
    ],
)
def test_a_model_with_routes_takes_those_that_its_own_methods_take(tmp_path, names, rules):
    parts = [
        list(SentenceTransformer(str(encoder(tmp_path / name, seed=n)), device="cpu").children())
        for n, name in enumerate(names)
    ]
    model = SentenceTransformer(
        modules=[Router(dict(zip(names, parts, strict=True)), route_mappings=rules)],
        device="cpu",
        prompts={"query": "query ", "document": "document "},
    )
    folder = tmp_path / "model"
    model.save_pretrained(str(folder), create_model_card=False)
    index = _assert_same_as_its_own(folder)
    if names == ("query", "document") and rules is None:  # and not those of one route for both sides
        alone = encode(route_of(load_encoder(str(folder)), "query"), DOCUMENTS, precision="float32")
        assert np.abs((alone * index.vectors).sum(axis=1)).max() < 0.99
    with pytest.raises(InputError, match="by different routes"):
        encode(load_encoder(str(folder)), QUERIES)


def test_routes_may_come_after_what_both_sides_share(tmp_path):
    shared = SentenceTransformer(str(encoder(tmp_path / "shared")), device="cpu")
    heads = {side: [DenseLayer(16, 8)] for side in ("query", "document")}
    model = SentenceTransformer(modules=[*shared.children(), Router(heads)], device="cpu")
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    _assert_same_as_its_own(tmp_path / "model")


def test_a_side_without_a_route_is_named(tmp_path):
    parts = list(SentenceTransformer(str(encoder(tmp_path / "part")), device="cpu").children())
    model = SentenceTransformer(modules=[Router({"query": parts})], device="cpu")
    with pytest.raises(InputError, match="routes for query, and none for a document"):
        Dense(_corpus(), model)


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "query ", "document": "document "},
        {"query": "query ", "passage": "document "},
        {"query": "query "},
        {"passage": "word ", "document": "document ", "corpus": "the "},
        {},
    ],
)
@pytest.mark.filterwarnings("ignore:the model has a prompt")
def test_a_models_own_prompts_are_put_where_it_puts_them(tmp_path, prompts):
    folder = encoder(tmp_path / "model", prompts=prompts)
    _assert_same_as_its_own(folder)
    own = SentenceTransformer(str(folder), device="cpu")
    index = Dense(_corpus(), str(folder), query_prompt="a ", document_prompt="of ", precision="float32")
    expected = own.encode_document(DOCUMENTS, prompt="of ", normalize_embeddings=True)
    np.testing.assert_allclose(index.vectors, expected, atol=1e-5)
    expected = own.encode_query(QUERIES, prompt="a ", normalize_embeddings=True)
    np.testing.assert_allclose(index.encode_queries(QUERIES), expected, atol=1e-5)


def test_a_prompt_that_the_models_own_methods_leave_out_is_said(tmp_path):
    model = load_encoder(str(encoder(tmp_path / "model", prompts={"query": "query ", "passage": "document "})))
    with pytest.warns(UserWarning, match="a prompt 'passage' .* To use it, give document_prompt"):
        assert prompt_of(model, "document") == ""
    assert prompt_of(model, "document", "document ") == "document "


def test_prompts_that_pooling_leaves_out_are_left_out(tmp_path):
    model = SentenceTransformer(str(encoder(tmp_path / "part", prompts={"query": "query ", "document": "word "})))
    model[1].include_prompt = False
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    _assert_same_as_its_own(tmp_path / "model")


def test_a_route_is_written_as_a_model_and_the_folder_of_its_transformer_is_none(tmp_path):
    sides = [SentenceTransformer(str(encoder(tmp_path / name, seed=n)), device="cpu") for n, name in enumerate("qd")]
    sides[0].prompts = {"query": "query "}
    for module in sides[0].modules():
        if isinstance(module, Pooling):
            module.pooling_mode = "cls"
    with_routes(*sides).save_pretrained(str(tmp_path / "both"), create_model_card=False)
    with pytest.raises(InputError, match=r"a part of .*both, which has an encoder for each side; write one"):
        load_encoder(str(tmp_path / "both" / "query_0_Transformer"))
    both = load_encoder(str(tmp_path / "both"), device="cpu")
    with pytest.raises(InputError, match="and an export has one; write one of the two"):
        export_model(str(tmp_path / "both"), "onnx", tmp_path / "exported", QUERIES, DOCUMENTS)
    route_of(both, "query").save_pretrained(str(tmp_path / "query"), create_model_card=False)
    alone = load_encoder(str(tmp_path / "query"), device="cpu")
    assert prompt_of(alone, "query") == "query "
    expected = both.encode_query(QUERIES, normalize_embeddings=True)
    np.testing.assert_allclose(encode(alone, QUERIES, prompt="query ", precision="float32"), expected, atol=1e-5)
