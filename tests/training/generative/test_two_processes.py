"""The first stage with two processes of ``accelerate launch``, for which this file is also what they run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharpen.evaluation.generative.model import load_generative
from sharpen.evaluation.processes import end_processes, process_state
from sharpen.training.generative.preference import PreferencePair, train_preference
from sharpen.training.generative.settings import GenerativeSettings, PreferenceSettings
from sharpen.training.generative.trainer import train_generative
from tests.processes import environment_with_tests
from tests.support.tiny_lms import language_model
from tests.training.generative.test_trainer import IDENTIFIERS, QUERIES, TEXTS


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """Both stages; examples are of different lengths, so the two have different numbers of mini-batches."""
    base = language_model(tmp_path / "base")
    for processes in (1, 2):
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
        launch += ["--main_process_port", "0", *(["--multi_gpu"] if processes > 1 else [])]
        done = subprocess.run(
            [*launch, __file__, base, tmp_path / str(processes)],
            env=environment_with_tests(CUDA_VISIBLE_DEVICES=""),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("first", "second"):
        one, two = (load_generative(tmp_path / n / stage).model.state_dict() for n in "12")
        assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
        logs = [json.loads((tmp_path / n / f"{stage}.json").read_text())["log"] for n in "12"]
        assert [row["loss"] for row in logs[0]] == pytest.approx([row["loss"] for row in logs[1]], abs=1e-3)


def main(base: str, output: str) -> None:
    folder = Path(output)
    settings = GenerativeSettings(
        base=base,
        epochs=2,
        batch_size=8,
        learning_rate=1e-3,
        max_tokens=64,
        mini_batch_tokens=64,
        dropout=0,
        precision="float32",
    )
    first = train_generative(TEXTS, QUERIES, IDENTIFIERS, settings, folder / "first", 1)
    process_state().wait_for_everyone()
    # identifiers of the same length, so that means over tokens are the same however the pairs are split
    pairs = [PreferencePair(q.text, f"d{n}", f"d{n + 3}", q.key) for n, q in enumerate(QUERIES[:16]) if n % 3]
    processes = process_state().num_processes
    options = PreferenceSettings(batch_size=4, mini_batch_size=4 // processes, learning_rate=1e-3, precision="float32")
    second = train_preference(folder / "first", pairs[:8], options, folder / "second", 1)
    if process_state().is_main_process:
        for name, result in (("first", first), ("second", second)):
            (folder / f"{name}.json").write_text(json.dumps(result.to_dict()))
    end_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
