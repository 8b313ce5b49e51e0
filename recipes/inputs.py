"""What a run's folder holds: the files of its stages, read by those that declared them."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sharpen.evaluation.beir import Corpus, Qrels, Queries, read_corpus, read_qrels, read_queries
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.systems import Systems
from sharpen.recipes.schema.training import ReplaySettings
from sharpen.sdg.negatives.record import Negative, read_negatives

MANIFEST = "manifest.json"
DIAGNOSIS = "diagnosis.json"
SYSTEMS = "systems.json"
TRAINING_LOG = "training_log.json"
SKIPPED = "skipped.jsonl"
"""The files that the corpus stage did not read, with the reason: for people, so that no stage depends on it."""
WRITTEN = "written.jsonl"
"""The documents that an LLM wrote as negatives, in the layout of a corpus."""


@dataclass(frozen=True)
class Inputs:
    """The folders of a run's stages. ``stages``: those that may be read (None: all); asking for another is a
    ``KeyError``, as its files would not be in the fingerprint of what is made from them."""

    run: Path
    stages: Collection[str] | None = None
    cache: dict[Any, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of_earlier(cls, replay: ReplaySettings) -> Self:
        """Those of the run that a recipe goes on from."""
        return cls(Path(replay.run))

    def folder(self, stage: str) -> Path:
        if self.stages is not None and stage not in self.stages:
            raise KeyError(
                f"the stage {stage} is not declared in reads; it reads {', '.join(self.stages) or 'nothing'}"
            )
        return self.run / stage

    def corpus(self) -> Corpus:
        """The run's documents, cut into chunks."""
        path = self.folder("corpus") / "corpus.jsonl"
        state = path.stat()
        key = (state.st_ino, state.st_mtime_ns)
        if self.cache.get("corpus", (None,))[0] != key:
            self.cache["corpus"] = key, read_corpus(path)
        return self.cache["corpus"][1]

    def written(self) -> Corpus:
        """What an LLM wrote as negatives."""
        path = self.folder("negatives") / WRITTEN
        return read_corpus(path) if path.exists() and path.stat().st_size else {}

    def training_corpus(self) -> Corpus:
        """The run's documents, and the negatives that an LLM wrote."""
        return (self.corpus() | written) if (written := self.written()) else self.corpus()

    def queries(self) -> Queries:
        """All queries that passed the filters, and the real ones."""
        return read_queries(self.folder("pairs") / "queries.jsonl")

    def qrels(self, split: str) -> Qrels:
        """Of the run's own queries: which documents answer them."""
        return read_qrels(self.folder("pairs") / "qrels" / f"{split}.tsv")

    def train_queries(self) -> Queries:
        """The queries that are trained on."""
        queries = self.queries()
        return {query_id: queries[query_id] for query_id in self.qrels("train")}

    def negatives(self) -> list[Negative]:
        """All candidates with their verdicts; none where nothing was mined."""
        path = self.folder("negatives") / "negatives.jsonl"
        return read_negatives(path) if path.exists() else []

    def check_mined(self) -> None:
        """Raise ``InputError`` if the negatives were mined of other pairs than those that are there, as a run that was
        stopped between the two leaves them."""
        pairs, mined = self.manifest("pairs"), self.manifest("negatives")
        if pairs and mined:
            files = {f"pairs/{name}": digest for name, digest in pairs["outputs"].items()}
            of = {name: digest for name, digest in mined["fingerprint"]["files"].items() if name.startswith("pairs/")}
            if not of.items() <= files.items():
                raise InputError(
                    f"{self.run}: its negatives were mined of other pairs than those that are there; `sharpen run"
                    f" {self.run}` mines them anew"
                )

    def scores(self, stage: str, name: str) -> PerQuery | None:
        """Metric to query to value, as a stage wrote it; None where there is no such file."""
        path = self.folder(stage) / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def has_log(self, stage: str) -> bool:
        """Whether a stage trained something."""
        return (self.folder(stage) / TRAINING_LOG).exists()

    def training_log(self, stage: str = "training") -> dict[str, Any]:
        """Losses and validations by step, the step that was kept, and where training ended."""
        return json.loads((self.folder(stage) / TRAINING_LOG).read_text(encoding="utf-8"))

    def base_weight(self) -> tuple[float, dict[float, float]]:
        """The base's weight in the model, and what each weight scored on validation; empty where nothing was chosen."""
        choice = json.loads((self.folder("model") / "choice.json").read_text(encoding="utf-8"))
        return choice["base_weight"], {row["base_weight"]: row["value"] for row in choice[PRIMARY]}

    def systems(self) -> Systems:
        """Which system to deploy."""
        return Systems.model_validate_json((self.folder("systems") / SYSTEMS).read_text(encoding="utf-8"))

    def diagnosis(self) -> dict[str, Any]:
        """What the stage of this name measured."""
        return json.loads((self.folder("diagnosis") / DIAGNOSIS).read_text(encoding="utf-8"))

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """What a stage recorded of itself; None where it has not run or was removed."""
        path = self.folder(stage) / MANIFEST
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
