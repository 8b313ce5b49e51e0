import subprocess
import sys

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from evaluation.data import Query
from evaluation.files import InputError, sha256_file
from evaluation.models import load_encoder
from training.losses import RankingLoss
from training.retriever import RetrieverSettings, train_retriever
from training.triplets import Triplet


@pytest.fixture
def task(corpus):
    queries = {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please") for i, d in corpus.items()}
    names = list(corpus)
    triplets = [Triplet(f"q-{i}", i, (names[(n + 1) % len(names)],)) for n, i in enumerate(names)]
    return triplets, queries


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_sorting_by_length_changes_neither_loss_nor_gradient(prompt):
    columns = [["a", "two words", "now three words", "x " * 50], ["b " * n for n in (90, 1, 7, 30)], ["c " * n for n in (2, 60, 5, 4)]]
    results = []
    for kind in (MultipleNegativesRankingLoss, RankingLoss):
        model = load_encoder("packaged:tiny-bert").eval()
        with torch.autocast("cpu", enabled=False):
            features = [model.preprocess(texts, prompt=prompt if n == 0 else None) for n, texts in enumerate(columns)]
            loss = kind(model)
            if kind is RankingLoss:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("training.losses.autocast", lambda device: torch.autocast("cpu", enabled=False))
                    patch.setattr("training.losses.CPU_ROWS", 3)
                    value = loss(features, None)
            else:
                value = loss(features, None)
        value.backward()
        results.append((value.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def test_training_lowers_the_loss_is_repeatable_and_loads_without_us(tmp_path, corpus, task):
    triplets, queries = task
    settings = RetrieverSettings("packaged:tiny-bert", epochs=8, batch_size=4, learning_rate=3e-4)
    steps = []
    log = train_retriever(triplets, queries, corpus, settings, tmp_path / "a", 1, steps.append)
    assert sum(e["loss"] for e in log[-3:]) < sum(e["loss"] for e in log[:3])
    assert [s.step for s in steps] == list(range(1, steps[-1].steps + 1))
    assert log[-1]["epoch"] == 8 and log[-1]["learning_rate"] < max(e["learning_rate"] for e in log)
    train_retriever(triplets, queries, corpus, settings, tmp_path / "b", 1)
    train_retriever(triplets, queries, corpus, settings, tmp_path / "c", 2)
    a, b, c = (sha256_file(tmp_path / run / "model.safetensors") for run in "abc")
    assert a == b != c
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt"))
    script = f"from sentence_transformers import SentenceTransformer as S; print(S({str(tmp_path / 'a')!r}).encode('x').shape)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True).stdout == "(128,)\n"


def test_a_share_of_the_base_is_mixed_back_in(tmp_path, corpus, task):
    triplets, queries = task
    weights = {}
    for share in (0.0, 0.25):
        train_retriever(triplets, queries, corpus, RetrieverSettings("packaged:tiny-bert", learning_rate=1e-3, batch_size=4, base_share=share), tmp_path / str(share), 1)
        weights[share] = load_encoder(str(tmp_path / str(share))).state_dict()
    base = load_encoder("packaged:tiny-bert").state_dict()
    name = next(k for k in base if k.endswith("query.weight"))
    assert torch.allclose(weights[0.25][name], 0.75 * weights[0.0][name] + 0.25 * base[name], atol=1e-6)


def test_errors(tmp_path, corpus, task):
    triplets, queries = task
    with pytest.raises(InputError, match="no triplets"):
        train_retriever([], queries, corpus, RetrieverSettings("packaged:tiny-bert"), tmp_path / "m", 0)
    broken = load_encoder("packaged:tiny-bert")
    next(broken.parameters()).data.fill_(float("nan"))
    broken.save_pretrained(str(tmp_path / "broken"), safe_serialization=True)
    with pytest.raises(InputError, match="loss is nan at step 1;"):
        train_retriever(triplets, queries, corpus, RetrieverSettings(str(tmp_path / "broken"), batch_size=4), tmp_path / "m", 0)
    assert not (tmp_path / "m").exists()
