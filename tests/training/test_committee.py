"""Several rerankers as one: trained on parts of the queries, resumed, loaded and asked by their folder."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.committee import COMMITTEE, Committee
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.models import Models
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import ranking
from sharpen.sdg.negatives.cross_encoder import CrossEncoderMiner
from sharpen.sdg.resources import Resources
from sharpen.training.reranker import train_reranker
from sharpen.training.settings import RerankerSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from tests.conftest import TOPICS
from tests.processes import start

SETTINGS = RerankerSettings(
    base="packaged:tiny-bert", committee=3, epochs=1, batch_size=2, learning_rate=1e-3, checkpoint_steps=1
)


def _task():
    queries = {f"q-{i}": Query(f"q-{i}", f"{title.lower()} please") for i, (title, _) in TOPICS.items()}
    names = list(TOPICS)
    return [Triplet(f"q-{i}", i, (names[(n + 1) % 12], names[(n + 5) % 12])) for n, i in enumerate(names)], queries


@pytest.fixture(scope="module")
def committee(tmp_path_factory):
    """One trained committee that several tests ask."""
    from sharpen.evaluation.beir import Document

    triplets, queries = _task()
    corpus = {i: Document(i, text, title) for i, (title, text) in TOPICS.items()}
    folder = tmp_path_factory.mktemp("committee") / "reranker"
    return folder, train_reranker(queries, triplets, corpus, SETTINGS, folder, seed=1)


def _alone(folder, pairs) -> np.ndarray:
    """Scores by each member, of shape (members, pairs)."""
    return np.array(
        [score_pairs(load_cross_encoder(str(folder / f"member-{n}")), pairs, precision="float32") for n in (1, 2, 3)]
    )


def test_members_are_ordinary_cross_encoders_that_learnt_from_other_queries(committee, tmp_path, corpus):
    folder, result = committee
    triplets, queries = _task()
    assert (
        result.path == folder
        and result.triplets == 12
        and json.loads((folder / COMMITTEE).read_text()) == {"members": ["member-1", "member-2", "member-3"]}
    )
    # four queries of three documents each, and a batch has six pairs
    assert result.steps == result.last_step == result.kept_step == 3 * 2
    assert [row["step"] for row in result.log] == list(range(1, 7))
    pairs = [("bread please", corpus["bread"].content), ("bread please", corpus["glacier"].content)]
    scores = _alone(folder, pairs)
    assert len({tuple(row) for row in scores.round(6).tolist()}) == 3
    for n in (1, 2, 3):
        assert CrossEncoder(str(folder / f"member-{n}")).predict(pairs).shape == (2,)
    # the first is what one reranker on these queries would be
    part = [t for t in triplets if t.query_id in _queries_of(triplets, member=0)]
    train_reranker(queries, part, corpus, _settings(1), tmp_path / "one", seed=1)
    assert sha256_file(tmp_path / "one" / "model.safetensors") == sha256_file(folder / "member-1" / "model.safetensors")


def _queries_of(triplets, member):
    from sharpen.training.committee import query_parts

    parts = [{t.query_id for t in part} for part in query_parts(triplets, 3, seed=1)]
    assert sorted(map(len, parts)) == [4, 4, 4] and len(set.union(*parts)) == 12
    assert parts != [{t.query_id for t in part} for part in query_parts(triplets, 3, seed=2)]
    return parts[member]


def _settings(members: int) -> RerankerSettings:
    return SETTINGS.model_copy(update={"committee": members})


def test_the_mean_of_standardized_scores_ranks_wherever_a_cross_encoder_does(committee, corpus):
    folder, _ = committee
    model = load_cross_encoder(str(folder))
    assert isinstance(model, Committee) and len(model.members) == 3
    texts = {"q1": "how does ice move downhill", "q2": "when does dough rise in the oven"}
    pairs = [(text, d.content) for text in texts.values() for d in corpus.values()]
    told = []
    scores = np.array(score_pairs(model, pairs, told.append, precision="float32")).reshape(2, 12)
    assert sum(told) == len(pairs)
    alone = _alone(folder, pairs).reshape(3, 2, 12)
    deviations = alone.std(axis=2, keepdims=True)
    mean = ((alone - alone.mean(axis=2, keepdims=True)) / deviations).mean(axis=0)
    for row, expected in zip(scores, mean, strict=True):
        np.testing.assert_allclose((row - row.mean()) / row.std(), expected / expected.std(), atol=1e-4)
    np.testing.assert_allclose(scores.mean(axis=1), alone.mean(axis=(0, 2)), atol=1e-4)  # logits, as the members' are
    order = {q: [list(corpus)[n] for n in np.argsort(-row)] for q, row in zip(texts, mean, strict=True)}
    everything = Reranked(_All(), corpus, model, depth=12, precision="float32")
    assert {q: ranking(found) for q, found in everything.search(texts, 12).items()} == order
    assert everything.models == 3

    queries = {q: Query(q, text, {"positives": []}) for q, text in texts.items()}
    asked = [(q, i) for q in texts for i in corpus]
    for remember in (False, True):  # remembered are the members' scores, which do not depend on what else is asked for
        models = Models(remember_scores=remember, precision="float32")
        models.score(str(folder), asked[:3], queries, corpus)
        found = models.score(str(folder), asked, queries, corpus)
        np.testing.assert_allclose([found[pair] for pair in asked], scores.flatten(), atol=1e-4)
    miner = CrossEncoderMiner(model=str(folder), ranks=(1, 5), depth=6)
    mined = miner.mine(list(queries.values()), corpus, 5, Resources(Models()), 1).run
    assert set(mined["q1"]) == set(ranking(BM25(corpus).search(texts, 6)["q1"]))


class _All:
    def search(self, queries, k):
        return {q: {i: -float(n) for n, i in enumerate(TOPICS)} for q in queries}


def test_a_killed_training_goes_on_with_the_members_that_are_whole(committee, tmp_path, corpus):
    folder, whole = committee
    process = start(_train_and_die, tmp_path, corpus)
    process.join()
    assert process.exitcode == -9 and not (tmp_path / "m").exists()
    triplets, queries = _task()
    trained = []
    run = TrainingRun(tmp_path / "work", progress=lambda progress: trained.append(progress.step))
    first = tmp_path / "work" / "member-1" / "model.safetensors"
    written = first.stat().st_mtime_ns
    resumed = train_reranker(queries, triplets, corpus, SETTINGS, tmp_path / "m", 1, run)
    # two of the first member and one of the second; the step that it was killed in had no checkpoint yet
    assert resumed.resumed_from == 3 and len(trained) == 3
    assert first.stat().st_mtime_ns == written
    assert resumed.log == whole.log
    for n in (1, 2, 3):
        name = f"member-{n}/model.safetensors"
        assert sha256_file(tmp_path / "m" / name) == sha256_file(folder / name)
    again = train_reranker(queries, triplets, corpus, SETTINGS, tmp_path / "m", 1, replace(run, progress=None))
    assert again.resumed_from == 6 and again.log == whole.log


def _train_and_die(folder, corpus):
    seen = []

    def kill(_progress):
        seen.append(1)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    triplets, queries = _task()
    train_reranker(queries, triplets, corpus, SETTINGS, folder / "m", 1, TrainingRun(folder / "work", kill))


def test_what_is_wrong_is_said(committee, tmp_path, corpus):
    triplets, queries = _task()
    with pytest.raises(InputError, match=r"^reranker.committee: 13 members .* there are 12; lower it"):
        train_reranker(queries, triplets, corpus, _settings(13), tmp_path / "m")
    folder, _ = committee
    with pytest.raises(InputError, match=r"a committee of 3, and one model is trained; name .*member-1"):
        train_reranker(queries, triplets, corpus, RerankerSettings(base=str(folder)), tmp_path / "m")
    broken = tmp_path / "broken"
    broken.mkdir()
    for members in ('{"members": ["../elsewhere"]}', '{"members": []}', "[]", "{", '{"members": "member-1"}'):
        (broken / COMMITTEE).write_text(members)
        with pytest.raises(InputError, match=r"committee.json: expected"):
            load_cross_encoder(str(broken))
    (broken / COMMITTEE).write_text('{"members": ["member-1"]}')
    with pytest.raises(InputError, match="its member member-1 is not there"):
        load_cross_encoder(str(broken))


def test_one_reranker_in_the_place_of_a_committee_is_loaded_as_one(tmp_path, corpus):
    triplets, queries = _task()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / COMMITTEE).write_text('{"members": ["member-1"]}')
    train_reranker(queries, triplets[:4], corpus, _settings(1), tmp_path / "m", 1)
    assert isinstance(load_cross_encoder(str(tmp_path / "m")), CrossEncoder)
    assert "committee" not in _settings(1).fingerprint()
    assert _settings(2).fingerprint()["committee"] == 2
