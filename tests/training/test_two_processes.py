"""Training with two processes of ``accelerate launch``, for which this file is also what they run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.files import sha256_file
from sharpen.evaluation.processes import end_processes, process_state
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.triplets import Triplet
from sharpen.training.validation import Validation
from tests.conftest import TOPICS, encoder_weights
from tests.processes import environment_with_tests

POSITIVES = {i: Document(i, text[: len(text) // 2], title) for i, (title, text) in TOPICS.items()}
NEGATIVES = {f"{i}-rest": Document(f"{i}-rest", text[len(text) // 2 :]) for i, (_, text) in TOPICS.items()}
"""Each of one row only, so that all batches are full."""
CORPUS = POSITIVES | NEGATIVES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "alike"),
    [
        ("cached_mnrl", 0.99),
        ("gist", 0.85),  # which also contrasts queries with queries, and these are not gathered
    ],
)
def test_two_processes_learn_what_one_does(loss, alike, tmp_path):
    alone = _train(loss, tmp_path / "alone", processes=1)
    together = _train(loss, tmp_path / "together", processes=2)
    assert [row["step"] for row in alone["validated"]] == [row["step"] for row in together["validated"]]
    assert alone["validated"][-1]["closeness"] > alone["validated"][0]["closeness"], "something was learnt"
    base, one, two = (
        encoder_weights(f)
        for f in ("packaged:tiny-bert", str(tmp_path / "alone" / "m"), str(tmp_path / "together" / "m"))
    )
    assert torch.cosine_similarity(one - base, two - base, dim=0) > alike
    if loss == "cached_mnrl":  # once: what they go on from is the same of every loss
        _go_on_where_one_was_killed(loss, tmp_path, together)


def _go_on_where_one_was_killed(loss: str, tmp_path: Path, together: dict) -> None:
    assert _train(loss, tmp_path / "killed", processes=2, killed_at=8) is None
    assert not (tmp_path / "killed" / "m").exists()
    resumed = _train(loss, tmp_path / "killed", processes=2)
    assert resumed.pop("resumed_from") == 6 and together.pop("resumed_from") is None
    assert resumed == together
    weights = [sha256_file(tmp_path / n / "m" / "model.safetensors") for n in ("killed", "together")]
    assert weights[0] == weights[1]


def _train(loss: str, folder: Path, processes: int, killed_at: int = 0) -> dict | None:
    """What came of it; None if it failed."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        str(processes),
        "--main_process_port",
        "0",
    ]
    launch += ["--multi_gpu"] if processes > 1 else []
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*launch, __file__, loss, folder, str(killed_at)],
        env=environment_with_tests(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode != 0) == bool(killed_at), done.stderr[-3000:]
    return None if killed_at else json.loads((folder / "done.json").read_text())


def main(loss: str, folder: str, killed_at: str) -> None:
    queries = {f"q-{i}": Query(f"q-{i}", f"{d.title.lower()} please") for i, d in POSITIVES.items()}
    triplets = [Triplet(f"q-{i}", i, (negative,)) for i, negative in zip(POSITIVES, reversed(NEGATIVES), strict=True)]
    settings = RetrieverSettings(
        base="packaged:tiny-bert",
        loss=loss,
        mini_batch_size=2,
        epochs=4,
        batch_size=4,
        learning_rate=3e-4,
        checkpoint_steps=3,
        dropout=0.0,
    )

    def closeness(model) -> float:
        texts = [q.text for q in queries.values()], [d.content for d in POSITIVES.values()]
        vectors = [encode(model, column) for column in texts]
        return float((vectors[0] * vectors[1]).sum(axis=1).mean())

    def kill(progress) -> None:
        if progress.step == int(killed_at) and process_state().process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    validation = Validation("closeness", closeness, evaluations=4, patience=None)
    run = TrainingRun(work=Path(folder) / "work", progress=kill, validation=validation)
    result = train_retriever(queries, triplets, CORPUS, settings, Path(folder) / "m", 1, run)
    if process_state().is_main_process:
        rows = result.to_dict() | {"resumed_from": result.resumed_from}
        (Path(folder) / "done.json").write_text(json.dumps(rows))
    end_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
