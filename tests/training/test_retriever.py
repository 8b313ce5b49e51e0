import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from copy import deepcopy

import pytest
import torch
from sentence_transformers import SentenceTransformer

from sharpen.evaluation.beir import Query
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.training.checkpoints import SEAL, newest
from sharpen.training.losses import make_loss
from sharpen.training.merging import interpolate, weights_of
from sharpen.training.micro_batches import _Copies
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import LoraSettings, LossSettings, RetrieverSettings
from sharpen.training.trainer import Validation
from sharpen.training.triplets import Triplet
from tests.conftest import cores
from tests.processes import start


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    """Two cores, as torch counts them, of which each has passes of its own; filled whenever they compute a way back."""
    used, backward = [], _Copies.backward
    monkeypatch.setattr(_Copies, "backward", lambda *given: used.append(1) or backward(*given))
    with cores(2):
        yield used


@pytest.fixture
def task(corpus):
    queries = {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please") for i, d in corpus.items()}
    names = list(corpus)
    triplets = [Triplet(f"q-{i}", i, (names[(n + 1) % len(names)],)) for n, i in enumerate(names)]
    return triplets, queries


def test_training_lowers_the_loss_is_repeatable_and_loads_without_us(tmp_path, corpus, task, shared):
    triplets, queries = task
    settings = RetrieverSettings("packaged:tiny-bert", epochs=8, batch_size=4, learning_rate=3e-4)
    steps = []
    log = train_retriever(triplets, queries, corpus, settings, tmp_path / "a", 1, progress=steps.append).log
    assert sum(e["loss"] for e in log[-3:]) < sum(e["loss"] for e in log[:3]) and len(shared) == len(steps)
    assert [s.step for s in steps] == list(range(1, steps[-1].steps + 1))
    assert log[-1]["epoch"] == 8 and log[-1]["learning_rate"] < max(e["learning_rate"] for e in log)
    train_retriever(triplets, queries, corpus, settings, tmp_path / "b", 1)
    train_retriever(triplets, queries, corpus, settings, tmp_path / "c", 2)
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


def test_a_share_of_the_base_is_mixed_back_in():
    base = load_encoder("packaged:tiny-bert")
    tuned = deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1.0)
    model, first, second = load_encoder("packaged:tiny-bert"), weights_of(tuned), weights_of(base)
    interpolate(model, first, second, 0.25)
    mixed = weights_of(model)
    assert all(torch.allclose(mixed[k], second[k] + 0.75, atol=1e-6) for k, _ in base.named_parameters())
    interpolate(model, first, second, 1.0)
    assert all(torch.equal(t, second[k]) for k, t in weights_of(model).items())
    with pytest.raises(ValueError, match="not the same weights"):
        interpolate(model, first, {}, 0.5)


@pytest.mark.parametrize(
    "loss",
    [
        LossSettings(in_batch=False),
        LossSettings("cached_mnrl", mini_batch_size=2),
        LossSettings("gist"),
        LossSettings("cached_gist", mini_batch_size=2),
        LossSettings("margin_mse"),
        LossSettings("kl"),
        LossSettings(matryoshka=(128, 64)),
        LossSettings("cached_mnrl", matryoshka=(128, 32), mini_batch_size=3),
        LossSettings("kl", matryoshka=(128, 64)),
    ],
    ids=lambda s: f"{s.name}{'' if s.in_batch else '-own'}{s.matryoshka or ''}",
)
def test_every_loss_falls(loss, tmp_path, corpus, task, shared):
    triplets, queries = task
    teacher = {
        (t.query_id, i): float(i == t.positive_id) * 5 for t in triplets for i in (t.positive_id, *t.negative_ids)
    }
    settings = RetrieverSettings("packaged:tiny-bert", loss, epochs=6, batch_size=4, learning_rate=3e-4, dropout=0.0)
    log = train_retriever(triplets, queries, corpus, settings, tmp_path / "m", 1, teacher=teacher).log
    assert sum(e["loss"] for e in log[-3:]) < 0.9 * sum(e["loss"] for e in log[:3])
    assert bool(shared) != loss.name.startswith("cached")
    assert load_encoder(str(tmp_path / "m")).encode("x").shape == (128,)


def test_what_a_loss_is_made_of(corpus, task):
    """Against the formulas, on real embeddings."""
    model = load_encoder("packaged:tiny-bert").eval()
    texts = [
        ["baking bread", "a flat tyre", "young plants"],
        *([d.text for d in list(corpus.values())[n : n + 3]] for n in (0, 3)),
    ]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("sharpen.training.micro_batches.autocast", lambda device: torch.autocast("cpu", enabled=False))
        q, p, n = (
            torch.nn.functional.normalize(model.encode(column, convert_to_tensor=True), dim=-1) for column in texts
        )

        def value(settings, labels=None):
            return float(
                make_loss(settings, model, lambda: model, 1)([model.preprocess(column) for column in texts], labels)
            )

        documents, own = torch.cat([p, n]), torch.stack([(q * p).sum(1), (q * n).sum(1)], dim=1)
        expected = torch.nn.functional.cross_entropy(20 * q @ documents.T, torch.arange(3))
        assert (
            value(LossSettings())
            == pytest.approx(float(expected), abs=1e-4)
            == value(LossSettings("cached_mnrl", mini_batch_size=2))
        )
        assert value(LossSettings(in_batch=False, scale=10)) == pytest.approx(
            float(torch.nn.functional.cross_entropy(10 * own, torch.zeros(3, dtype=torch.long))), abs=1e-4
        )
        scores = torch.tensor([[3.0, 1.0], [2.0, 2.5], [0.0, -4.0]])
        margins = (20 * (own[:, 0] - own[:, 1]) - (scores[:, 0] - scores[:, 1])) ** 2
        assert value(LossSettings("margin_mse"), scores) == pytest.approx(float(margins.mean()), rel=1e-4)
        kl = torch.nn.functional.kl_div(torch.log_softmax(20 * own, 1), torch.softmax(scores, 1), reduction="batchmean")
        # the labels come divided by the temperature
        assert (
            value(LossSettings("kl"), scores)
            == value(LossSettings("kl", teacher_temperature=9.0), scores)
            == pytest.approx(float(kl), rel=1e-3)
        )

        def cut(d):
            return torch.nn.functional.cross_entropy(
                20 * torch.nn.functional.normalize(q[:, :d]) @ torch.nn.functional.normalize(documents[:, :d]).T,
                torch.arange(3),
            )

        assert value(LossSettings(matryoshka=(128, 64))) == pytest.approx(float(cut(128) + cut(64)), abs=1e-3)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8, dropout=0.1)], ids=["all-weights", "lora"])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(lora, tmp_path, corpus, task, shared):
    triplets, queries = task
    settings = RetrieverSettings(
        "packaged:tiny-bert", epochs=6, batch_size=4, learning_rate=3e-4, checkpoint_steps=2, lora=lora
    )
    validation = Validation("ndcg@10", _closeness(queries, corpus), evaluations=6, patience=None)
    whole = train_retriever(triplets, queries, corpus, settings, tmp_path / "whole", 1, validation=validation)
    assert shared
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
    resumed = train_retriever(
        triplets, queries, corpus, settings, tmp_path / "m", 1, validation=validation, work=tmp_path / "work"
    )
    assert resumed.resumed_from == 10 and (
        not torn.exists() or (torn / SEAL).exists()
    )  # it may be the best one of the second time
    assert sha256_file(tmp_path / "m" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")
    assert resumed.validated == whole.validated and resumed.kept_step == whole.kept_step and resumed.log == whole.log


def test_a_damaged_checkpoint_is_named(tmp_path, corpus, task):
    triplets, queries = task
    settings = RetrieverSettings("packaged:tiny-bert", epochs=2, batch_size=4, checkpoint_steps=2)
    train_retriever(triplets, queries, corpus, settings, tmp_path / "m", 1, work=tmp_path / "work")
    last = newest(tmp_path / "work")
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(
        InputError, match=r"checkpoint-6: model.safetensors is not what was written.* goes on from checkpoint-4"
    ):
        train_retriever(triplets, queries, corpus, settings, tmp_path / "m", 1, work=tmp_path / "work")
    shutil.rmtree(last)
    assert (
        train_retriever(triplets, queries, corpus, settings, tmp_path / "m", 1, work=tmp_path / "work").resumed_from
        == 4
    )


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, corpus, task):
    triplets, queries = task
    settings = RetrieverSettings("packaged:tiny-bert", epochs=2, batch_size=4, checkpoint_steps=2)
    process = start(_train_on_a_full_disk, task, corpus, settings, tmp_path)
    process.join()
    said = (tmp_path / "said").read_text()
    assert "the disk is full" in said and "goes on from checkpoint-2" in said
    assert [p.name for p in (tmp_path / "work").glob("checkpoint-*")] == ["checkpoint-2"]
    assert (
        train_retriever(triplets, queries, corpus, settings, tmp_path / "m", 1, work=tmp_path / "work").resumed_from
        == 2
    )


def test_the_best_state_is_kept_and_training_stops_when_it_gets_no_better(tmp_path, corpus, task):
    triplets, queries = task
    settings = RetrieverSettings("packaged:tiny-bert", epochs=10, batch_size=4, learning_rate=3e-4)
    scores, seen = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9]), []
    done = train_retriever(
        triplets,
        queries,
        corpus,
        settings,
        tmp_path / "m",
        1,
        validation=Validation("ndcg@10", lambda model: seen.append(weights_of(model)) or next(scores), 10, 3),
    )
    assert (
        [row["ndcg@10"] for row in done.validated] == [0.1, 0.5, 0.4, 0.3, 0.2]
        and done.kept_step == done.validated[1]["step"]
        and done.ended < done.steps == 31
    )
    kept = weights_of(load_encoder(str(tmp_path / "m")))
    assert all(torch.equal(kept[k], seen[1][k]) for k in kept) and any(
        not torch.equal(kept[k], seen[2][k]) for k in kept
    )


def test_low_rank_adapters_are_merged_into_what_is_written(tmp_path, corpus, task):
    triplets, queries = task
    settings = RetrieverSettings(
        "packaged:tiny-bert", epochs=4, batch_size=4, learning_rate=3e-3, lora=LoraSettings(rank=4, alpha=8)
    )
    log = train_retriever(triplets, queries, corpus, settings, tmp_path / "m", 1).log
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
        settings = RetrieverSettings(
            "packaged:tiny-bert", LossSettings("kl", teacher_temperature=temperature), batch_size=4, learning_rate=3e-4
        )
        train_retriever(triplets, queries, corpus, settings, tmp_path / name, 1, teacher=scores)
        weights.append(weights_of(load_encoder(str(tmp_path / name))))
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-6) for k in weights[0])


def test_each_text_is_tokenised_once(tmp_path, corpus, task):
    triplets, queries = task
    seen = Counter()
    with pytest.MonkeyPatch.context() as patch:
        own = SentenceTransformer.preprocess
        patch.setattr(
            SentenceTransformer,
            "preprocess",
            lambda self, texts, **kwargs: seen.update(texts) or own(self, texts, **kwargs),
        )
        train_retriever(
            triplets,
            queries,
            corpus,
            RetrieverSettings("packaged:tiny-bert", epochs=3, batch_size=4),
            tmp_path / "m",
            1,
        )
    assert set(seen) == {q.text for q in queries.values()} | {d.content for d in corpus.values()} and set(
        seen.values()
    ) == {1}


def _closeness(queries, corpus):
    """A score that depends on the weights: the mean cosine of each query with its document."""
    documents = [corpus[q.removeprefix("q-")].content for q in queries]
    return lambda model: float(
        (encode(model, [q.text for q in queries.values()]) * encode(model, documents)).sum(1).mean()
    )


def test_errors(tmp_path, corpus, task):
    triplets, queries = task
    with pytest.raises(InputError, match="no triplets"):
        train_retriever([], queries, corpus, RetrieverSettings("packaged:tiny-bert"), tmp_path / "m", 0)
    broken = load_encoder("packaged:tiny-bert")
    next(broken.parameters()).data.fill_(float("nan"))
    broken.save_pretrained(str(tmp_path / "broken"), safe_serialization=True)
    with pytest.raises(InputError, match="loss was not a number at step 1;"):
        train_retriever(
            triplets, queries, corpus, RetrieverSettings(str(tmp_path / "broken"), batch_size=4), tmp_path / "m", 0
        )
    assert not (tmp_path / "m").exists()
    for settings, message in (
        (LossSettings("mnlr"), "no loss 'mnlr'; there are mnrl,"),
        (LossSettings("kl"), "learns a teacher's scores"),
        (LossSettings(matryoshka=(256, 64)), "has 128 dimensions, so 256"),
        (LossSettings("kl", in_batch=False), "only mnrl"),
    ):
        with pytest.raises(InputError, match=message):
            train_retriever(
                triplets,
                queries,
                corpus,
                RetrieverSettings("packaged:tiny-bert", settings),
                tmp_path / "m",
                0,
                teacher={} if "only" in message else None,
            )
    with pytest.raises(InputError, match="there are none; raise"):
        make_loss(LossSettings("margin_mse"), load_encoder("packaged:tiny-bert"), None, 0)
    with pytest.raises(InputError, match="use cached_gist"):
        make_loss(LossSettings("gist"), load_encoder("packaged:tiny-bert"), None, 2)


def _train_and_die(task, corpus, settings, folder):
    triplets, queries = task

    def kill(p):
        return os.kill(os.getpid(), signal.SIGKILL) if p.step == 11 else None

    validation = Validation("ndcg@10", _closeness(queries, corpus), evaluations=6, patience=None)
    torch.set_num_threads(2)  # as the other trainings
    train_retriever(
        triplets, queries, corpus, settings, folder / "m", 1, validation=validation, work=folder / "work", progress=kill
    )


def _train_on_a_full_disk(task, corpus, settings, folder):
    (folder / "said").write_text("nothing")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def full(p):
        return resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)) if p.step == 3 else None

    try:
        train_retriever(*task, corpus, settings, folder / "m", 1, work=folder / "work", progress=full)
    except InputError as error:
        (folder / "said").write_text(str(error))
