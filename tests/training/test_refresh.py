import os
import signal
from dataclasses import replace

import pytest
import torch

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.load import load_encoder
from sharpen.evaluation.files import InputError, sha256_file
from sharpen.training.optimization import LoraSettings
from sharpen.training.refresh import train_with_refresh
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from sharpen.training.validation import Validation
from tests.conftest import cores
from tests.processes import start

SETTINGS = RetrieverSettings(
    base="packaged:tiny-bert", epochs=3, batch_size=4, learning_rate=3e-4, dropout=0.0, checkpoint_steps=1
)


@pytest.fixture(autouse=True)
def two_cores():
    with cores(2):
        yield


@pytest.fixture
def corpus(corpus):
    """With another document for each, which answers no query: so all batches are full."""
    return corpus | {f"{i}-rest": Document(f"{i}-rest", d.text[len(d.text) // 2 :]) for i, d in corpus.items()}


@pytest.fixture
def queries(corpus):
    return {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please") for i, d in corpus.items() if d.title}


class Miner:
    """Other negatives for each epoch; keeps the weights that it is given."""

    def __init__(self, corpus):
        self.names, self.weights = [i for i, d in corpus.items() if d.title], []

    def __call__(self, model):
        self.weights.append(model and torch.cat([p.detach().flatten() for p in model.parameters()]).clone())
        by = len(self.weights)
        return [Triplet(f"q-{i}", i, (f"{self.names[(n + by) % 12]}-rest",)) for n, i in enumerate(self.names)], by


def test_each_epoch_is_mined_with_the_model_before_it_and_the_last_one_is_kept(tmp_path, corpus, queries):
    mine = Miner(corpus)
    result = train_with_refresh(queries, mine, corpus, SETTINGS, tmp_path / "m", 1)
    assert len(mine.weights) == 3 and mine.weights[0] is None
    assert not torch.equal(mine.weights[1], mine.weights[2])
    assert result.steps == result.last_step == result.kept_step == 9 and result.path == tmp_path / "m"
    assert result.queries_left_out == 3, "of the last epoch"
    assert [row["step"] for row in result.log] == list(range(1, 10))
    assert [row["epoch"] for row in result.log] == pytest.approx([n / 3 for n in range(1, 10)])
    # linear, as it stands at the beginning of each epoch, after a warm-up of 0.1 of all steps
    assert [row["learning_rate"] for row in result.log][3:] == pytest.approx([2e-4] * 3 + [1e-4] * 3)
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "what it worked with is gone"
    again = train_with_refresh(queries, Miner(corpus), corpus, SETTINGS, tmp_path / "again", 1)
    assert again.to_dict() == result.to_dict()


def test_the_best_epoch_is_kept(tmp_path, corpus, queries):
    scores = iter([0.2, 0.7, 0.5])
    validation = Validation("ndcg@10", lambda model: next(scores), evaluations=1)
    mine = Miner(corpus)
    run = TrainingRun(validation=validation)
    result = train_with_refresh(queries, mine, corpus, SETTINGS, tmp_path / "m", 1, run)
    assert [(row["step"], row["ndcg@10"]) for row in result.validated] == [(3, 0.2), (6, 0.7), (9, 0.5)]
    assert result.kept_step == 6 and result.last_step == 9
    kept = torch.cat([p.detach().flatten() for p in load_encoder(str(tmp_path / "m")).parameters()])
    assert torch.equal(kept, mine.weights[2]), "what the third epoch was mined with"


@pytest.mark.slow
def test_a_killed_training_goes_on_in_its_last_epoch(tmp_path, corpus, queries):
    whole = train_with_refresh(queries, Miner(corpus), corpus, SETTINGS, tmp_path / "whole", 1)
    process = start(_train_and_die, queries, corpus, tmp_path)
    process.join()
    assert process.exitcode == -9 and not (tmp_path / "m").exists()
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["epoch-1", "epoch-2"]
    mine = Miner(corpus)
    mine.weights.append(None)  # as after the first epoch
    result = train_with_refresh(queries, mine, corpus, SETTINGS, tmp_path / "m", 1, TrainingRun(tmp_path / "work"))
    assert len(mine.weights) == 3, "the first epoch is not mined for again"
    assert result.to_dict() == whole.to_dict()
    assert sha256_file(tmp_path / "m" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")


def _train_and_die(queries, corpus, folder):
    steps = []

    def kill(progress):
        steps.append(progress)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(2)
    train_with_refresh(
        queries, Miner(corpus), corpus, SETTINGS, folder / "m", 1, TrainingRun(folder / "work", progress=kill)
    )


def test_adapters_and_teachers_do_not_fit(tmp_path, corpus, queries):
    with pytest.raises(InputError, match=r"^negatives.refresh: adapters .* training.lora: null"):
        lora = SETTINGS.model_copy(update={"lora": LoraSettings()})
        train_with_refresh(queries, Miner(corpus), corpus, lora, tmp_path / "m")
    with pytest.raises(InputError, match=r"^negatives.refresh: a teacher"):
        run = replace(TrainingRun(), teacher={("q", "d"): 1.0})
        train_with_refresh(queries, Miner(corpus), corpus, SETTINGS, tmp_path / "m", 1, run)
