"""Who computes, and where what was computed is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sharpen.evaluation.settings import Count, Settings


class EngineSettings(Settings):
    """An engine by its kind, as in ``engine: ray``, or with its settings. None of them changes a result.

    >>> EngineSettings.model_validate("ray").rows
    10000
    """

    kind: Literal["local", "ray"] = Field(
        "local",
        description=(
            "local: this process, or those of accelerate launch; ray: the workers of a Ray cluster (sharpen[ray])."
        ),
    )
    folder: str | None = Field(
        None,
        description=(
            "Where vectors, scores and answers are kept for later stages and runs; all machines must see it. Default:"
            " .partitions in runs. It can be deleted at any time."
        ),
    )
    rows: Count = Field(10_000, description="Of a shard: what is lost at most when a worker is.")
    address: str | None = Field(
        None, description="Of the Ray cluster: auto, or host:port. Default: one is started on this machine."
    )
    workers: Count | None = Field(None, description="Of ray, at most. Default: as many as the cluster has room for.")
    cpus: Annotated[float, Field(gt=0)] = Field(1, description="Of a worker of ray; its threads.")
    gpus: Annotated[float, Field(ge=0)] = Field(0, description="Of a worker of ray; 0.5 puts two of them on a GPU.")

    def fingerprint(self) -> Any:
        """Nothing: who computes changes no result."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self):
        if self.kind == "local":
            for name in ("address", "workers", "cpus", "gpus"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of the engine ray; say kind: ray, or take it out")
        return self

    def check(self) -> None:
        """Raise ``InputError`` if Ray is asked for and not installed."""
        if self.kind == "ray":
            from sharpen.evaluation.partitions.ray_engine import check_ray

            check_ray()
