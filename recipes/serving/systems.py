"""A run's systems, loaded once, for whoever wants to see what they find."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from rich.console import Console

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.encoders.load import load_cross_encoder
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.model import load_generative
from sharpen.evaluation.models import Models
from sharpen.evaluation.partitions.settings import EngineSettings
from sharpen.evaluation.retrievers.base import Retriever
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.retrievers.encoders import Index
from sharpen.evaluation.retrievers.fused import Fused
from sharpen.evaluation.retrievers.generative import Generative
from sharpen.evaluation.retrievers.hybrid import Hybrid
from sharpen.evaluation.retrievers.reranked import Reranked
from sharpen.evaluation.runs import ranking
from sharpen.evaluation.scorers import BM25_SCORER, FUSED_WEIGHTS
from sharpen.evaluation.systems import BM25_NAME, Systems
from sharpen.recipes.engine import RECIPE
from sharpen.recipes.inputs import MANIFEST, SYSTEMS, Inputs
from sharpen.recipes.load import load_recipe
from sharpen.recipes.resources import partitions_of, resources_of
from sharpen.recipes.schema.recipe import Recipe
from sharpen.recipes.stages.systems import BASE, TUNED
from sharpen.recipes.stages.tuned import TunedPart

SystemName = Literal["bm25", "base", "tuned", "fused", "reranked"]
QUERY = "\tquery"
"""The ID of what is searched for: no document has it, as IDs have no tabs."""
MOST_RANKS = 1000
"""Ranks that are told apart; what is below them is not found."""


@dataclass(frozen=True)
class Found:
    """What a system finds for a query: document ID to score, best first. ``seconds``: that it took."""

    scores: dict[str, float]
    seconds: float

    @cached_property
    def ranks(self) -> dict[str, int]:
        """From 1."""
        return {i: rank for rank, i in enumerate(self.scores, start=1)}


@dataclass(frozen=True)
class System:
    """One system of a run. ``label``: what people call it. ``deploy``: whether the run says to deploy it."""

    name: SystemName
    label: str
    retriever: Retriever
    deploy: bool = False


@dataclass
class RunSystems:
    """The systems of a run that has a trained model. Searches of several threads wait for each other.

    ``folder``: the run's. Raises ``InputError`` if it is none, or has no model yet.
    """

    folder: Path
    console: Console = field(default_factory=lambda: Console(quiet=True))
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.folder / RECIPE).is_file():
            raise InputError(f"{self.folder}: no run there; give the folder of a run, like runs/quickstart")
        for stage in ("corpus", "model"):
            if self.inputs.manifest(stage) is None:
                raise InputError(f"{self.folder}: no {stage} there yet; `sharpen run {self.folder}` goes on to it")
        self._made = self._when_made()

    def check_same(self) -> None:
        """Raise ``InputError`` if documents or models were made anew since they were loaded: what is found by the old
        ones cannot be shown with the texts of the new ones."""
        if self._when_made() != self._made:
            raise InputError(f"{self.folder}: the run was made anew since then; start this again")

    def _when_made(self) -> list[int]:
        files = [self.inputs.folder(stage) / MANIFEST for stage in ("corpus", "model", "reranker")]
        return [file.stat().st_mtime_ns if file.exists() else 0 for file in files]

    @cached_property
    def recipe(self) -> Recipe:
        return load_recipe(str(self.folder)).recipe

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs(self.folder)

    @property
    def corpus(self) -> Corpus:
        return self.inputs.corpus()

    @cached_property
    def _models(self) -> Models:
        """What they compute of the documents is kept beside the run, for the next start."""
        models = resources_of(self.recipe, self.console, folder=self.folder).models
        return replace(models, partitions=partitions_of(EngineSettings(), self.folder.parent))

    @cached_property
    def bm25(self) -> BM25:
        return self._models.bm25(self.corpus)

    @cached_property
    def base(self) -> Index:
        return self._models.index(self.corpus, self.recipe.training.encoder)

    @cached_property
    def tuned(self) -> Index | Generative:
        if self.recipe.generative:
            return Generative(load_generative(self.inputs.folder("model")), self.corpus)
        part = TunedPart.of(self.recipe)
        encoder = part.encoder(self.inputs)
        if part.kept:  # the base's vectors of the documents, searched with the queries of this model
            return self.base.with_query_encoder(self._models.load(encoder))
        return self._models.index(self.corpus, encoder)

    @cached_property
    def systems(self) -> dict[SystemName, System]:
        """Those that the run has, by name, in the order in which they are shown."""
        made: list[tuple[SystemName, str, Retriever]] = [
            ("bm25", BM25_NAME, self.bm25),
            ("base", BASE, self.base),
            ("tuned", "generative" if self.recipe.generative else TUNED, self.tuned),
            self._fused,
        ]
        if self.recipe.reranker:
            made.append(self._reranked)
        deploy = self._measured.deploy if self._measured else None
        return {name: System(name, label, retriever, label == deploy) for name, label, retriever in made}

    def search(self, query: str, names: Sequence[str] | None = None) -> dict[SystemName, Found]:
        """What the systems (default: all) find for a query, ``MOST_RANKS`` documents at most. Raises ``InputError`` for
        a system that the run has not, and as ``check_same`` does."""
        self.check_same()
        if unknown := set(names or ()) - set(self.systems):
            raise InputError(f"{unknown.pop()!r}: no such system in this run; there are {', '.join(self.systems)}")
        found: dict[SystemName, Found] = {}
        with self._turn:  # models change the precision of their weights while they compute
            for name, system in self.systems.items():
                if names is None or name in names:
                    started = time.perf_counter()
                    scores = system.retriever.search({QUERY: query}, min(MOST_RANKS, len(self.corpus)))[QUERY]
                    seconds = time.perf_counter() - started
                    # equal scores in the order in which they were measured
                    found[name] = Found({i: scores[i] for i in ranking(scores)}, seconds)
        return found

    def deviations(self, query: str, name: Literal["base", "tuned"], documents: Sequence[str]) -> dict[str, float]:
        """Document to the standard deviations by which its score is above the corpus' mean; nothing by a system that
        does not score all documents."""
        retriever = self.systems[name].retriever
        if not isinstance(retriever, Index):
            return {}
        with self._turn:
            candidates = Fused({name: retriever}).scores_of({QUERY: query}, {QUERY: documents})
        return dict(zip(documents, candidates.scores[QUERY][0].tolist(), strict=True))

    @cached_property
    def trained_on(self) -> dict[str, tuple[int, int]]:
        """Document to the number of queries trained on that it answers, and of those that it is a negative of."""
        counts: dict[str, list[int]] = {}
        for grades in self.inputs.qrels("train").values():
            for i in grades:
                counts.setdefault(i, [0, 0])[0] += 1
        for row in self.inputs.negatives():
            if row.verdict in ("kept", "relabelled"):
                counts.setdefault(row.doc_id, [0, 0])[row.verdict == "kept"] += 1
        return {i: (positive, negative) for i, (positive, negative) in counts.items()}

    @cached_property
    def _measured(self) -> Systems | None:
        return self.inputs.systems() if (self.inputs.folder("systems") / SYSTEMS).is_file() else None

    @property
    def _fused(self) -> tuple[SystemName, str, Retriever]:
        """With the weight that the run chose; where it chose none, with the usual one."""
        if isinstance(self.tuned, Generative):
            return "fused", f"generative + {BM25_NAME}", Hybrid(self.tuned, self.bm25)
        weights = {TUNED: 1.0, BM25_NAME: FUSED_WEIGHTS[BM25_SCORER]}
        for system in self._measured.systems if self._measured else ():
            if system.weights.keys() == weights.keys() and not system.reranked:
                weights = system.weights
        members: Mapping[str, Index | BM25] = {TUNED: self.tuned, BM25_NAME: self.bm25}
        return "fused", f"{TUNED} + {weights[BM25_NAME]:g} {BM25_NAME}", Fused(members, weights)

    @property
    def _reranked(self) -> tuple[SystemName, str, Retriever]:
        """What the run's reranker makes of the first stage that the recipe says."""
        part = self.recipe.reranker
        weights = {BM25_NAME: part.bm25_weight}
        label, first = {
            "bm25": (BM25_NAME, lambda: self.bm25),
            "retriever": (TUNED, lambda: self.tuned),
            "fused": (
                f"{TUNED} + {part.bm25_weight:g} {BM25_NAME}",
                lambda: Fused({TUNED: self.tuned, BM25_NAME: self.bm25}, weights),
            ),
        }[part.first_stage]
        model, precision = load_cross_encoder(str(self.inputs.folder("reranker"))), self.recipe.training.precision
        options = {"first_stage_weight": part.first_stage_weight, "precision": precision}
        reranked = Reranked(first(), self.corpus, model, part.depth, None, **options)
        return "reranked", f"{label}, reranked", reranked
