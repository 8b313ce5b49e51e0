"""Who could teach: every scorer and mixture of scorers, measured on queries with judgments before anything is trained.

A student does not pass its teacher, so the best value here is about what training can reach.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sharpen.evaluation.beir import Corpus, Queries, Run
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.files import InputError
from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.models import Models
from sharpen.evaluation.report.comparison import markdown_row
from sharpen.evaluation.retrievers.candidates import Candidates, JudgedCandidates, fit_weights
from sharpen.evaluation.retrievers.fused import CANDIDATES
from sharpen.evaluation.scorers import BASE, FUSED_WEIGHTS, mixture_of, ranks_corpus

RERANKED_DEPTH = 30
"""Documents of each query that a cross-encoder or an LLM scores: those that the fitted mixture of the others ranks
first."""


@dataclass(frozen=True)
class ScorerQuality:
    """A scorer alone. ``value``: nDCG@10, 0 to 1. ``seconds``: what scoring took, encoding of the corpus included;
    nothing where it was in memory. ``reranks``: of the first documents by a mixture only, as a cross-encoder or an LLM
    is among the scorers."""

    scorer: str
    value: float
    seconds: float
    reranks: bool


@dataclass(frozen=True)
class Teachers:
    """``alone``: each scorer. ``path``: mixtures of one, two, ... scorers, each with fitted weights and its nDCG@10; a
    scorer is added where it raises the value most. The last one is the best. ``queries``: by how many this is chosen;
    the values are the best of many looks at them, so they are too high by a little."""

    alone: list[ScorerQuality]
    path: list[tuple[dict[str, float], float]]
    queries: int

    @property
    def best(self) -> tuple[dict[str, float], float]:
        """Weights of the best mixture, and its nDCG@10."""
        return self.path[-1]

    def recipe_line(self) -> str:
        """What to write into a recipe.

        >>> Teachers([], [({"base": 1.0, "bm25": 0.3}, 0.7)], queries=100).recipe_line()
        'teacher: {base: 1, bm25: 0.3}'
        """
        return f"teacher: {{{', '.join(f'{scorer}: {weight:g}' for scorer, weight in self.best[0].items())}}}"

    def markdown(self) -> list[str]:
        """The lines of two tables: scorers alone, and mixtures."""
        lines = [markdown_row(["scorer", PRIMARY, "seconds", "scores"]), markdown_row(["---"] * 4)]
        for row in sorted(self.alone, key=lambda row: -row.value):
            what = f"the first {RERANKED_DEPTH} by a mixture" if row.reranks else "all documents"
            lines.append(markdown_row([row.scorer, f"{row.value:.4f}", f"{row.seconds:.1f}", what]))
        lines += ["", markdown_row(["mixture", PRIMARY]), markdown_row(["---"] * 2)]
        for weights, value in self.path:
            mixture = " + ".join(f"{weight:g} {scorer}" for scorer, weight in weights.items())
            lines.append(markdown_row([mixture, f"{value:.4f}"]))
        return lines


def compare_teachers(models: Models, scorers: Sequence[str], task: Task) -> Teachers:
    """nDCG@10 of every scorer on the task, alone and mixed; ``scorers`` as ``Models.score`` has them, without mixtures.
    What only scores pairs (a cross-encoder, an LLM) scores the ``RERANKED_DEPTH`` documents that the others together
    rank first.

    Raises ``InputError`` if a model cannot be loaded, or if there is no scorer of all documents.
    """
    seconds: dict[str, float] = {}
    ranks_all = [scorer for scorer in scorers if ranks_corpus(scorer)]
    if not ranks_all:
        raise InputError(
            "teacher: a cross-encoder or an LLM needs documents to score; add bm25, base or encoder:<name>"
        )
    for scorer in ranks_all:
        started = time.monotonic()
        models.corpus_scorer(scorer, task.corpus)
        seconds[scorer] = time.monotonic() - started
    candidates = models.fused(dict.fromkeys(ranks_all, 1.0), task.corpus).candidates(task.texts, CANDIDATES)
    judged = JudgedCandidates(candidates, task)
    alone = {scorer: judged.quality({scorer: 1.0}) for scorer in ranks_all}
    rerank = [scorer for scorer in scorers if scorer not in ranks_all]
    if rerank:
        weights, _ = fit_weights(judged)
        candidates = candidates.best(weights, RERANKED_DEPTH)
        judged = JudgedCandidates(candidates, task)  # all of the same documents, or they could not be compared
        alone = {scorer: judged.quality({scorer: 1.0}) for scorer in ranks_all}
    for scorer in rerank:
        started = time.monotonic()
        pairs = [(q, i) for q, documents in candidates.documents.items() for i in documents]
        candidates = candidates.with_scorer(scorer, models.score(scorer, pairs, task.queries, task.corpus))
        seconds[scorer] = time.monotonic() - started
        alone[scorer] = JudgedCandidates(candidates.of([scorer]), task).quality({scorer: 1.0})
    rows = [ScorerQuality(s, value, round(seconds[s], 2), bool(rerank)) for s, value in alone.items()]
    return Teachers(rows, _path(candidates, task), len(task.qrels))


def _path(candidates: Candidates, task: Task) -> list[tuple[dict[str, float], float]]:
    """Mixtures of ever more scorers, as long as one more makes it better."""
    chosen: list[str] = []
    path: list[tuple[dict[str, float], float]] = []
    while len(chosen) < len(candidates.scorers):
        tried = []
        for scorer in candidates.scorers:
            if scorer not in chosen:
                weights, value = fit_weights(JudgedCandidates(candidates.of([*chosen, scorer]), task))
                tried.append((value, scorer, {s: w for s, w in weights.items() if w}))
        value, scorer, weights = max(tried, key=lambda row: row[0])
        if path and value <= path[-1][1]:
            break
        chosen.append(scorer)
        path.append((weights, value))
    return path


@dataclass(frozen=True)
class LeftOut:
    """Documents that are no candidates. ``of_query``: query ID to IDs, as of those that the query was copied from.
    ``always``: IDs, as of held-out documents."""

    of_query: Mapping[str, Collection[str]] = field(default_factory=dict)
    always: Collection[str] = ()


def rank_candidates(
    models: Models,
    teacher: str | Mapping[str, float],
    queries: Queries,
    corpus: Corpus,
    size: int,
    exclude: LeftOut | None = None,
    scale: float = 20.0,
) -> Run:
    """The ``size`` documents that the teacher ranks first for each query, with its scores.

    Where the base is a part of the teacher, and all others score all documents, too, scores are ``scale`` times its
    cosine, and what the others add in this unit: with the same scale, a student that still is the base differs from its
    teacher by what the others say, and not by a temperature. Else they are z-scores over the corpus. What only scores
    pairs (a cross-encoder, an LLM) scores the documents that the others rank first, or, where there is no
    other, those that BM25 and the base do. Raises ``InputError`` if a model cannot be loaded.
    """
    exclude = exclude or LeftOut()
    weights = mixture_of(teacher)
    first = {scorer: weight for scorer, weight in weights.items() if ranks_corpus(scorer)} or FUSED_WEIGHTS
    unit = BASE if weights.get(BASE) and first == weights else None
    texts = {q: queries[q].text for q in queries}
    run = models.fused(first, corpus, unit).search(texts, size, exclude.of_query, exclude.always)
    if unit:
        run = {q: {d: scale * s for d, s in scores.items()} for q, scores in run.items()}
    if first == weights:
        return run
    scores = models.score(weights, [(q, d) for q, documents in run.items() for d in documents], queries, corpus)
    return {q: {d: scores[q, d] for d in documents} for q, documents in run.items()}


def fit_teacher(models: Models, scorers: Sequence[str], task: Task) -> tuple[dict[str, float], float]:
    """The weights of the best mixture of ``scorers`` on the task, and its nDCG@10. Raises as ``compare_teachers``."""
    return compare_teachers(models, scorers, task).best
