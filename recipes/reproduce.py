"""Running the baselines of ``expected.yaml`` and saying what is off."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.yaml_files import read_yaml
from sharpen.recipes.evaluate import EvaluationOptions, evaluate_systems

EXPECTED = Path(__file__).parent / "expected.yaml"


class Baseline(BaseModel):
    """One ``sharpen evaluate``, and what should come out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    data: str
    split: str = "test"
    metric: str = PRIMARY
    query_prompt: str | None = None
    max_seq_length: int | None = None
    expected: float
    tolerance: float
    source: str

    @property
    def command(self) -> str:
        more = f" --query-prompt '{self.query_prompt}'" if self.query_prompt else ""
        more += f" --max-seq-length {self.max_seq_length}" if self.max_seq_length else ""
        return f"sharpen evaluate {self.system} --data {self.data} --split {self.split}{more}"


class Expected(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    here: tuple[Baseline, ...]
    """What needs no network where packages and datasets are installed."""
    network: tuple[Baseline, ...]


def read_expected(path: Path = EXPECTED) -> Expected:
    """Raises ``InputError`` for a file that is none."""
    try:
        return Expected.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {error}") from None


def reproduce(console: Console, network: bool = False, path: Path = EXPECTED) -> bool:
    """Run the baselines, print what came out beside what is expected, and say whether all are within their tolerance.

    ``network``: those too that have to fetch a model or a dataset. One that cannot be run counts as off.
    """
    expected = read_expected(path)
    say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    say(
        "| command | metric | expected | found | difference | tolerance | source |\n| --- | --- | --- | --- | --- | ---"
        " | --- |"
    )
    fine = True
    for baseline in (*expected.here, *(expected.network if network else ())):
        try:
            value = _run(baseline)
        except InputError as error:
            fine, result = False, f"not run ({error}) |"
        else:
            off = abs(value - baseline.expected) > baseline.tolerance
            fine = fine and not off
            result = f"{value:.4f} | {value - baseline.expected:+.4f}{' OFF' if off else ''}"
        say(
            f"| `{baseline.command}` | {baseline.metric} | {baseline.expected:.4f} | {result} |"
            f" {baseline.tolerance:g} | {baseline.source} |"
        )
    return fine


def _run(baseline: Baseline) -> float:
    options = EvaluationOptions(
        split=baseline.split,
        metrics=[baseline.metric],
        query_prompt=baseline.query_prompt,
        max_seq_length=baseline.max_seq_length,
    )
    with tempfile.TemporaryDirectory() as folder:
        means = evaluate_systems([baseline.system], [baseline.data], Path(folder), Console(quiet=True), options)
    return means[baseline.system][baseline.metric]
