"""Distillation from lists: of both sides, and of queries alone against vectors that stay."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.routes import route_of, with_routes
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.dense import Dense, similarities
from sharpen.evaluation.teachers import LeftOut, rank_candidates
from sharpen.sdg.harvesting import copied_sources
from sharpen.training.lists import CandidateLists, KeptDocumentsLoss
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from tests.conftest import cores

BASE = "packaged:tiny-bert"


@pytest.fixture
def queries(corpus):
    return {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please", {"positives": [i]}) for i, d in corpus.items()}


@pytest.fixture
def lists(corpus, queries):
    run = rank_candidates(Models(Encoder(model=BASE)), {"bm25": 1.0, "base": 0.2}, queries, corpus, size=6)
    return CandidateLists.of(run, 6)


def _settings(**changes):
    given = {"base": BASE, "loss": "kl", "candidates": 6, "batch_size": 4, "learning_rate": 2e-4, "dropout": 0.0}
    return RetrieverSettings(**given | changes)


@pytest.mark.parametrize("documents", ["trained", "kept"])
def test_the_student_comes_nearer_to_its_teacher_and_the_same_seed_gives_the_same(
    documents, corpus, queries, lists, tmp_path
):
    settings = _settings(documents=documents, epochs=8)
    with cores(2):
        results = [
            train_retriever(queries, lists, corpus, settings, tmp_path / name, seed)
            for name, seed in zip("abc", (1, 1, 2), strict=True)
        ]
    losses = [row["loss"] for row in results[0].log]
    assert losses[-1] < 0.7 * losses[0] and results[0].triplets == len(corpus) == len(lists)
    a, b, c = (sha256_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert a == b != c


def test_the_loss_of_kept_documents_is_the_divergence_from_the_teacher(corpus, queries, lists):
    model = load_encoder(BASE)
    vectors = encode(model, [d.content for d in corpus.values()])
    rows = {i: n for n, i in enumerate(corpus)}
    settings = _settings(documents="kept", teacher_temperature=0.5, scale=10.0, precision="float32")
    loss = KeptDocumentsLoss(model, lists, vectors, rows, settings)
    chosen = torch.tensor([5, 2])
    names = [lists.queries[n] for n in chosen.tolist()]
    value = loss([model.preprocess([queries[q].text for q in names])], chosen)
    expected = 0.0
    for q, n in zip(names, chosen.tolist(), strict=True):
        cosines = encode(model, [queries[q].text])[0] @ vectors[[rows[i] for i in lists.documents[n]]].T
        student = np.exp(10 * cosines) / np.exp(10 * cosines).sum()
        teacher = np.exp(lists.scores[n] / 0.5) / np.exp(lists.scores[n] / 0.5).sum()
        expected += (teacher * np.log(teacher / student)).sum() / 2
    assert value.item() == pytest.approx(expected, rel=1e-3) and value.requires_grad


def test_a_model_with_routes_is_searched_with_both_and_opens_without_us(corpus, queries, lists, tmp_path):
    with cores(2):
        tuned = train_retriever(queries, lists, corpus, _settings(documents="kept", epochs=4), tmp_path / "query", 1)
    base = load_encoder(BASE)
    with_routes(load_encoder(str(tuned.path)), base).save_pretrained(str(tmp_path / "m"), create_model_card=False)
    texts = {q: query.text for q, query in queries.items()}
    index, of_base = Dense(corpus, str(tmp_path / "m")), Dense(corpus, base)
    np.testing.assert_allclose(index.vectors, of_base.vectors, atol=1e-5)  # the index stays as it is
    run = index.search(texts, 3)
    assert run != of_base.search(texts, 3)
    by_query_encoder = of_base.with_query_encoder(load_encoder(str(tuned.path))).search(texts, 3)
    assert [list(row) for row in run.values()] == [list(row) for row in by_query_encoder.values()]
    loaded = SentenceTransformer(str(tmp_path / "m"))
    q = loaded.encode_query(["rising dough"], normalize_embeddings=True)
    d = loaded.encode_document([corpus["bread"].content], normalize_embeddings=True)
    ours = similarities(
        load_encoder(str(tmp_path / "m")), [("rising dough", corpus["bread"].content)], precision="float32"
    )
    assert ours[0] == pytest.approx(float(q[0] @ d[0]), abs=1e-4)
    short = load_encoder(str(tmp_path / "m"), max_seq_length=32)
    assert {route_of(short, side).max_seq_length for side in ("query", "document")} == {32}
    with pytest.raises(InputError, match=r"training.base: .* an encoder for queries and one for documents"):
        train_retriever(queries, lists, corpus, _settings(base=str(tmp_path / "m")), tmp_path / "again")


def test_a_query_that_was_copied_does_not_learn_its_source(corpus):
    copied = Query("c", corpus["bread"].content[:60], {"positives": ["bread"], "verbatim": True})
    corpus["copy"] = Document("copy", corpus["bread"].text, "Another title")
    masked = copied_sources([copied, Query("other", "ice", {"positives": ["bread"]})], corpus)
    assert masked == {"c": {"bread", "copy"}}
    models = Models(Encoder(model=BASE))
    for exclude, expected in ((None, True), (LeftOut(masked), False), (LeftOut(always=["bread"]), False)):
        run = rank_candidates(models, "bm25", {"c": copied}, corpus, 4, exclude)
        assert len(run["c"]) == 4 and ("bread" in run["c"]) is expected


def test_lists_are_read_as_they_were_written_and_short_ones_are_left_out(tmp_path):
    run = {
        "q1": {"a": 0.25, "b": 2.0},
        "q2": {"a": 1.0},
        "é": {"c": 1.0, "a": 1.5},
        "says nothing": {"a": 0.0, "b": 0.0},
    }
    lists = CandidateLists.of(run, size=2)
    assert lists.queries == ["q1", "é"] and lists.documents == [["b", "a"], ["a", "c"]]
    lists.write(tmp_path / "lists.parquet")
    read = CandidateLists.read(tmp_path / "lists.parquet")
    assert (read.queries, read.documents) == (lists.queries, lists.documents)
    np.testing.assert_array_equal(read.scores, lists.scores)


def test_what_does_not_fit_is_said(corpus, queries, lists, tmp_path):
    with pytest.raises(InputError, match="no query has as many candidates"):
        train_retriever(queries, CandidateLists.of({}, 6), corpus, _settings(), tmp_path / "m")
    with pytest.raises(InputError, match="the query 'q-bread', which is not among"):
        train_retriever({"x": Query("x", "x")}, lists, corpus, _settings(), tmp_path / "m")
    for changes, message in (
        ({"loss": "mnrl"}, "candidates: lists with a teacher's scores are learnt by kl"),
        ({"documents": "kept", "candidates": None}, "documents: kept needs candidates"),
        ({"documents": "kept", "matryoshka": (64,)}, "leave out matryoshka and lora"),
    ):
        with pytest.raises(ValueError, match=message):
            _settings(**changes)


def test_a_killed_training_of_queries_goes_on(corpus, queries, lists, tmp_path):
    settings = _settings(documents="kept", epochs=3, checkpoint_steps=2)

    class Killed(Exception):
        pass

    def kill(step):
        if step.step == 5:
            raise Killed

    with cores(2):
        whole = train_retriever(queries, lists, corpus, settings, tmp_path / "a", 1)
        with pytest.raises(Killed):
            train_retriever(
                queries, lists, corpus, settings, tmp_path / "b", 1, TrainingRun(work=tmp_path / "w", progress=kill)
            )
        resumed = train_retriever(queries, lists, corpus, settings, tmp_path / "b", 1, TrainingRun(work=tmp_path / "w"))
    assert resumed.resumed_from == 4 and whole.resumed_from is None
    assert sha256_file(tmp_path / "a" / "model.safetensors") == sha256_file(tmp_path / "b" / "model.safetensors")
