"""Which system to deploy: chosen on some queries, confirmed on others, and no dearer than need be."""

import json

import numpy as np
import pytest
from sentence_transformers.util.quantization import semantic_search_faiss

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.datasets import Task, load_task
from sharpen.evaluation.metrics import PRIMARY, evaluate
from sharpen.evaluation.report.systems import Systems
from sharpen.evaluation.retrievers import quantized
from sharpen.evaluation.retrievers.base import search_task
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.retrievers.multi_vector import MultiVector
from sharpen.evaluation.retrievers.quantized import Quantized
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.systems import Choosing, compare_systems
from tests.conftest import shared_dataset


def bm25(corpus, _keep):
    return BM25(corpus)


def test_the_best_system_is_chosen_on_one_half_and_confirmed_on_the_other():
    task = load_task(str(shared_dataset("cranfield")), "test")
    names = sorted(task.qrels)
    halves = [
        Task(task.corpus, task.queries, {q: task.qrels[q] for q in part}, name)
        for part, name in ((names[::2], "dev"), (names[1::2], "test"))
    ]
    calls = []

    def plain(corpus, _keep):
        calls.append(corpus)
        return BM25(corpus, language="none", b=1.0)

    class Backwards:
        def __init__(self, first):
            self.first = first

        def search(self, queries, k):
            found = self.first.search(queries, k)
            return {q: {d: -score for d, score in documents.items()} for q, documents in found.items()}

    systems = compare_systems(
        Choosing(halves[0]),
        halves[1],
        {"plain": plain, "BM25": bm25},
        baseline="plain",
        rerank=lambda first, _corpus, _known: Backwards(first),
    )
    searched, *samples = calls  # an index is made once; of a sample it is timed
    assert (
        searched is task.corpus
        and [len(sample) for sample in samples] == [200]
        and systems.queries == len(halves[0].qrels)
    )
    rows = {row.name: row for row in systems.systems}
    alone = {"plain", "BM25", *(n for n in rows if n.startswith("plain + ") and "," not in n)}
    assert set(rows) == alone | {f"{name}, reranked" for name in alone}
    first = max((row for row in rows.values() if not row.reranked), key=lambda row: row.chosen_by)
    assert systems.best == first.name and systems.comparison.names == ("plain", first.name)
    assert systems.lead.verdict == "better"
    assert systems.lead.value == pytest.approx(first.chosen_by - rows["plain"].chosen_by)
    assert rows[f"{first.name}, reranked"].chosen_by < first.chosen_by  # as it puts the worst first
    values = evaluate(halves[1].qrels, search_task(halves[1], BM25(task.corpus)))[PRIMARY].values()
    assert rows["BM25"].test.value == pytest.approx(np.mean(list(values)))
    assert f"**{systems.deploy}**" in "\n".join(systems.markdown()) and systems.best in systems.plain()


def test_on_few_queries_the_system_that_is_first_by_chance_is_not_served():
    task = load_task(str(shared_dataset("cranfield")), "test")
    few = Task(task.corpus, task.queries, {q: task.qrels[q] for q in sorted(task.qrels)[:4]}, "dev")
    systems = compare_systems(
        Choosing(few, "dev queries"),
        task,
        {"plain": lambda corpus, _keep: BM25(corpus, language="none", b=1.0), "BM25": bm25},
        baseline="BM25",
    )
    rows = {row.name: row for row in systems.systems}
    assert systems.first != "BM25" and rows[systems.first].chosen_by > rows["BM25"].chosen_by
    assert systems.best == "BM25" and systems.lead.verdict != "better"
    assert "No system is clearly better than BM25 on 4 dev queries. First there is" in systems.plain()


class Vectors:
    """An index whose scores are made up: the relevant document of a query is the first, but for those of ``wrong``
    parts of the queries."""

    def __init__(self, corpus, wrong=0.0, noise=0.0):
        self.ids, self._wrong, self._noise = list(corpus), wrong, noise
        self.vectors = np.zeros((len(corpus), 8), np.float32)

    @property
    def nbytes(self):
        return self.vectors.nbytes

    def score_blocks(self, texts, rows):
        for start in range(0, len(texts), rows):
            yield np.stack([self._scores(text) for text in texts[start : start + rows]])

    def _scores(self, text):
        number = int(text.split()[1])
        place = number if (number % 100) / 100 >= self._wrong else (number + 1) % len(self.ids)
        scores = np.zeros(len(self.ids), np.float32)
        scores[place] = 1
        return scores

    def search(self, queries, k):
        blocks = self.score_blocks(list(queries.values()), 1)
        found = {
            q: dict(zip(self.ids, block[0].tolist(), strict=True)) for q, block in zip(queries, blocks, strict=True)
        }
        return {q: {i: scores[i] for i in ranking(scores)[:k]} for q, scores in found.items()}


class Small(Vectors):
    """A variant, of fewer bytes."""

    @property
    def nbytes(self):
        return len(self.ids)


def _tasks(number=100):
    corpus = {f"d{n:03}": Document(f"d{n:03}", f"text {n}") for n in range(number)}
    queries = {f"q{n}": Query(f"q{n}", f"query {n}") for n in range(number)}
    qrels = {f"q{n}": {f"d{n:03}": 1} for n in range(number)}
    return [Task(corpus, queries, {q: qrels[q] for q in list(qrels)[part::2]}, f"part {part}") for part in (0, 1)]


def _chosen(variants, base=0.5, tuned=0.0):
    choosing, test = _tasks()
    indexes = {"base": lambda c, _keep: Vectors(c, base), "tuned": lambda c, _keep: Vectors(c, tuned)}
    return compare_systems(Choosing(choosing), test, indexes, baseline="base", variants={"tuned": variants})


def test_a_cheaper_system_that_is_as_good_is_deployed_and_both_costs_are_said():
    systems = _chosen({"small": lambda index: Small(index.ids), "worse": lambda index: Small(index.ids, 0.3)})
    assert (systems.first, systems.best, systems.deploy) == ("tuned", "tuned", "tuned, small")
    rows = {row.name: row for row in systems.systems}
    assert rows["tuned"].bytes_per_document == 32 and rows["tuned, small"].bytes_per_document == 1
    assert systems.cheaper.is_confirmed and systems.cheaper.test.value == 0
    said = systems.plain()
    assert (
        said.startswith("Deploy tuned, small: ") and "1 bytes a document. It is not distinguishable from tuned" in said
    )
    assert "and cheaper (" in said and "32 bytes a document)" in said and "the test queries confirm that" in said
    assert "| **tuned, small** |" in "\n".join(systems.markdown())


def test_a_cheaper_system_that_is_worse_is_not_deployed():
    systems = _chosen({"worse": lambda index: Small(index.ids, 0.3)})
    assert systems.cheaper is None and systems.deploy == "tuned" and systems.plain().startswith("Deploy tuned: ")


def test_what_few_queries_cannot_tell_apart_but_loses_more_than_a_point_is_not_deployed():
    systems = _chosen({"worse": lambda index: Small(index.ids, 0.04)})
    worse = next(row for row in systems.systems if row.name == "tuned, worse")
    best = next(row for row in systems.systems if row.name == "tuned")
    assert best.chosen_by - worse.chosen_by > 0.01 and systems.cheaper is None


def test_a_cheaper_system_that_the_test_queries_refute_is_named_and_not_deployed():
    class GoodOnOne(Small):
        def _scores(self, text):  # queries that choose have even numbers
            return super()._scores(text if int(text.split()[1]) % 2 == 0 else "query 0")

    systems = _chosen({"odd": lambda index: GoodOnOne(index.ids)})
    assert systems.cheaper.name == "tuned, odd" and not systems.cheaper.is_confirmed and systems.deploy == "tuned"
    assert systems.cheaper.test.verdict == "worse" and "the test queries do not confirm that" in systems.plain()


def test_an_encoder_with_a_vector_a_token_is_a_model_that_has_to_be_served():
    choosing, test = _tasks(20)
    systems = compare_systems(
        Choosing(choosing),
        test,
        {"tokens": lambda corpus, _keep: MultiVector(corpus, "packaged:tiny-bert"), "BM25": bm25},
        baseline="tokens",
    )
    tokens, words = systems.named("tokens"), systems.named("BM25")
    assert (tokens.models, words.models) == (1, 0) and words.needs == "inverted index"
    assert tokens.needs.startswith("encoder, ") and tokens.needs.endswith(" MB of vectors")


def test_the_lead_is_adjusted_for_the_number_of_systems():
    few = _chosen({}, base=0.12)
    many = _chosen({f"v{n}": lambda index: Small(index.ids, 0.12) for n in range(4)}, base=0.12)
    assert few.lead.value == many.lead.value > 0 and few.lead.p < 0.05 < many.lead.p
    assert (few.best, many.best) == ("tuned", "base") and many.lead.verdict == "not distinguishable"


def test_a_report_with_weights_says_that_they_were_chosen_on_the_same_queries():
    choosing, test = _tasks()
    indexes = {"base": lambda c, _keep: Vectors(c, 0.1), "BM25": bm25}
    fused = "\n".join(compare_systems(Choosing(choosing), test, indexes, baseline="base").markdown())
    assert "Each weight is the best of 9 on the dev queries" in fused
    assert "Each weight" not in "\n".join(_chosen({}).markdown())


def test_what_was_made_before_costs_were_measured_is_read_and_shown():
    systems = _chosen({"small": lambda index: Small(index.ids)}).model_dump(mode="json")
    del systems["cheaper"]
    for row in systems["systems"]:
        for name in ("models", "bytes_per_document", "documents_per_second"):
            del row[name]
    old = Systems.model_validate_json(json.dumps(systems))
    assert old.deploy == old.best == "tuned" and old.plain().startswith("Best system on 50 dev queries: tuned.")
    assert "| **tuned** |" in "\n".join(old.markdown())


@pytest.mark.parametrize(("bits", "least"), [("int8", 0.97), ("binary", 0.4)])
def test_quantised_embeddings_find_what_the_whole_ones_find(bits, least):
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(40, 128))
    vectors = (centres[rng.integers(0, 40, 2000)] + 0.5 * rng.normal(size=(2000, 128))).astype(np.float32)
    vectors[7] = 0  # without a token
    corpus = {f"d{n}": Document(f"d{n}", "ice") for n in range(2000)}
    dense = _dense(corpus, vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))
    queries = {f"q{n}": str(n) for n in range(50)}
    whole, small = dense.search(queries, 10), Quantized(dense, bits).search(queries, 10)
    assert all(list(run[q]) == ranking(run[q]) and len(run[q]) == 10 for run in (whole, small) for q in queries)
    assert all("d7" not in run for run in small.values())
    assert np.mean([len(set(whole[q]) & set(small[q])) / 10 for q in queries]) >= least
    if bits == "int8":
        pairs = [(whole[q][d], small[q][d]) for q in queries for d in set(whole[q]) & set(small[q])]
        np.testing.assert_allclose(*zip(*pairs, strict=True), atol=0.01)
    assert Quantized(dense, bits).nbytes == 2000 * (128 if bits == "int8" else 16)


def test_binary_embeddings_are_rescored_block_by_block(monkeypatch):
    vectors = np.random.default_rng(3).normal(size=(200, 32)).astype(np.float32)
    index = Quantized(_dense({f"d{n}": Document(f"d{n}", "ice") for n in range(200)}, vectors), "binary")
    queries = {f"q{n}": str(n) for n in range(50)}
    whole, asked = index.search(queries, 10), []

    def search(vectors, **options):
        asked.append((len(vectors), options["top_k"]))
        return semantic_search_faiss(vectors, **options)

    monkeypatch.setattr(quantized, "semantic_search_faiss", search)
    monkeypatch.setattr(quantized, "RESCORED_NUMBERS", 20 * 4 * 11 * 32)
    assert index.search(queries, 10) == whole and asked == [(20, 11), (20, 11), (10, 11)]
    index.search(dict(list(queries.items())[:1]), 10_000)
    assert asked[3:] == [(1, 200)]


def _dense(corpus, vectors):
    """An index of these vectors; the query "n" is the n-th of them."""
    index = Dense(dict(list(corpus.items())[:2]), "packaged:tiny-bert")
    index.ids, index.vectors, index._without_token = list(corpus), vectors, {7}
    index.encode_queries = lambda texts, _progress=None: vectors[100:][[int(text) for text in texts]]
    return index
