"""Documents that cover a corpus."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.models import Models
from sharpen.sdg.selecting import sample_documents, select_documents
from sharpen.sdg.strategies.settings import QueriesSettings


def _topics(sizes: dict[str, int], spread: float = 0.03) -> tuple[list[Document], np.ndarray]:
    """So many documents about each topic, the vectors of which lie around an axis of their own."""
    rng = np.random.default_rng(3)
    documents, rows = [], []
    for axis, (topic, size) in enumerate(sizes.items()):
        for n in range(size):
            documents.append(Document(f"{topic}-{n}", f"a document of number {n} about {topic}"))
            rows.append(np.eye(8)[axis] + spread * rng.standard_normal(8))
    vectors = np.array(rows, dtype=np.float32)
    return documents, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _topic(document: Document) -> str:
    return document.id.partition("-")[0]


def test_small_topics_are_covered_where_a_random_draw_misses_them():
    documents, vectors = _topics({"beans": 500, "kilns": 5, "ferries": 5, "glaciers": 5})
    chosen = select_documents(documents, vectors, 8, seed=1, clusters=4)
    assert _topic(chosen[0]) == "beans"
    every = {"beans", "kilns", "ferries", "glaciers"}
    assert {_topic(d) for d in chosen[:4]} == every  # one of each, the largest first
    assert {_topic(d) for d in sample_documents(documents, 8, seed=1)} < every


def test_within_a_cluster_what_is_taken_is_unlike_what_was_taken():
    # nine copies in all but name around the centre, and one document apart
    documents = [Document(f"d{n}", f"a text with the number {n}") for n in range(10)]
    near, apart = np.array([1.0, 0.02]), np.array([0.9, 0.45])
    vectors = np.array([*(near + 1e-3 * np.array([0, n]) for n in range(9)), apart], dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = select_documents(documents, vectors, 2, seed=1, clusters=1)
    assert "d9" in {d.id for d in chosen}
    by_centre_alone = select_documents(documents, vectors, 2, seed=1, clusters=1, relevance=1.0)
    assert "d9" not in {d.id for d in by_centre_alone}


def test_the_same_wherever_documents_stand_and_larger_ones_begin_with_smaller():
    documents, vectors = _topics({"beans": 60, "kilns": 30, "ferries": 10})
    chosen = select_documents(documents, vectors, 20, seed=5, clusters=6)
    order = list(range(len(documents)))
    random.Random(1).shuffle(order)
    assert select_documents([documents[n] for n in order], vectors[order], 20, seed=5, clusters=6) == chosen
    assert select_documents(documents, vectors, 50, seed=5, clusters=6)[:20] == chosen
    assert select_documents(documents, vectors, 20, seed=6, clusters=6) != chosen
    assert len({d.id for d in chosen}) == 20


def test_no_text_twice_and_none_that_is_too_short():
    documents, vectors = _topics({"beans": 10, "kilns": 10})
    documents += [Document("copy", documents[0].text, "Another title"), Document("tiny", "too few")]
    vectors = np.vstack([vectors, vectors[:1], vectors[:1]])
    for n in (5, 15, 20, 99):
        chosen = select_documents(documents, vectors, n, seed=1, clusters=4)
        assert len(chosen) == min(n, 20) == len({d.copy_key for d in chosen})
        assert "tiny" not in {d.id for d in chosen}
    with pytest.raises(ValueError, match="22 documents and 20 vectors"):
        select_documents(documents, vectors[:20], 5, seed=1)


def test_by_the_vectors_of_an_encoder(corpus):
    index = Models(Encoder(model="packaged:tiny-bert")).index(corpus)
    chosen = [select_documents(list(corpus.values()), index.vectors, 5, seed) for seed in (1, 1)]
    assert chosen[0] == chosen[1] and len({d.id for d in chosen[0]}) == 5


def test_the_setting_stands_in_a_fingerprint_only_where_it_is_chosen():
    pool = [{"document": "a b", "query": "c d"}]
    assert "select" not in QueriesSettings(pool=pool, documents=3).fingerprint()
    assert QueriesSettings(pool=pool, documents=3, select="coverage").fingerprint()["select"] == "coverage"
    with pytest.raises(ValueError, match="say how many in documents"):
        QueriesSettings(pool=pool, select="coverage")
