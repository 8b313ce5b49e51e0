"""Training with FSDP2 on two processes of ``accelerate launch``, for which this file is also what they run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch.distributed.fsdp import FSDPModule

from sharpen.evaluation.encoders.encode import encode
from sharpen.evaluation.files import sha256_file
from sharpen.evaluation.processes import end_processes, process_state
from sharpen.training import sharding
from sharpen.training.optimization import LoraSettings
from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.trainer import TrainingRun
from sharpen.training.validation import Validation
from tests.processes import environment_with_tests
from tests.support.tiny_lms import language_model
from tests.support.word_pairs import CORPUS, QUERIES, TRIPLETS

LORA = {"lora": LoraSettings(rank=4)}
KINDS = {
    "mnrl": ({}, 1e-3),
    "lora": (LORA | {"loss": "cached_mnrl", "mini_batch_size": 2, "gradient_checkpointing": True}, 1e-3),
    "bf16": (LORA | {"weights": "bf16"}, 0.05),
}
"""Settings, and by how much losses and weights may differ from those of one process."""


class Killed(Exception):
    pass


@pytest.mark.slow
def test_two_processes_that_share_the_weights_learn_what_one_does_and_go_on_where_they_were_killed(tmp_path):
    language_model(tmp_path / "base")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    launch += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    done = subprocess.run(
        [*launch, __file__, tmp_path],
        env=environment_with_tests(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    fractions, units = zip(*json.loads((tmp_path / "shares.json").read_text()), strict=True)
    assert max(fractions) < 0.6 and set(units) == {3}, "each has a half, by two layers and the rest"
    for kind, (options, tolerance) in KINDS.items():
        alone = train(tmp_path, f"{kind}-alone", options)
        together, resumed = (json.loads((tmp_path / f"{kind}{name}.json").read_text()) for name in ("", "-killed"))
        losses = [[row["loss"] for row in result["log"]] for result in (alone, together)]
        assert losses[0][0] > losses[0][-1] + 0.01, "something was learnt"
        assert losses[1] == pytest.approx(losses[0], abs=tolerance)
        assert together["validated"] == [pytest.approx(row, abs=tolerance) for row in alone["validated"]]
        assert resumed["resumed_from"] == 6 and resumed["log"] == together["log"]
        assert sha256_file(tmp_path / kind / "model.safetensors") == sha256_file(
            tmp_path / f"{kind}-killed" / "model.safetensors"
        )
        weights = [load_file(tmp_path / name / "model.safetensors") for name in (f"{kind}-alone", kind)]
        assert weights[0].keys() == weights[1].keys()
        for name, weight in weights[0].items():
            torch.testing.assert_close(weights[1][name], weight, atol=tolerance, rtol=0)
        SentenceTransformer(str(tmp_path / kind), device="cpu").encode(["bread"])


def train(folder: Path, name: str, options: dict, killed_at: int = 0) -> dict:
    settings = RetrieverSettings(
        base=str(folder / "base"),
        epochs=8,
        batch_size=4,
        learning_rate=3e-3,
        checkpoint_steps=3,
        dropout=0.0,
        precision="float32",
        **options,
    )

    def closeness(model) -> float:
        texts = [q.text for q in QUERIES.values()], [CORPUS[t.positive_id].content for t in TRIPLETS]
        vectors = [encode(model, column, precision="float32") for column in texts]
        return float((vectors[0] * vectors[1]).sum(axis=1).mean())

    def kill(progress) -> None:
        if progress.step == killed_at:
            raise Killed

    validation = Validation("closeness", closeness, evaluations=2, patience=None)
    run = TrainingRun(folder / f"{name}-work", kill, validation)
    result = train_retriever(QUERIES, TRIPLETS, CORPUS, settings, folder / name, 1, run)
    return result.to_dict() | {"resumed_from": result.resumed_from}


def main(folder: str) -> None:
    shares, gather = [], sharding.gather_weights

    def gather_and_count(sharded, whole) -> None:
        own, all_ = (
            sum(p.numel() for p in ps) for ps in ([p.to_local() for p in sharded.parameters()], whole.parameters())
        )
        shares.append((own / all_, sum(isinstance(m, FSDPModule) for m in sharded.modules())))
        gather(sharded, whole)

    sharding.gather_weights = gather_and_count
    for kind, (options, _) in KINDS.items():
        results = {kind: train(Path(folder), kind, options)}
        with pytest.raises(Killed):
            train(Path(folder), f"{kind}-killed", options, killed_at=8)
        results[f"{kind}-killed"] = train(Path(folder), f"{kind}-killed", options)
        for name, result in results.items() if process_state().is_main_process else ():
            (Path(folder) / f"{name}.json").write_text(json.dumps(result))
    if process_state().is_main_process:
        (Path(folder) / "shares.json").write_text(json.dumps(shares))
    end_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
