import pytest

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import evaluate
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import ranking
from sharpen.training.settings import RetrieverSettings, ValidationSettings
from sharpen.training.validation import small_task

BASE = RetrieverSettings(base="packaged:tiny-bert")


@pytest.fixture
def judged(corpus):
    return {f"q-{i}": Query(f"q-{i}", f"{d.title} please") for i, d in corpus.items()}, {
        f"q-{i}": {i: 1} for i in corpus
    }


def test_the_corpus_has_the_relevant_documents_and_bm25s_best_of_each_query(corpus, judged):
    queries, qrels = judged
    task = small_task(corpus, queries, qrels, ValidationSettings(queries=3, documents=4), seed=1)
    assert len(task.queries) == len(task.qrels) == 3 and len(task.corpus) == 4
    relevant = {i for grades in task.qrels.values() for i in grades}
    assert set(list(task.corpus)[:3]) == relevant
    run = BM25(corpus).search({q: query.text for q, query in task.queries.items()}, 12)
    ranks: dict[str, int] = {}
    for q in task.queries:
        for rank, i in enumerate(ranking(run[q])):
            ranks[i] = min(rank, ranks.get(i, rank))
    others = list(task.corpus)[3:]
    left_out = [ranks[i] for i in ranks if i not in task.corpus]
    assert [ranks[i] for i in others] == sorted(ranks[i] for i in others) and left_out
    assert ranks[others[-1]] <= min(left_out)
    again, other = (small_task(corpus, queries, qrels, ValidationSettings(queries=3), seed=seed) for seed in (1, 2))
    assert list(again.queries) == list(task.queries) != list(other.queries)


def test_chunks_of_a_relevant_document_are_relevant_and_excluded_queries_are_left_out(corpus, judged):
    queries, qrels = judged
    chunks = {f"guitar#{n}": Document(f"guitar#{n}", f"part {n}", metadata={"chunk_of": "guitar"}) for n in (1, 2)}
    pieces = {i: d for i, d in corpus.items() if i != "guitar"} | chunks
    qrels["q-piano"] = {"piano": 0}
    qrels["q-chess"] = {"gone": 1}
    task = small_task(pieces, queries, qrels, ValidationSettings(), exclude={"q-bread"})
    assert task.qrels["q-guitar"] == {"guitar#1": 1, "guitar#2": 1}
    assert set(task.queries) == set(queries) - {"q-piano", "q-chess", "q-bread"}
    for settings, message in (
        (ValidationSettings(), r"no query to choose by: split.dev holds out none"),
        (ValidationSettings(data="mine", split="dev"), "none of the documents of mine, split dev, is in the corpus"),
    ):
        with pytest.raises(InputError, match=r"^training.validation: .*" + message):
            small_task(pieces, queries, qrels, settings, exclude=set(queries))


def test_the_score_is_the_ndcg_of_the_small_task(corpus, judged):
    queries, qrels = judged
    task = small_task(corpus, queries, qrels, ValidationSettings(queries=4))
    model = load_encoder("packaged:tiny-bert")
    run = Dense(task.corpus, model).search({q: query.text for q, query in task.queries.items()}, 11)
    values = evaluate(task.qrels, run, ("ndcg@10",))["ndcg@10"].values()
    validation = task.validation(BASE, ValidationSettings(evaluations=2, patience=None))
    assert validation.metric == "ndcg@10" and (validation.evaluations, validation.patience) == (2, None)
    assert validation.score(model) == pytest.approx(sum(values) / 4) and 0 < validation.score(model) <= 1
