import os
import signal
import subprocess
import sys

import pytest

from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.encode import score_pairs
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import ranking
from sharpen.training.reranker import train_reranker
from sharpen.training.settings import RerankerSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from tests.processes import start


@pytest.fixture
def task(corpus):
    queries = {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please", {"positives": [i]}) for i, d in corpus.items()}
    names = list(corpus)
    return [Triplet(f"q-{i}", i, (names[(n + 1) % 12], names[(n + 5) % 12])) for n, i in enumerate(names)], queries


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bce", "listwise", "distillation"])
def test_every_loss_puts_the_documents_in_order(loss, tmp_path, corpus, task):
    triplets, queries = task
    teacher = {(t.query_id, i): 6.0 * (i == t.positive_id) for t in triplets for i in (t.positive_id, *t.negative_ids)}
    settings = RerankerSettings(
        base="packaged:tiny-bert", loss=loss, epochs=25, batch_size=4, learning_rate=1e-3, dropout=0.0
    )
    done = train_reranker(queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(teacher=teacher))
    assert done.log[-1]["loss"] < 0.5 * done.log[0]["loss"] and done.kept_step == done.steps == 75
    model = load_cross_encoder(str(tmp_path / "m"))
    scores = score_pairs(
        model,
        [(queries[t.query_id].text, corpus[i].content) for t in triplets for i in (t.positive_id, *t.negative_ids)],
    )
    first = sum(scores[3 * n] > max(scores[3 * n + 1 : 3 * n + 3]) for n in range(12))
    assert first >= 10
    # usable at once where a cross-encoder is asked for: BM25's best four are put in the order of its scores
    texts, bm25 = {q.id: q.text for q in queries.values()}, BM25(corpus)
    run, best = Reranked(first=bm25, corpus=corpus, model=model, depth=4).search(texts, 3), bm25.search(texts, 4)
    for q, text in texts.items():
        values = dict(zip(best[q], score_pairs(model, [(text, corpus[i].content) for i in best[q]]), strict=True))
        assert ranking(run[q]) == sorted(values, key=values.get, reverse=True)[:3]
    assert not [p for p in (tmp_path / "m").rglob("*") if p.suffix in (".bin", ".pt")]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_reranker_which_loads_without_us(tmp_path, corpus, task):
    triplets, queries = task
    settings = RerankerSettings(base="packaged:tiny-bert", epochs=2, batch_size=4, checkpoint_steps=2)
    for name in "ab":
        train_reranker(queries, triplets, corpus, settings, tmp_path / name, 1, TrainingRun(tmp_path / f"work {name}"))
    assert sha256_file(tmp_path / "a" / "model.safetensors") == sha256_file(tmp_path / "b" / "model.safetensors")
    script = (
        f"from sentence_transformers import CrossEncoder as C; print(C({str(tmp_path / 'a')!r}).predict([('a',"
        " 'b')]).shape)"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        == "(1,)\n"
    )


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, corpus, task):
    triplets, queries = task
    settings = RerankerSettings(
        base="packaged:tiny-bert", epochs=4, batch_size=4, learning_rate=3e-4, dropout=0.1, checkpoint_steps=2
    )
    whole = train_reranker(queries, triplets, corpus, settings, tmp_path / "whole", 1)
    process = start(_train_and_die, task, corpus, settings, tmp_path)
    process.join()
    assert process.exitcode == -9 and not (tmp_path / "m").exists()
    resumed = train_reranker(queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    assert resumed.resumed_from == 6 and resumed.log == whole.log
    assert sha256_file(tmp_path / "m" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")


def _train_and_die(task, corpus, settings, folder):
    def kill(p):
        return os.kill(os.getpid(), signal.SIGKILL) if p.step == 7 else None

    triplets, queries = task
    train_reranker(queries, triplets, corpus, settings, folder / "m", 1, TrainingRun(folder / "work", kill))


def test_errors(tmp_path, corpus, task):
    triplets, queries = task
    with pytest.raises(InputError, match="an encoder, not a reranker"):
        load_cross_encoder("packaged:tiny-bert")
    settings = RerankerSettings(base="packaged:tiny-bert")
    for rows, changes, message in (
        ([], {}, "no triplets"),
        (triplets, {"loss": "distillation"}, "reranker.loss: distillation learns a teacher's scores"),
        ([Triplet("q", "a", ())], {}, "learns from negatives"),
    ):
        with pytest.raises(InputError, match=message):
            train_reranker(queries, rows, corpus, settings.model_copy(update=changes), tmp_path / "m", 0)


def test_numbers_that_are_none_name_the_rerankers_key(tmp_path, corpus, task):
    triplets, queries = task
    settings = RerankerSettings(base="packaged:tiny-bert", batch_size=4, learning_rate=1e30, epochs=2)
    with pytest.raises(InputError, match=r"^reranker: .* not a number .*; lower reranker.learning_rate"):
        train_reranker(queries, triplets, corpus, settings, tmp_path / "m", 0)
    assert not (tmp_path / "m").exists()
