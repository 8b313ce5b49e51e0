import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.encoders.precision import has_bf16
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.training.checkpoints import SEAL, disk_errors, newest
from sharpen.training.losses import make_loss
from sharpen.training.merging import weights_of
from sharpen.training.optimization import LoraSettings
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun, on_one_device
from sharpen.training.triplets import Triplet
from sharpen.training.validation import Validation
from tests.conftest import cores
from tests.processes import start


@pytest.fixture(autouse=True)
def backward_in_replicas(monkeypatch):
    """Two cores, as torch counts them. How often replicas of the model computed a backward; None where the optional
    folder ``fast_cpu`` or numba, without which dropout keeps replicas from being used, is missing."""
    used = None
    try:
        from sharpen.training.fast_cpu.kernels import COMPILED
        from sharpen.training.fast_cpu.replicas import _Replicas
    except ModuleNotFoundError:
        COMPILED = False
    if COMPILED:
        used, backward = [], _Replicas.backward
        monkeypatch.setattr(_Replicas, "backward", lambda *given: used.append(1) or backward(*given))
    with cores(2):
        yield used


@pytest.fixture
def task(corpus):
    queries = {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please") for i, d in corpus.items()}
    names = list(corpus)
    triplets = [Triplet(f"q-{i}", i, (names[(n + 1) % len(names)],)) for n, i in enumerate(names)]
    return triplets, queries


@pytest.mark.slow
def test_training_lowers_the_loss_is_repeatable_and_loads_without_us(tmp_path, corpus, task, backward_in_replicas):
    triplets, queries = task
    settings = _settings(epochs=8)
    steps = []
    result = train_retriever(queries, triplets, corpus, settings, tmp_path / "a", 1, TrainingRun(progress=steps.append))
    log = result.log
    assert sum(e["loss"] for e in log[-3:]) < sum(e["loss"] for e in log[:3])
    assert backward_in_replicas is None or len(backward_in_replicas) == len(steps)
    assert result.path == Path(result) == tmp_path / "a" and result.triplets == 12
    assert [s.step for s in steps] == list(range(1, steps[-1].steps + 1))
    assert log[-1]["epoch"] == 8 and log[-1]["learning_rate"] < max(e["learning_rate"] for e in log)
    train_retriever(queries, triplets, corpus, settings, tmp_path / "b", 1)
    train_retriever(queries, triplets, corpus, settings, tmp_path / "c", 2)
    a, b, c = (sha256_file(tmp_path / run / "model.safetensors") for run in "abc")
    assert a == b != c
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt"))
    script = (
        "from sentence_transformers import SentenceTransformer as S;"
        f" print(S({str(tmp_path / 'a')!r}).encode('x').shape)"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        == "(128,)\n"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"in_batch": False},
        {"loss": "cached_mnrl", "mini_batch_size": 2},
        {"loss": "gist"},
        {"loss": "cached_gist", "mini_batch_size": 2},
        {"loss": "margin_mse"},
        {"loss": "kl"},
        {"matryoshka": (128, 64)},
        {"loss": "cached_mnrl", "matryoshka": (128, 32), "mini_batch_size": 3},
        {"loss": "kl", "matryoshka": (128, 64)},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_loss_falls(changes, tmp_path, corpus, task, backward_in_replicas):
    triplets, queries = task
    teacher = {
        (t.query_id, i): float(i == t.positive_id) * 5 for t in triplets for i in (t.positive_id, *t.negative_ids)
    }
    settings = _settings(**changes, epochs=6, dropout=0.0)
    log = train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(teacher=teacher)).log
    assert sum(e["loss"] for e in log[-3:]) < 0.9 * sum(e["loss"] for e in log[:3])
    assert backward_in_replicas is None or bool(backward_in_replicas) != settings.loss.startswith("cached")
    assert load_encoder(str(tmp_path / "m")).encode("x").shape == (128,)


def test_what_a_loss_is_made_of(corpus, task):
    """Against the formulas, on real embeddings."""
    model = load_encoder("packaged:tiny-bert").eval()
    texts = [
        ["baking bread", "a flat tyre", "young plants"],
        *([d.text for d in list(corpus.values())[n : n + 3]] for n in (0, 3)),
    ]
    with torch.no_grad():
        q, p, n = (
            torch.nn.functional.normalize(model.encode(column, convert_to_tensor=True), dim=-1) for column in texts
        )

        def value(labels=None, **changes):
            loss = make_loss(_settings(**changes, precision="float32"), model, lambda: model, 1)
            return float(loss([model.preprocess(column) for column in texts], labels))

        documents, hard = torch.cat([p, n]), torch.stack([(q * p).sum(1), (q * n).sum(1)], dim=1)
        expected = torch.nn.functional.cross_entropy(20 * q @ documents.T, torch.arange(3))
        assert value() == pytest.approx(float(expected), abs=1e-4) == value(loss="cached_mnrl", mini_batch_size=2)
        assert value(in_batch=False, scale=10) == pytest.approx(
            float(torch.nn.functional.cross_entropy(10 * hard, torch.zeros(3, dtype=torch.long))), abs=1e-4
        )
        scores = torch.tensor([[3.0, 1.0], [2.0, 2.5], [0.0, -4.0]])
        margins = (20 * (hard[:, 0] - hard[:, 1]) - (scores[:, 0] - scores[:, 1])) ** 2
        assert value(scores, loss="margin_mse") == pytest.approx(float(margins.mean()), rel=1e-4)
        kl = torch.nn.functional.kl_div(
            torch.log_softmax(20 * hard, 1), torch.softmax(scores, 1), reduction="batchmean"
        )
        # the labels come divided by the temperature
        assert (
            value(scores, loss="kl")
            == value(scores, loss="kl", teacher_temperature=9.0)
            == pytest.approx(float(kl), rel=1e-3)
        )

        def cut(d):
            return torch.nn.functional.cross_entropy(
                20 * torch.nn.functional.normalize(q[:, :d]) @ torch.nn.functional.normalize(documents[:, :d]).T,
                torch.arange(3),
            )

        assert value(matryoshka=(128, 64)) == pytest.approx(float(cut(128) + cut(64)), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8, dropout=0.1)], ids=["all-weights", "lora"])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(lora, tmp_path, corpus, task, backward_in_replicas):
    triplets, queries = task
    settings = _settings(epochs=6, checkpoint_steps=2, lora=lora)
    validation = Validation("ndcg@10", _closeness(queries, corpus), evaluations=6, patience=None)
    run = TrainingRun(validation=validation)
    whole = train_retriever(queries, triplets, corpus, settings, tmp_path / "whole", 1, run)
    assert backward_in_replicas is None or backward_in_replicas
    process = start(_train_and_die, task, corpus, settings, tmp_path)
    process.join()
    assert process.exitcode == -9
    assert not (tmp_path / "m").exists() and sorted(p.name for p in (tmp_path / "work").glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-8",
    ]
    torn = tmp_path / "work" / "checkpoint-12"  # killed while it was written
    shutil.copytree(tmp_path / "work" / "checkpoint-10", torn)
    (torn / SEAL).unlink()
    assert not list((tmp_path / "work").rglob("*.bin"))
    run = TrainingRun(work=tmp_path / "work", validation=validation)
    resumed = train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, run)
    assert resumed.resumed_from == 10
    assert not torn.exists() or (torn / SEAL).exists(), "it may be the best one of the second time"
    assert sha256_file(tmp_path / "m" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")
    assert resumed.to_dict() == whole.to_dict()


def test_a_damaged_checkpoint_is_named(tmp_path, corpus, task):
    triplets, queries = task
    settings = _settings(epochs=2, checkpoint_steps=2, learning_rate=2e-5)
    train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    last = newest(tmp_path / "work")
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(
        InputError, match=r"checkpoint-6: model.safetensors is not what was written.* goes on from checkpoint-4"
    ):
        train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    shutil.rmtree(last)
    assert (
        train_retriever(
            queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work")
        ).resumed_from
        == 4
    )


def test_folders_that_are_called_checkpoints_are_left_where_a_model_is_written(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(InputError, match="the disk is full"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert newest(tmp_path) is None and (tmp_path / "checkpoint-500").is_dir()


def test_a_warm_up_over_all_steps_is_one(tmp_path, corpus, task):
    triplets, queries = task
    settings = _settings(warmup=1.0, learning_rate=1e-4)
    rates = [row["learning_rate"] for row in train_retriever(queries, triplets, corpus, settings, tmp_path, 1).log]
    assert len(rates) > 2 and rates == sorted(rates) and rates[0] < 1e-4 / 2


def test_a_process_trains_on_one_device(tmp_path):
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True)
    assert arguments.device.type == "cpu"
    arguments._n_gpu = 4  # as of a machine with as many
    assert on_one_device(arguments).n_gpu == 1


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, corpus, task):
    triplets, queries = task
    settings = _settings(epochs=2, checkpoint_steps=2, learning_rate=2e-5)
    process = start(_train_on_a_full_disk, task, corpus, settings, tmp_path)
    process.join()
    message = (tmp_path / "message").read_text()
    assert "the disk is full" in message and "goes on from checkpoint-2" in message
    assert [p.name for p in (tmp_path / "work").glob("checkpoint-*")] == ["checkpoint-2"]
    assert (
        train_retriever(
            queries, triplets, corpus, settings, tmp_path / "m", 1, TrainingRun(tmp_path / "work")
        ).resumed_from
        == 2
    )


def test_the_best_state_is_kept_and_training_stops_when_it_gets_no_better(tmp_path, corpus, task):
    triplets, queries = task
    settings = _settings(epochs=10)
    scores, states = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9]), []
    validation = Validation("ndcg@10", lambda model: states.append(weights_of(model)) or next(scores), 10, 3)
    run = TrainingRun(validation=validation)
    result = train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1, run)
    assert [row["ndcg@10"] for row in result.validated] == [0.1, 0.5, 0.4, 0.3, 0.2]
    assert result.kept_step == result.validated[1]["step"] and result.last_step < result.steps == 31
    kept = weights_of(load_encoder(str(tmp_path / "m")))
    assert all(torch.equal(kept[k], states[1][k]) for k in kept)
    assert any(not torch.equal(kept[k], states[2][k]) for k in kept)


def test_low_rank_adapters_are_merged_into_what_is_written(tmp_path, corpus, task):
    triplets, queries = task
    settings = _settings(epochs=4, learning_rate=3e-3, lora=LoraSettings(rank=4, alpha=8))
    log = train_retriever(queries, triplets, corpus, settings, tmp_path / "m", 1).log
    assert log[-1]["loss"] < log[0]["loss"] and not (tmp_path / "m" / "adapter_config.json").exists()
    tuned, base = weights_of(load_encoder(str(tmp_path / "m"))), weights_of(load_encoder("packaged:tiny-bert"))
    assert tuned.keys() == base.keys()
    changed = {k for k in base if not torch.equal(tuned[k], base[k])}
    assert changed and all(
        k.endswith("weight") and ("layer" in k or "pooler" in k) for k in changed - {"0.model.pooler.dense.bias"}
    )  # which the base lacks


def test_the_teachers_scores_are_divided_by_the_temperature_once(tmp_path, corpus, task):
    triplets, queries = task
    teacher = {(t.query_id, i): 3.0 * (i == t.positive_id) for t in triplets for i in (t.positive_id, *t.negative_ids)}
    weights = []
    for name, scores, temperature in (("a", teacher, 1.0), ("b", {pair: 5 * s for pair, s in teacher.items()}, 5.0)):
        settings = _settings(loss="kl", teacher_temperature=temperature)
        train_retriever(queries, triplets, corpus, settings, tmp_path / name, 1, TrainingRun(teacher=scores))
        weights.append(weights_of(load_encoder(str(tmp_path / name))))
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-6) for k in weights[0])


@pytest.mark.parametrize("loss", ["mnrl", "gist"])
def test_the_precision_is_the_settings(loss, tmp_path, corpus, task):
    """bf16 is emulated where the hardware does not have it."""
    triplets, queries = task
    logs = {}
    for precision in ("float32", "bf16", "auto"):
        settings = _settings(loss=loss, precision=precision, dropout=0.0, epochs=2)
        logs[precision] = train_retriever(queries, triplets, corpus, settings, tmp_path / precision, 1).log
    assert logs["auto"] == logs["bf16" if has_bf16("cpu") else "float32"]
    losses = [[e["loss"] for e in logs[precision]] for precision in ("float32", "bf16")]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)


def test_each_text_is_tokenised_once(tmp_path, corpus, task, monkeypatch):
    triplets, queries = task
    tokenised = Counter()
    preprocess = SentenceTransformer.preprocess
    monkeypatch.setattr(
        SentenceTransformer,
        "preprocess",
        lambda self, texts, **kwargs: tokenised.update(texts) or preprocess(self, texts, **kwargs),
    )
    train_retriever(queries, triplets, corpus, _settings(epochs=3), tmp_path / "m", 1)
    assert set(tokenised) == {q.text for q in queries.values()} | {d.content for d in corpus.values()}
    assert set(tokenised.values()) == {1}


def test_mined_rows_are_made_into_triplets(tmp_path, corpus, task, monkeypatch):
    triplets, queries = task
    rows = [_row(t.query_id, t.negative_ids[0], "kept") for t in triplets[1:]]
    rows += [_row(t.query_id, "candle", "dropped") for t in triplets]
    whole = SimpleNamespace(rows=rows)
    with_positives = [replace(q, metadata={"positives": [q.id.removeprefix("q-")]}) for q in queries.values()]
    monkeypatch.chdir(tmp_path)
    weights, ready = [], triplets[1:]
    for negatives in (rows, whole, ready):
        result = train_retriever(with_positives, negatives, corpus, _settings())
        weights.append(sha256_file(result.path / "model.safetensors"))
        assert result.path == Path("model") and result.triplets == 11
        assert result.queries_left_out == (0 if negatives is ready else 1)
    assert len(set(weights)) == 1


def _row(query_id: str, doc_id: str, verdict: str) -> SimpleNamespace:
    return SimpleNamespace(query_id=query_id, doc_id=doc_id, miner="bm25", verdict=verdict)


def _settings(**changes) -> RetrieverSettings:
    return RetrieverSettings(**{"base": "packaged:tiny-bert", "batch_size": 4, "learning_rate": 3e-4} | changes)


def _closeness(queries, corpus):
    """A score that depends on the weights: the mean cosine of each query with its document."""
    documents = [corpus[q.removeprefix("q-")].content for q in queries]
    return lambda model: float(
        (encode(model, [q.text for q in queries.values()]) * encode(model, documents)).sum(1).mean()
    )


def test_errors(tmp_path, corpus, task):
    triplets, queries = task
    with pytest.raises(InputError, match="no triplets"):
        train_retriever(queries, [], corpus, _settings(), tmp_path / "m", 0)
    broken = load_encoder("packaged:tiny-bert")
    next(broken.parameters()).data.fill_(float("nan"))
    broken.save_pretrained(str(tmp_path / "broken"), safe_serialization=True)
    with pytest.raises(InputError, match=r"has values that are not finite numbers"):
        train_retriever(queries, triplets, corpus, _settings(base=str(tmp_path / "broken")), tmp_path / "m", 0)
    with pytest.raises(InputError, match=r"loss was not a number at step \d+; lower training.learning_rate"):
        train_retriever(queries, triplets, corpus, _settings(learning_rate=1e30, epochs=3), tmp_path / "m", 0)
    assert not (tmp_path / "m").exists()
    for changes, teacher, message in (
        ({"loss": "kl"}, None, "training.loss: kl learns a teacher's scores; give training.teacher"),
        ({"matryoshka": (256, 64)}, None, "training.matryoshka: the model has 128 dimensions, so 256"),
        ({"loss": "kl", "in_batch": False}, {}, "training.in_batch: only mnrl"),
    ):
        with pytest.raises(InputError, match=message):
            train_retriever(
                queries, triplets, corpus, _settings(**changes), tmp_path / "m", 0, TrainingRun(teacher=teacher)
            )
    with pytest.raises(InputError, match="there are none; raise"):
        make_loss(_settings(loss="margin_mse"), load_encoder("packaged:tiny-bert"), None, 0)
    with pytest.raises(InputError, match="use cached_gist"):
        make_loss(_settings(loss="gist"), load_encoder("packaged:tiny-bert"), None, 2)


def _train_and_die(task, corpus, settings, folder):
    triplets, queries = task

    def kill(p):
        return os.kill(os.getpid(), signal.SIGKILL) if p.step == 11 else None

    validation = Validation("ndcg@10", _closeness(queries, corpus), evaluations=6, patience=None)
    torch.set_num_threads(2)  # as the other trainings
    run = TrainingRun(folder / "work", kill, validation)
    train_retriever(queries, triplets, corpus, settings, folder / "m", 1, run)


def _train_on_a_full_disk(task, corpus, settings, folder):
    (folder / "message").write_text("nothing")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def full(p):
        return resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)) if p.step == 3 else None

    try:
        triplets, queries = task
        train_retriever(queries, triplets, corpus, settings, folder / "m", 1, TrainingRun(folder / "work", full))
    except InputError as error:
        (folder / "message").write_text(str(error))
