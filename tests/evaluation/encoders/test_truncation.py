"""Texts that are longer than a model reads are counted, with their lengths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.encode import encode, score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.encoders.tokens import lengths_before_truncation
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.truncation import Truncation, collect_truncations
from sharpen.training.collators import RerankerCollator, RetrieverCollator, Texts, reported_pairs

LONG = " ".join(f"ice {n}" for n in range(1000))


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("packaged:tiny-bert", device="cpu", max_seq_length=64)


@pytest.fixture(scope="module")
def reranker():
    return load_cross_encoder("packaged:tiny-bert", device="cpu", new_head=True, max_seq_length=64)


def _tokens(model, *texts: str) -> int:
    return len(model.tokenizer(*texts, truncation=False, verbose=False)["input_ids"])


def test_what_an_encoder_cuts_off_is_counted_by_side_with_prompt_and_special_tokens(encoder, corpus):
    long = corpus | {"long": Document("long", LONG)}
    with collect_truncations() as found:
        index = Dense(long, encoder, query_prompt="query: ", document_prompt="passage: ")
        index.search({"short": "ice", "long": LONG}, k=3)
    documents = Truncation("documents", 13, 1, _tokens(encoder, "passage: " + LONG), 64)
    assert found.all() == [documents, Truncation("queries", 2, 1, _tokens(encoder, "query: " + LONG), 64)]
    assert documents.longest > 2000 and index.truncations == [documents]
    # 61 words, their prompt of one token and two special ones: all is read
    with collect_truncations() as found:
        encode(encoder, ["ice " * 61], prompt="and ")
        assert not found.all()
        encode(encoder, ["ice " * 62], prompt="and ")
    assert found.all() == [Truncation("texts", 1, 1, 65, 64)]


def test_who_takes_an_index_that_is_there_is_told_too():
    models = Models(Encoder(model="packaged:tiny-bert", max_seq_length=64))
    corpus = {"long": Document("long", LONG), "short": Document("short", "ice")}
    seen = []
    for _ in range(2):
        with collect_truncations() as found:
            models.index(corpus)
            models.index(corpus)
        seen.append(found.all())
    assert seen[0] == seen[1] and [(f.what, f.texts, f.truncated) for f in seen[0]] == [("documents", 2, 1)]


def test_pairs_that_a_cross_encoder_cuts_are_counted(reranker):
    pairs = [("how ice flows", LONG), ("how ice flows", "downhill"), (LONG[:400], LONG[:800])]
    with collect_truncations() as found:
        score_pairs(reranker, pairs)
    assert found.all() == [Truncation("pairs", 3, 2, _tokens(reranker, "how ice flows", LONG), 64)]


@settings(max_examples=25)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=4), as_pairs=st.booleans()
)
def test_lengths_are_those_of_the_whole_texts_whether_the_tokenizer_hands_on_what_it_cuts_or_not(
    reranker, sizes, as_pairs
):
    texts = [(" ".join(map(str, range(a))), " ".join(map(str, range(7, 7 + b)))) for a, b in sizes]
    inputs = texts if as_pairs else [a for a, _ in texts]
    features = reranker.preprocess(inputs)
    whole = [_tokens(reranker, *each) if as_pairs else _tokens(reranker, each) for each in inputs]
    expected = {row: tokens for row, tokens in enumerate(whole) if tokens > 64}
    for given_features in (features, dict(features)):
        assert lengths_before_truncation(given_features, reranker.tokenizer, inputs, "", 64) == expected


def test_a_text_that_is_trained_on_counts_once_however_many_batches_have_it(encoder, reranker, corpus):
    texts = Texts({"q": Query("q", "how ice flows")}, corpus | {"long": Document("long", LONG)})
    collator = RetrieverCollator(encoder.preprocess, prompts={})
    collator.set_texts(texts, encoder)
    pairs = RerankerCollator(reranker.preprocess)
    pairs.set_texts(texts)
    with collect_truncations() as found, reported_pairs(reranker):
        for negative in ("piano", "guitar", "piano"):
            collator([{"anchor": "q", "positive": "long", "negative_1": negative}])
            batch = pairs([{"query": "q", "document": "long", "label": 1.0}])
            reranker.preprocess(list(zip(batch["query"], batch["document"], strict=True)))
    assert found.all() == [
        Truncation("documents", 3, 1, _tokens(encoder, LONG), 64),
        Truncation("pairs", 1, 1, _tokens(reranker, "how ice flows", LONG), 64),
    ]
    assert "preprocess" not in vars(reranker)
