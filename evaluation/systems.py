"""Which system to serve: BM25, encoders, their fusion, reranked or not. Chosen on one set of queries, confirmed on
another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from pydantic import BaseModel

from sharpen.evaluation.beir import Corpus
from sharpen.evaluation.datasets import Task
from sharpen.evaluation.metrics import PRIMARY, PerQuery, evaluate
from sharpen.evaluation.report.comparison import Comparison, make_comparison, markdown_row, sentence
from sharpen.evaluation.retrievers.base import Retriever, search_task
from sharpen.evaluation.retrievers.candidates import WEIGHTS, JudgedCandidates, weight_curve
from sharpen.evaluation.retrievers.fused import CorpusScorer, Fused
from sharpen.evaluation.significance import Difference, Estimate, estimate, paired_difference

BM25_NAME = "BM25"
TIMED_QUERIES = 20
"""Searched one by one, for the milliseconds that a query takes."""
TIMED_DEPTH = 10
"""Documents that somebody who searches is shown."""
MOST_CHOOSING = 500
"""Queries to choose by, at most."""

Members = Callable[[Corpus], Mapping[str, CorpusScorer]]
"""The retrievers over a corpus, by name; ``BM25`` is the one that is fused with each of the others."""
Rerank = Callable[[Retriever, Corpus], Retriever]


class System(BaseModel):
    """One system with its figures. ``weights``: of what is fused. ``chosen_by``: mean nDCG@10 on the queries that
    choose. ``test``: on those that confirm, and ``difference`` to the baseline there. ``milliseconds``: median of a
    single query, the encoding of the query included, on the machine that ran this. ``needs``: what has to be served.
    """

    name: str
    weights: dict[str, float]
    reranked: bool = False
    needs: str
    chosen_by: float
    test: Estimate
    difference: Difference
    milliseconds: float


class Systems(BaseModel):
    """All systems, the one to serve, and its comparison with the baseline on the queries that confirm.

    ``first``: the system with the highest mean on the queries that choose, and ``lead``, its difference to the baseline
    there. ``best``: the same where the lead is clear, and else the baseline: of many systems some one is first on few
    queries by chance. ``curves``: encoder to weight of BM25 to nDCG@10 on the queries that choose.
    """

    chosen_on: str
    queries: int
    systems: list[System]
    first: str
    lead: Difference
    best: str
    comparison: Comparison
    curves: dict[str, dict[float, float]]

    def sentence(self) -> str:
        """The best system and the verdict on it, in Markdown."""
        if self.best != self.first:
            low, high = self.lead.interval
            return (
                f"No system is clearly better than **{self.best}** on {self.queries} {self.chosen_on}. First there is"
                f" {self.first}, with {self.lead.value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}; more judged"
                " queries to choose by would tell (training.validation.data)."
            )
        if self.best == self.comparison.names[0]:
            return (
                f"Best system on {self.queries} {self.chosen_on}: **{self.best}**, which everything is compared with."
            )
        return f"Best system on {self.queries} {self.chosen_on}: **{self.best}**. {sentence(self.comparison)}"

    def plain(self) -> str:
        """``sentence`` without the marks of Markdown."""
        return self.sentence().replace("**", "")

    def markdown(self) -> list[str]:
        """The lines of the table, and of the curves."""
        head = ["system", f"{PRIMARY}, {self.chosen_on}", f"{PRIMARY}, test", "difference", "95 % interval"]
        head += ["ms a query", "to serve"]
        lines = [markdown_row(head), markdown_row(["---"] * len(head))]
        for s in sorted(self.systems, key=lambda s: -s.chosen_by):
            low, high = s.difference.interval
            cells = [f"**{s.name}**" if s.name == self.best else s.name, f"{s.chosen_by:.4f}", f"{s.test.value:.4f}"]
            cells += [f"{s.difference.value:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{s.milliseconds:.1f}", s.needs]
            lines.append(markdown_row(cells))
        for encoder, curve in self.curves.items():
            head = [f"weight of BM25 beside {encoder}", *(f"{w:g}" for w in curve)]
            row = [f"{PRIMARY}, {self.chosen_on}", *(f"{value:.4f}" for value in curve.values())]
            lines += ["", markdown_row(head), markdown_row(["---"] * len(head)), markdown_row(row)]
        return lines


@dataclass(frozen=True)
class Choosing:
    """``task``: the queries to choose by, in the corpus that is searched. ``what``: what they are, for people.
    ``copied``: they stand word for word in their documents, so that BM25 finds these at once."""

    task: Task
    what: str = "dev queries"
    copied: bool = False


def compare_systems(
    choosing: Choosing,
    test: Task,
    members: Members,
    *,
    baseline: str,
    rerank: Rerank | None = None,
    grid: Sequence[float] = WEIGHTS,
    seed: int = 13,
) -> Systems:
    """Measure each of ``members``, each but BM25 fused with it, and, with ``rerank``, the best of them reranked.

    The weight of BM25 and the best system are chosen on ``choosing``: the first one there, if it is clearly better than
    the baseline. Of ``test`` every system is measured once.
    ``baseline``: the member that the others are compared with. ``grid``: weights of BM25 to try, beside an encoder's 1.
    ``seed``: of intervals. Under ``accelerate launch`` every process must call this.
    """
    choosing = replace(choosing, task=choosing.task.sample(MOST_CHOOSING, seed))
    candidates = Fused(members(choosing.task.corpus)).candidates(choosing.task.texts)
    judged = JudgedCandidates(candidates, choosing.task)
    weights, curves = _fusions(judged, grid)
    chosen_by = {name: judged.by_query(row) for name, row in weights.items()}
    plan = {name: (row, False) for name, row in weights.items()}
    if rerank:
        first = _first(chosen_by)
        retriever = rerank(_retriever(members(choosing.task.corpus), weights[first]), choosing.task.corpus)
        name = f"{first}, reranked"
        chosen_by[name] = _scores(choosing.task, retriever)[PRIMARY]
        plan[name] = (weights[first], True)
    systems: list[System] = []
    scores: dict[str, PerQuery] = {}
    for name, (row, reranked) in sorted(plan.items(), key=lambda item: item[0] != baseline):
        of_test = members(test.corpus)
        retriever = _retriever(of_test, row)
        if reranked:
            retriever = rerank(retriever, test.corpus)
        scores[name] = _scores(test, retriever)
        values = scores[name][PRIMARY]
        systems.append(
            System(
                name=name,
                weights=row,
                reranked=reranked,
                needs=_needs(of_test, row, getattr(retriever, "needs", "cross-encoder") if reranked else None),
                chosen_by=fmean(chosen_by[name].values()),
                test=estimate(values, seed, test.groups),
                difference=paired_difference(scores[baseline][PRIMARY], values, seed, test.groups),
                milliseconds=_milliseconds(retriever, test),
            )
        )
    first = _first(chosen_by)
    lead = paired_difference(chosen_by[baseline], chosen_by[first], seed, choosing.task.groups)
    best = first if lead.verdict == "better" else baseline
    comparison = make_comparison(
        scores[baseline],
        scores[best],
        seed=seed,
        queries_of=f"queries of {test.name}",
        groups=test.groups,
        names=(baseline, best),
    )
    return Systems(
        chosen_on=choosing.what,
        queries=len(choosing.task.qrels),
        systems=systems,
        first=first,
        lead=lead,
        best=best,
        comparison=comparison,
        curves=curves,
    )


def _first(values: Mapping[str, Mapping[str, float]]) -> str:
    return max(values, key=lambda name: fmean(values[name].values()))


def _fusions(
    judged: JudgedCandidates, grid: Sequence[float]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[float, float]]]:
    """Name of a system to its weights, and the curves by which BM25's were chosen: of equally good ones the least."""
    weights = {name: {name: 1.0} for name in judged.scorers}
    curves = {}
    for name in judged.scorers:
        if name == BM25_NAME or BM25_NAME not in judged.scorers:
            continue
        curves[name] = weight_curve(judged, {name: 1.0}, BM25_NAME, grid)
        best = max(curves[name].values())
        if weight := min(w for w, quality in curves[name].items() if quality == best):
            weights[f"{name} + {weight:g} {BM25_NAME}"] = {name: 1.0, BM25_NAME: weight}
    return weights, curves


def _retriever(members: Mapping[str, CorpusScorer], weights: Mapping[str, float]) -> Retriever:
    chosen = {name: members[name] for name in weights}
    return next(iter(chosen.values())) if len(chosen) == 1 else Fused(chosen, weights)


def _scores(task: Task, retriever: Retriever) -> PerQuery:
    return evaluate(task.qrels, search_task(task, retriever))


def _milliseconds(retriever: Retriever, task: Task) -> float:
    """Median of single queries, after one that loads what is loaded once."""
    texts = list(task.texts.items())[: TIMED_QUERIES + 1]
    seconds = []
    for query_id, text in texts:
        started = time.perf_counter()
        retriever.search({query_id: text}, TIMED_DEPTH)
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds[1:] or seconds)


def _needs(members: Mapping[str, CorpusScorer], weights: Mapping[str, float], reranker: str | None) -> str:
    parts = []
    for name in weights:
        size = getattr(members[name], "nbytes", None)
        parts.append("inverted index" if size is None else f"encoder, {size / 1e6:,.1f} MB of vectors")
    return ", ".join([*parts, *([reranker] if reranker else [])])
