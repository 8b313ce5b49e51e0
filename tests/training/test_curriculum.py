"""The order of rows: from easy to hard in the first epoch."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.packaged import packaged_encoder
from sharpen.training.collators import Texts
from sharpen.training.curriculum import BLOCK, easy_first, margins
from sharpen.training.retriever import train_retriever
from sharpen.training.samplers import NoFalseNegativesSampler
from sharpen.training.settings import RetrieverSettings
from sharpen.training.triplets import Triplet
from tests.support.word_pairs import CORPUS, QUERIES, TRIPLETS

BASE = "packaged:all-MiniLM-L6-v2"


def test_rows_go_from_the_largest_to_the_smallest_margin_of_sentence_transformers_cosines():
    settings = RetrieverSettings(base=BASE, precision="float32", query_prompt="find: ")
    order = easy_first(load_encoder(BASE), TRIPLETS, Texts(QUERIES, CORPUS), settings)
    own, expected = SentenceTransformer(str(packaged_encoder(BASE)), device="cpu"), []
    for row in TRIPLETS:
        query = own.encode("find: " + QUERIES[row.query_id].text, normalize_embeddings=True)
        texts = [CORPUS[i].content for i in (row.positive_id, *row.negative_ids)]
        positive, *negatives = own.encode(texts, normalize_embeddings=True) @ query
        expected.append(positive - max(negatives))
    assert sorted(order) == list(range(len(TRIPLETS)))
    np.testing.assert_allclose(np.array(expected)[order], sorted(expected, reverse=True), atol=1e-4)
    assert max(expected) - min(expected) > 0.05  # or any order would do


def test_rows_in_blocks_and_without_negatives(monkeypatch):
    model, settings = load_encoder(BASE), RetrieverSettings(base=BASE, precision="float32")
    alone = [Triplet(row.query_id, row.positive_id, ()) for row in TRIPLETS]
    for rows in (TRIPLETS, alone):
        whole = easy_first(model, rows, Texts(QUERIES, CORPUS), settings)
        monkeypatch.setattr("sharpen.training.curriculum.BLOCK", 3)
        assert easy_first(model, rows, Texts(QUERIES, CORPUS), settings) == whole
        monkeypatch.setattr("sharpen.training.curriculum.BLOCK", BLOCK)
    assert margins(np.array([[1.0, 0.0]]), np.array([[[0.6, 0.8]]])).tolist() == [0.6]


def test_the_first_epoch_keeps_the_order_and_the_next_is_at_random():
    first = [5, 3, 1, 0, 2, 4, 7, 6]
    batches = list(NoFalseNegativesSampler(TRIPLETS, Texts(QUERIES, CORPUS), 4, 1, seed=1, epochs=2, first=first))
    assert [row for batch in batches[:2] for row in batch] == first
    again = list(NoFalseNegativesSampler(TRIPLETS, Texts(QUERIES, CORPUS), 4, 1, seed=1, epochs=2))
    assert batches[2:] == again[2:] and batches[:2] != again[:2]


def test_a_training_takes_its_rows_in_the_order_of_the_base(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "sharpen.training.retriever.NoFalseNegativesSampler",
        lambda *args, **kwargs: taken.append(kwargs["first"]) or NoFalseNegativesSampler(*args, **kwargs),
    )
    settings = RetrieverSettings(base=BASE, precision="float32", batch_size=4, order="easy_first")
    result = train_retriever(QUERIES, TRIPLETS, CORPUS, settings, tmp_path / "m", 1)
    assert taken == [easy_first(load_encoder(BASE), TRIPLETS, Texts(QUERIES, CORPUS), settings)]
    losses = [row["loss"] for row in result.log]
    plain = RetrieverSettings(base=BASE, precision="float32", batch_size=4)
    other = [row["loss"] for row in train_retriever(QUERIES, TRIPLETS, CORPUS, plain, tmp_path / "n", 1).log]
    assert taken[1] is None and len(losses) == len(other) and losses != other


def test_an_order_is_of_positives_and_negatives_and_of_dense_encoders():
    assert "order" not in RetrieverSettings(base=BASE).fingerprint()
    for other in ({"loss": "kl", "candidates": 8}, {"loss": "embedding"}):
        with pytest.raises(ValueError, match="order: easy_first is of a positive and its negatives"):
            RetrieverSettings(base=BASE, order="easy_first", **other)
    with pytest.raises(ValueError, match="order: only dense encoders have it"):
        RetrieverSettings(base=BASE, order="easy_first", family="sparse")
