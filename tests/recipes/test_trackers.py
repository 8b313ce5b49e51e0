"""What trackers hold of a run, read back from what the real packages wrote."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from sharpen.recipes.stages.tracking import tracked as tracked_training
from sharpen.training.settings import RetrieverSettings
from tests.conftest import TOPICS
from tests.processes import sharpen

TRACKERS = ("wandb", "mlflow", "tensorboard")


@pytest.fixture(scope="session")  # a module's would be made twice where another file's tests come in between
def tracked(plain):
    """A run that goes on from the one without trackers, told to all of them."""
    for package in ("wandb", "mlflow", "tensorboardX"):
        pytest.importorskip(package)
    folder = plain.parent / "tracked"
    more = [f"training.trackers=[{', '.join(TRACKERS)}]", "name=tracked", "training.epochs=3"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(plain.parent))
        patch.setenv("SECRET_KEY", "sk-of-nobody")
        result = sharpen("run", str(plain.parents[1] / "plain.yaml"), *more, cwd=plain.parents[1])
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines() if "told of the result" in line] == list(TRACKERS)
    return folder, json.loads((folder / "metrics.json").read_text()), result


def _check(folder: Path, metrics: dict, told: dict[str, float]) -> None:
    for side in ("before", "after"):
        assert told[f"{side}/ndcg_at_10"] == pytest.approx(metrics[side]["ndcg@10"]["value"])
    difference = metrics["delta"]["ndcg@10"]
    assert told["difference/ndcg_at_10"] == pytest.approx(difference["value"])
    assert told["difference_low/ndcg_at_10"] == pytest.approx(difference["interval"][0])
    counts = json.loads((folder / "pairs" / "manifest.json").read_text())["counts"]
    assert told["pairs/train"] == counts["train"] > 0 and told["after/queries"] == metrics["queries"] == 6


def _losses(folder: Path) -> list[tuple[int, float]]:
    log = json.loads((folder / "training" / "training_log.json").read_text())["log"]
    assert log
    return [(row["step"], pytest.approx(row["loss"])) for row in log]


def _records(data: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's layout, with wandb's seven bytes before it: a sum, a length and a kind before each
    piece, and no piece that crosses a block of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


def test_wandb_offline_holds_before_after_counts_curves_and_the_report(tracked):
    from wandb.proto import wandb_internal_pb2

    folder, metrics, _ = tracked
    runs = {}
    for file in (folder / "wandb").glob("offline-run-*/*.wandb"):
        records = [wandb_internal_pb2.Record.FromString(data) for data in _records(file.read_bytes())]
        runs[next(r.run.display_name for r in records if r.HasField("run"))] = records
    assert set(runs) == {"tracked", "tracked-training"}
    records = runs["tracked"]
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for r in records
        if r.HasField("summary")
        for item in r.summary.update
    }
    _check(folder, metrics, summary)
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.HasField("history")
    ]
    assert [(r["training/step"], r["training/loss"]) for r in rows if "training/loss" in r] == _losses(folder)
    artefacts = [r.request.log_artifact.artifact if r.HasField("request") else r.artifact for r in records]
    files = {e.path for a in artefacts for e in a.manifest.contents}
    assert files >= {"report.md"}
    live = [r for r in runs["tracked-training"] if r.HasField("history")]
    assert live  # the curves came while it was trained, too


def test_mlflow_holds_before_after_counts_curves_and_the_report(tracked, monkeypatch):
    from mlflow import MlflowClient

    folder, metrics, _ = tracked
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("sharpen")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"tracked", "tracked-training"}
    run = runs["tracked"]
    _check(folder, metrics, run.data.metrics)
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(m.step, m.value) for m in history] == _losses(folder)
    assert run.data.params["training.loss"] == "mnrl" and run.data.params["verdict"] == metrics["verdict"]
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"report.md", "curves.png"}


def test_tensorboard_holds_before_after_counts_curves_and_the_report(tracked):
    from tensorboardX.proto.event_pb2 import Event

    folder, metrics, _ = tracked
    scalars, texts = {}, {}
    told = (folder / "tensorboard" / "tracked").glob("events*")
    data = min(told, key=lambda file: file.stat().st_mtime).read_bytes()  # another test tells it once more
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            if value.HasField("tensor") and value.tensor.string_val:
                texts[value.tag] = value.tensor.string_val[0].decode()
            else:
                number = value.simple_value if value.HasField("simple_value") else value.tensor.float_val[0]
                scalars.setdefault(value.tag, []).append((event.step, number))
    _check(folder, metrics, {name: rows[0][1] for name, rows in scalars.items()})
    assert scalars["training/loss"] == _losses(folder)
    assert any("ndcg@10" in text for name, text in texts.items() if name.startswith("report"))
    assert any("Which system to deploy" in text for text in texts.values())
    assert list((folder / "tensorboard" / "training").glob("events*"))


def test_no_text_and_no_secret_is_tracked(tracked):
    folder, _, _ = tracked
    texts = [text for title, text in TOPICS.values()] + ["flat tire what now", "how long does dough rest"]
    words = [text[:30] for text in texts] + ["sk-of-nobody"]
    for tracker in ("wandb", "mlruns", "tensorboard"):
        for file in (folder / tracker).rglob("*"):
            if file.is_file():
                found = [w for w in words if w.encode() in file.read_bytes()]
                assert not found, (file, found)


def test_a_run_is_told_once_and_again_to_a_new_tracker(tracked):
    folder, _, _ = tracked
    same = sharpen("run", str(folder), cwd=folder)
    assert same.returncode == 0 and "told of the result" not in same.stdout
    other = sharpen("run", str(folder), "training.trackers=[tensorboard]", cwd=folder)
    assert other.stdout.count("told of the result") == 1 and "✓ training   unchanged" in other.stdout


def test_a_training_goes_on_without_a_tracker_that_cannot_be_opened(tmp_path, monkeypatch):
    opened = []

    @contextmanager
    def unreachable(*_):
        raise ConnectionError("nobody is there")
        yield

    @contextmanager
    def reachable(_run, name):
        opened.append(name)
        yield

    monkeypatch.setattr("sharpen.recipes.trackers._OPEN", {"mlflow": unreachable, "tensorboard": reachable})
    settings = RetrieverSettings(base="packaged:tiny-bert", trackers=("mlflow", "tensorboard", "trackio"))
    warned = []
    with tracked_training(settings, tmp_path / "mine", "training", SimpleNamespace(warn=warned.append)) as given:
        assert given.trackers == ("tensorboard", "trackio") and opened == ["mine-training"]
    assert warned == ["mlflow gets no curves of this training (ConnectionError: nobody is there)."]


@pytest.mark.parametrize("error", [None, ValueError("of the training")])
def test_a_training_is_not_lost_by_a_tracker_that_cannot_be_closed(tmp_path, monkeypatch, error):
    @contextmanager
    def unclosable(*_):
        try:
            yield
        finally:
            raise ConnectionError("nobody is there")

    monkeypatch.setattr("sharpen.recipes.trackers._OPEN", {"mlflow": unclosable})
    settings = RetrieverSettings(base="packaged:tiny-bert", trackers=("mlflow",))
    warned = []
    with (
        pytest.raises(ValueError, match="of the training") if error else nullcontext(),
        tracked_training(settings, tmp_path / "mine", "training", SimpleNamespace(warn=warned.append)),
    ):
        if error:
            raise error
    assert warned == ["mlflow may lack curves of this training (ConnectionError: nobody is there)."]


def test_a_tracker_that_fails_is_a_warning_and_is_told_again(plain, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = sharpen("run", str(plain), "training.trackers=[mlflow]", cwd=plain)
    assert result.returncode == 0 and "mlflow was not told of the result" in result.stdout
    assert (plain / "metrics.json").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again = [sharpen("run", str(plain), "training.trackers=[mlflow]", cwd=plain).stdout for _ in range(2)]
    assert ["mlflow     told of the result" in printed for printed in again] == [True, False]


def test_trackio_holds_before_and_after(tracked, monkeypatch, tmp_path):
    pytest.importorskip("trackio")
    folder, metrics, _ = tracked
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    result = sharpen("run", str(folder), "training.trackers=[trackio]", cwd=folder)
    assert result.returncode == 0 and "told of the result" in result.stdout, result.stdout
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("sharpen", "tracked")
    _check(folder, metrics, {key: value for row in rows for key, value in row.items()})
