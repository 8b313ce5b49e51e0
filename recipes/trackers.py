"""Trackers: wandb, mlflow, trackio and tensorboard, each told the same of a training and of a finished run.

No tracker gets a text of the documents or queries, a key, the console's output, the program's files or its arguments.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = "sharpen"
LIVE = ("wandb", "mlflow", "tensorboard")
"""Trackers that get the curves while a model is trained, and not at the end alone."""
Tell = Callable[["Outcome"], None]


@dataclass(frozen=True)
class Outcome:
    """What is told of a finished run. ``settings``: by key of the recipe. ``metrics``: before, after, their difference,
    and counts of the stages. ``curves``: name to steps and values. ``report``: in Markdown. ``files``: kept beside it.
    """

    settings: Mapping[str, str | float]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    report: Path
    files: Sequence[Path] = ()


@contextmanager
def open_trackers(trackers: Collection[str], run: Path, name: str) -> Iterator[list[Tell]]:
    """Start a run called ``name`` with each tracker, and end it. Yields what to call with an ``Outcome``.

    They write below the folder ``run``, unless the trackers' own variables (``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``,
    ``TRACKIO_DIR``, ``TENSORBOARD_LOGGING_DIR``, ...) say otherwise; wandb is offline where it has no key.
    """
    with _environment(_defaults(run, name) if trackers else {}), ExitStack() as stack:
        yield [stack.enter_context(_OPEN[tracker](run, name)) for tracker in trackers]


def _defaults(run: Path, name: str) -> dict[str, str]:
    run = run.resolve()
    return {
        "WANDB_PROJECT": PROJECT,
        "WANDB_DIR": str(run),
        **({} if _wandb_has_key() else {"WANDB_MODE": "offline"}),
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": (run / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # a database needs more packages
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "TRACKIO_DIR": str(run / "trackio"),
        "TENSORBOARD_LOGGING_DIR": str(run / "tensorboard" / name.removeprefix(f"{run.name}-")),
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _wandb_has_key() -> bool:
    return "WANDB_API_KEY" in os.environ or any(
        "wandb" in file.read_text(encoding="utf-8", errors="replace")
        for name in (".netrc", "_netrc")
        if (file := Path.home() / name).is_file()
    )


@contextmanager
def _wandb(run: Path, name: str) -> Iterator[Tell]:
    import wandb

    settings = wandb.Settings(
        console="off", disable_code=True, disable_git=True, save_code=False, x_disable_meta=True, silent=True
    )
    tracked = wandb.init(project=os.environ["WANDB_PROJECT"], name=name, group=run.name, settings=settings)

    def tell(outcome: Outcome) -> None:
        tracked.config.update(dict(outcome.settings))
        for curve, points in outcome.curves.items():
            step = f"{curve.rpartition('/')[0]}/step"
            tracked.define_metric(curve, step_metric=step)
            for at, value in points:
                tracked.log({step: at, curve: value})
        tracked.summary.update(dict(outcome.metrics))
        artefact = wandb.Artifact(f"{name}-report", type="report")
        for file in (outcome.report, *outcome.files):
            artefact.add_file(str(file))
        tracked.log_artifact(artefact)

    try:
        yield tell
    finally:
        tracked.finish()  # or the next training would go on in this one's curves


@contextmanager
def _mlflow(run: Path, name: str) -> Iterator[Tell]:
    import mlflow

    mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])

    def tell(outcome: Outcome) -> None:
        rows = [(key, str(value)[:500]) for key, value in outcome.settings.items()]
        for start in range(0, len(rows), 100):  # as many as it takes at a time
            mlflow.log_params(dict(rows[start : start + 100]))
        mlflow.log_metrics(dict(outcome.metrics))
        for curve, points in outcome.curves.items():
            for at, value in points:
                mlflow.log_metric(curve, value, step=at)
        for file in (outcome.report, *outcome.files):
            mlflow.log_artifact(str(file))

    with mlflow.start_run(run_name=name, tags={"run": run.name}):
        yield tell


@contextmanager
def _trackio(run: Path, name: str) -> Iterator[Tell]:
    import trackio

    trackio.init(project=PROJECT, name=name, group=run.name, embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def tell(outcome: Outcome) -> None:
        trackio.config.update(dict(outcome.settings), allow_val_change=True)
        for curve, points in outcome.curves.items():
            for at, value in points:
                trackio.log({curve: value}, step=at)
        last = max((at for points in outcome.curves.values() for at, _ in points), default=0)
        report = trackio.Markdown(outcome.report.read_text(encoding="utf-8"))
        trackio.log({**outcome.metrics, "report": report}, step=last)

    try:
        yield tell
    finally:
        trackio.finish()


@contextmanager
def _tensorboard(_run: Path, _name: str) -> Iterator[Tell]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        from tensorboardX import SummaryWriter

    def tell(outcome: Outcome) -> None:
        with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
            for metric, value in outcome.metrics.items():
                writer.add_scalar(metric, value, 0)
            for curve, points in outcome.curves.items():
                for at, value in points:
                    writer.add_scalar(curve, value, at)
            settings = "\n".join(f"- {key}: {value}" for key, value in outcome.settings.items())
            writer.add_text("settings", settings, 0)
            writer.add_text("report", outcome.report.read_text(encoding="utf-8"), 0)

    yield tell


_OPEN = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio, "tensorboard": _tensorboard}
TRACKERS = {
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
    "tensorboard": ("tensorboardX", "tensorboard"),
}
"""The packages of which a tracker needs one."""


def is_installed(tracker: str) -> bool:
    return any(importlib.util.find_spec(package) for package in TRACKERS[tracker])
