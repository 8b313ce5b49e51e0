"""Scorers and their mixtures, measured on a real collection before anything is trained."""

import pytest

from sharpen.evaluation.beir import Query
from sharpen.evaluation.datasets import Task, load_task
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.scorers import members_of
from sharpen.evaluation.teachers import RERANKED_DEPTH, compare_teachers, fit_teacher
from tests.conftest import shared_dataset


@pytest.fixture(scope="module")
def task():
    whole = load_task(str(shared_dataset("cranfield")), "test")
    queries = sorted(whole.qrels)[:16]
    relevant = {i for q in queries for i, grade in whole.qrels[q].items() if grade > 0}
    corpus = {i: d for n, (i, d) in enumerate(whole.corpus.items()) if i in relevant or n % 4 == 0}
    return Task(corpus, whole.queries, {q: whole.qrels[q] for q in queries})


@pytest.fixture(scope="module")
def models():
    return Models(Encoder(model="packaged:tiny-bert"))


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranker") / "model"
    load_cross_encoder("packaged:tiny-bert", new_head=True).save_pretrained(str(folder))
    return str(folder)


def test_every_scorer_is_measured_and_each_step_of_the_path_is_better(task, models, cross_encoder):
    teachers = compare_teachers(models, ["bm25", "base", cross_encoder], task)
    alone = {row.scorer: row for row in teachers.alone}
    assert set(alone) == {"bm25", "base", cross_encoder} and teachers.queries == 16
    assert all(row.reranks for row in teachers.alone)  # of the same documents
    assert alone["bm25"].value > alone["base"].value  # tiny-bert was never trained as a dense encoder
    values = [value for _, value in teachers.path]
    assert values == sorted(set(values)) and values[0] == max(row.value for row in teachers.alone)
    mixture, value = teachers.best
    assert all(weight > 0 for weight in mixture.values()) and value >= alone["bm25"].value
    assert teachers.recipe_line() == f"teacher: {{{', '.join(f'{s}: {w:g}' for s, w in mixture.items())}}}"
    table = teachers.markdown()
    assert any(cross_encoder in line and f"the first {RERANKED_DEPTH}" in line for line in table)
    assert fit_teacher(models, ["bm25", "base"], task)[1] <= value


def test_a_mixture_scores_pairs_as_it_ranks_the_corpus(task, models):
    weights = {"base": 1.0, "bm25": 0.5}
    run = models.fused(weights, task.corpus).search(task.texts, 20)
    pairs = [(q, i) for q, scores in run.items() for i in scores]
    scores = models.score(weights, pairs, task.queries, task.corpus)
    assert scores == pytest.approx({(q, i): run[q][i] for q, i in pairs}, abs=1e-4)
    # over the corpus, not over what happens to be asked for
    few = models.score(weights, pairs[:3], task.queries, task.corpus)
    assert few == pytest.approx({pair: scores[pair] for pair in pairs[:3]}, abs=1e-4)


def test_a_cross_encoder_is_mixed_in_by_its_place_among_the_pairs(task, models, cross_encoder):
    pairs = [(q, i) for q in list(task.qrels)[:3] for i in list(task.corpus)[:6]]
    alone = models.score(cross_encoder, pairs, task.queries, task.corpus)
    mixed = models.score({cross_encoder: 2.0}, pairs, task.queries, task.corpus)
    for q in {q for q, _ in pairs}:
        row = [mixed[pair] for pair in pairs if pair[0] == q]
        assert sum(row) == pytest.approx(0, abs=1e-4) and sum(v * v for v in row) / 6 == pytest.approx(4, abs=1e-3)
        order = sorted((pair for pair in pairs if pair[0] == q), key=alone.__getitem__)
        assert order == sorted(order, key=mixed.__getitem__)


def test_a_cross_encoder_alone_has_nothing_to_rerank(task, models, cross_encoder):
    with pytest.raises(InputError, match="add bm25, base or encoder:<name>"):
        compare_teachers(models, [cross_encoder], task)


def test_names_of_teachers():
    assert members_of({"base": 1.0, "bm25": 0.2}) == members_of("fused") == members_of(("base", "bm25"))


def test_a_query_that_shares_no_word_has_no_bm25(models, task):
    query = Query("none", "zzz")
    scores = models.score({"bm25": 1.0}, [("none", i) for i in list(task.corpus)[:4]], {"none": query}, task.corpus)
    assert set(scores.values()) == {0.0} and BM25(task.corpus).search({"none": "zzz"}, 3) == {"none": {}}
