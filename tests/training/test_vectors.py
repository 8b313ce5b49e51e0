"""Embedding distillation, and the anchor to the base."""

import numpy as np
import pytest
import torch

from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.models import Models
from sharpen.evaluation.teachers import rank_candidates
from sharpen.training.lists import CandidateLists
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from sharpen.training.vectors import TeacherVectors, VectorsLoss, fitted_map
from tests.conftest import cores

BASE = "packaged:tiny-bert"
TEACHER = "packaged:all-MiniLM-L6-v2"


@pytest.fixture
def queries(corpus):
    return {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please", {"positives": [i]}) for i, d in corpus.items()}


@pytest.fixture
def rows(queries):
    return [Triplet(q, query.metadata["positives"][0], ()) for q, query in queries.items()]


def _vectors(corpus, queries, weights):
    texts = [query.text for query in queries.values()] + [d.content for d in corpus.values()]
    names = {"base": BASE, "encoder:minilm": TEACHER}
    return TeacherVectors(
        list(queries), list(corpus), {n: encode(load_encoder(m), texts) for n, m in names.items()}, weights
    )


def _settings(**changes):
    given = {"base": BASE, "loss": "embedding", "batch_size": 4, "learning_rate": 3e-4, "dropout": 0.0, "epochs": 8}
    return RetrieverSettings(**given | changes)


def _gram(vectors):
    return vectors @ vectors.T


def test_the_student_comes_nearer_to_a_teacher_of_another_width(corpus, queries, rows, tmp_path):
    vectors = _vectors(corpus, queries, {"encoder:minilm": 1.0})
    run = TrainingRun(vectors=vectors)
    with cores(2):
        results = [train_retriever(queries, rows, corpus, _settings(), tmp_path / n, 1, run) for n in "ab"]
    assert sha256_file(tmp_path / "a" / "model.safetensors") == sha256_file(tmp_path / "b" / "model.safetensors")
    losses = [row["loss"] for row in results[0].log]
    assert losses[-1] < 0.8 * losses[0] and results[0].triplets == len(rows)
    texts = [query.text for query in queries.values()] + [d.content for d in corpus.values()]
    after = encode(load_encoder(str(tmp_path / "a")), texts)
    wanted = _gram(vectors.vectors["encoder:minilm"])
    assert np.abs(_gram(after) - wanted).mean() < np.abs(_gram(vectors.vectors["base"]) - wanted).mean()


def test_with_the_base_as_a_teacher_the_student_moves_less(corpus, queries, rows, tmp_path):
    texts = [d.content for d in corpus.values()]
    base, moved = encode(load_encoder(BASE), texts), {}
    for name, weights in (("free", {"encoder:minilm": 1.0}), ("held", {"encoder:minilm": 1.0, "base": 5.0})):
        run = TrainingRun(vectors=_vectors(corpus, queries, weights))
        train_retriever(queries, rows, corpus, _settings(), tmp_path / name, 1, run)
        moved[name] = 1 - (encode(load_encoder(str(tmp_path / name)), texts) * base).sum(axis=1).mean()
    assert moved["held"] < 0.7 * moved["free"]


def test_the_loss_is_one_minus_cosine_after_the_map(corpus, queries, rows):
    vectors = _vectors(corpus, queries, {"encoder:minilm": 2.0, "base": 1.0})
    model = load_encoder(BASE).eval()
    loss = VectorsLoss(model, vectors, rows, _settings())
    columns = [
        model.preprocess([queries[r.query_id].text for r in rows]),
        model.preprocess([corpus[r.positive_id].content for r in rows]),
    ]
    base, teacher = vectors.vectors["base"], vectors.vectors["encoder:minilm"]
    mapped = base @ fitted_map(base, teacher)
    cosine = (mapped * teacher).sum(axis=1) / np.linalg.norm(mapped, axis=1)
    with torch.no_grad():
        value = loss(columns, torch.arange(len(rows))).item()
    assert value == pytest.approx(2 * (1 - cosine).mean(), abs=2e-3)  # the base's own term is 0


def test_vectors_are_written_and_read(corpus, queries, tmp_path):
    vectors = _vectors(corpus, queries, {"encoder:minilm": 1.0, "base": 0.25})
    vectors.write(tmp_path / "v.parquet")
    again = TeacherVectors.read(tmp_path / "v.parquet")
    assert (again.queries, again.documents, again.weights) == (vectors.queries, vectors.documents, vectors.weights)
    assert all((again.vectors[name] == vectors.vectors[name]).all() for name in vectors.vectors)


def test_what_does_not_fit_is_said(corpus, queries, rows, tmp_path):
    with pytest.raises(InputError, match=r"embedding learns encoders' vectors; give training.teacher"):
        train_retriever(queries, rows, corpus, _settings(), tmp_path / "m")
    model = load_encoder(BASE)
    vectors = _vectors(corpus, queries, {"encoder:minilm": 1.0})
    with pytest.raises(InputError, match="no vector of the document nowhere"):
        VectorsLoss(model, vectors, [Triplet(rows[0].query_id, "nowhere", ())], _settings())
    with pytest.raises(InputError, match="no encoder has a weight"):
        VectorsLoss(model, TeacherVectors([], [], vectors.vectors, {"base": 0.0}), [], _settings())
    for wrong, said in (
        ({"loss": "mnrl", "contrastive": 0.1}, "contrastive: only kl has it"),
        ({"loss": "mnrl", "teacher_scores": "percentile"}, "teacher_scores: only kl has it"),
        ({"loss": "cached_mnrl", "anchor": 1}, "anchor: not with cached losses"),
        ({"matryoshka": [64]}, "embedding learns whole vectors"),
        ({"anchor": 1}, "the base among the teachers is the anchor"),
    ):
        with pytest.raises(ValueError, match=said):
            _settings(**wrong)


@pytest.mark.parametrize("documents", ["trained", "kept"])
def test_an_anchor_holds_the_student_near_the_base(documents, corpus, queries, tmp_path):
    run = rank_candidates(Models(Encoder(model=BASE)), {"bm25": 1.0, "base": 0.2}, queries, corpus, size=6)
    lists, texts = CandidateLists.of(run, 6), [query.text for query in queries.values()]
    base, moved = encode(load_encoder(BASE), texts), {}
    for weight in (0.0, 50.0):
        settings = _settings(loss="kl", candidates=6, documents=documents, anchor=weight, learning_rate=1e-3)
        train_retriever(queries, lists, corpus, settings, tmp_path / str(weight), 1)
        after = encode(load_encoder(str(tmp_path / str(weight))), texts)
        moved[weight] = float(((after - base) ** 2).sum(axis=1).mean())
    assert 0 < moved[50.0] < 0.5 * moved[0.0]
