"""Learning curves as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharpen.evaluation.files import atomic_file


def draw_curves(logs: dict[str, dict[str, Any]], target: Path) -> None:
    """Draw the losses of the given training logs, one above the other, and what validation said beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8 * len(logs)), layout="constrained")
    for axes, (name, log) in zip(figure.subplots(len(logs), squeeze=False)[:, 0], logs.items(), strict=True):
        axes.plot([e["step"] for e in log["log"]], [e["loss"] for e in log["log"]], color="tab:blue", label="loss")
        axes.set(xlabel="step", ylabel="loss", title=name)
        if log["validated"]:
            metric = next(key for key in log["validated"][0] if key != "step")
            right = axes.twinx()
            right.plot(
                [e["step"] for e in log["validated"]],
                [e[metric] for e in log["validated"]],
                color="tab:orange",
                marker="o",
            )
            right.set_ylabel(f"{metric} on validation", color="tab:orange")
            axes.axvline(log["kept_step"], color="grey", linestyle=":", label="kept")
            axes.legend(loc="upper right")
    with atomic_file(target) as partial:
        FigureCanvasAgg(figure).print_png(
            str(partial), metadata={"Software": None}
        )  # no date, no version: the same run, the same file
