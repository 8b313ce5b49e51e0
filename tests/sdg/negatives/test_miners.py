"""What each miner ranks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from sharpen.evaluation.beir import Document, Query, read_corpus, read_queries
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder, load_encoder
from sharpen.evaluation.encoders.settings import Encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.dense import Dense
from sharpen.evaluation.runs import fuse, ranking
from sharpen.sdg.negatives import (
    BM25Miner,
    CrossEncoderMiner,
    CustomMiner,
    DenseMiner,
    HybridMiner,
    MiningResult,
    RandomMiner,
)
from sharpen.sdg.resources import Resources
from tests.conftest import shared_dataset

QUERIES = [
    Query(f"q{n}", text, {"positives": ["bread"]})
    for n, text in enumerate(["ice on water", "strings and keys", "hot drinks"])
]
TINY = "packaged:tiny-bert"


def _base():
    return Resources(Models(Encoder(model=TINY, precision="float32")))


def _bm25(corpus, text, depth, **options):
    return BM25Miner(**options).mine([Query("q", text)], corpus, depth, None, 0).run["q"]


def test_bm25s_gives_the_scores_of_rank_bm25():
    """Whose loops are easy to check; on real documents, with words that stand in a query twice."""
    folder = shared_dataset("scifact")
    corpus = dict(list(read_corpus(folder / "corpus.jsonl").items())[:1500])
    first = list(read_queries(folder / "queries.jsonl").values())[:60]
    queries = [Query(q.id, f"{q.text} {q.text.split()[0]}") for q in first]
    fast, oracle = (
        BM25Miner(backend=backend).mine(queries, corpus, 30, None, 0).run for backend in ("bm25s", "rank_bm25")
    )
    for query in queries:
        assert sorted(fast[query.id].values()) == pytest.approx(sorted(oracle[query.id].values()), abs=1e-4)
        for i in fast[query.id].keys() & oracle[query.id].keys():
            assert oracle[query.id][i] == pytest.approx(fast[query.id][i], abs=1e-4)


@pytest.mark.parametrize("texts", [("the of and", ""), ("one word", "one word")])
@pytest.mark.parametrize("query", ["one", "the", "", "unknown words", "one one word"])
def test_bm25_backends_agree_on_odd_corpora(texts, query):
    corpus = {f"d{n}": Document(f"d{n}", text) for n, text in enumerate(texts)}
    fast, oracle = (_bm25(corpus, query, 5, backend=backend) for backend in ("bm25s", "rank_bm25"))
    assert fast == pytest.approx(oracle, abs=1e-6)


def test_a_language_is_named_by_its_code():
    for miner in (BM25Miner, HybridMiner):
        with pytest.raises(ValidationError, match="language"):
            miner(language="slovak")
        assert miner(language="sk").language == "sk" and miner().language is None


def test_a_language_stems_and_none_does_not():
    corpus = {"a": Document("a", "die Häuser brennen"), "b": Document("b", "Brot backen")}
    assert set(_bm25(corpus, "ein Haus", 2, language="de")) == {"a"}
    assert _bm25(corpus, "ein Haus", 2, language="none") == {}


def test_the_old_name_of_weight_is_refused_with_the_new_one():
    with pytest.raises(ValidationError, match="share of a miner is called weight now"):
        RandomMiner(share=2)


def test_ranks_are_in_order():
    with pytest.raises(ValidationError, match="first rank must not be greater"):
        BM25Miner(ranks=(3, 2))


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("model", [None, TINY])
def test_dense_mining_in_blocks_is_the_search_of_the_whole(corpus, block, model):
    whole = Dense(corpus, load_encoder(TINY), precision="float32").search({q.id: q.text for q in QUERIES}, 5)
    resources = _base()
    resources.models.precision = "float32"
    run = DenseMiner(model=model, block=block).mine(QUERIES, corpus, 5, resources, 0).run
    assert {q: ranking(scores) for q, scores in run.items()} == {q: ranking(scores) for q, scores in whole.items()}
    for q in run:  # batches of other widths round otherwise
        assert run[q] == pytest.approx(whole[q], abs=2e-3)


def test_prompts_of_a_model_are_put_before_its_texts(corpus):
    resources = _base()
    plain = DenseMiner(model=TINY).mine(QUERIES, corpus, 5, resources, 0).run
    prompted = DenseMiner(model=TINY, query_prompt="glue: ").mine(QUERIES, corpus, 5, resources, 0).run
    assert plain["q0"] != prompted["q0"]


def test_the_model_in_training_mines_in_place_of_the_base(corpus):
    resources = _base()
    model = load_encoder(TINY)
    changed = Resources(resources.models.with_current(model))
    before = DenseMiner().mine(QUERIES, corpus, 5, changed, 0).run
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.mul_(-1.5)
    later = Resources(resources.models.with_current(model))
    assert DenseMiner().mine(QUERIES, corpus, 5, later, 0).run != before


def test_without_a_base_a_dense_miner_says_what_is_missing(corpus):
    with pytest.raises(InputError, match="no base encoder is given"):
        DenseMiner().mine(QUERIES, corpus, 5, Resources(), 0)


def test_hybrid_fuses_bm25_and_dense(corpus):
    resources = _base()
    parts = [m.mine(QUERIES, corpus, 6, resources, 0).run for m in (BM25Miner(), DenseMiner())]
    assert HybridMiner().mine(QUERIES, corpus, 6, resources, 0).run == fuse(parts)


@pytest.mark.parametrize("of", ["bm25", "dense", "hybrid"])
def test_a_cross_encoder_puts_what_another_miner_ranks_in_its_own_order(corpus, of, monkeypatch):
    model = load_cross_encoder(TINY, new_head=True)
    queries = [Query("q", "water", {"positives": ["bread"]})]
    monkeypatch.setattr("sharpen.evaluation.models.load_cross_encoder", lambda _name: model)
    resources = _base()
    run = CrossEncoderMiner(model=TINY, of=of, depth=4, ranks=(1, 4)).mine(queries, corpus, 12, resources, 0).run["q"]
    first_stage = {"bm25": BM25Miner(), "dense": DenseMiner(), "hybrid": HybridMiner()}[of]
    assert set(run) == set(ranking(first_stage.mine(queries, corpus, 4, resources, 0).run["q"])[:4])
    assert list(run.values()) == pytest.approx(
        score_pairs(model, [("water", corpus[i].content) for i in run]), abs=1e-3
    )
    assert len(run) == 4 and len(set(run.values())) == 4


def test_a_cross_encoder_scores_at_least_the_last_rank():
    with pytest.raises(ValidationError, match="10 documents are scored, and ranks goes to 20"):
        CrossEncoderMiner(model=TINY, depth=10)


def test_random_documents_of_a_query_do_not_depend_on_the_others(corpus):
    run = RandomMiner().mine(QUERIES, corpus, 5, None, 1).run
    assert run == RandomMiner().mine(QUERIES, corpus, 5, None, 1).run
    assert run["q1"] == RandomMiner().mine(QUERIES[1:2], corpus, 5, None, 1).run["q1"]
    assert [len(scores) for scores in run.values()] == [5, 5, 5]
    assert len({tuple(scores) for scores in run.values()}) == 3


USER_FILE = '''
class Longest:
    """Ranks the longest documents first."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def mine(self, queries, corpus, depth, resources, seed):
        longest = sorted(corpus.values(), key=lambda d: -len(d.text))[:depth]
        return {q.id: {d.id: self.factor * len(d.text) for d in longest} for q in queries}
'''


def test_a_users_miner_comes_from_a_file_and_its_sum_is_in_the_fingerprint(tmp_path, corpus):
    path = tmp_path / "my_miner.py"
    path.write_text(USER_FILE)
    miner = CustomMiner(use=f"{path}:Longest", options={"factor": 2}, weight=3, ranks=(1, 5))
    result = miner.mine(QUERIES, corpus, 2, None, 0)
    assert isinstance(result, MiningResult)
    longest = sorted(corpus.values(), key=lambda d: -len(d.text))[:2]
    assert result.run["q0"] == {d.id: 2.0 * len(d.text) for d in longest}
    before = miner.fingerprint()
    assert before["weight"] == 3 and before["options"] == {"factor": 2} and not miner.needs_base()
    path.write_text(USER_FILE.replace("-len", "len"))
    assert miner.fingerprint() != before
    with pytest.raises(InputError, match="no such file"):
        CustomMiner(use=f"{tmp_path / 'other.py'}:Longest").check()
    with pytest.raises(InputError, match="the options are"):
        CustomMiner(use=f"{path}:Longest", options={"unknown": 2}).mine(QUERIES, corpus, 2, None, 0)


def test_a_partial_of_a_users_miner_has_the_sum_of_its_file_too(tmp_path):
    path = tmp_path / "my_miner.py"
    path.write_text(f"from functools import partial\n{USER_FILE}\nTwice = partial(Longest, factor=2.0)\n")
    twice, other = (CustomMiner(use=f"{path}:{name}") for name in ("Twice", "Longest"))
    sum_ = twice.fingerprint()["use"].partition("@")[2]
    assert sum_ and sum_ == other.fingerprint()["use"].partition("@")[2]
    with pytest.raises(InputError, match="the options are"):
        CustomMiner(use=f"{path}:Twice", options={"unknown": 2}).check()


def test_reading_settings_loads_no_model_library():
    code = (
        "import sys; import sharpen.sdg.negatives as n; n.NegativesSettings(); n.LLMMiner(); n.mine_negatives;"
        "print(sorted({'torch', 'sentence_transformers', 'datasets', 'faiss', 'openai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
