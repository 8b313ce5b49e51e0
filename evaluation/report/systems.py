"""Systems with their quality and their cost: which one to deploy, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.comparison import Comparison, markdown_row, sentence
from sharpen.evaluation.significance import LEVEL, Difference, Estimate, Verdict, holm

NEAR = 0.01
"""nDCG@10: a cheaper system may lose no more on the queries that choose, even where these could not show it."""


class System(BaseModel):
    """One system with its figures. ``weights``: of what is fused. ``chosen_by``: mean nDCG@10 on the queries that
    choose. ``test``: on those that confirm, and ``difference`` to the baseline there. ``milliseconds``: median of a
    single query, the encoding of the query included, on the machine that ran this. ``needs``: what has to be served.

    ``models``: encoders and cross-encoders that a query passes through. ``bytes_per_document``: of vectors and
    postings. ``documents_per_second``: to index, on the machine that ran this. These are None in what was made before
    they were measured.
    """

    name: str
    weights: dict[str, float]
    reranked: bool = False
    needs: str
    chosen_by: float
    test: Estimate
    difference: Difference
    milliseconds: float
    models: int | None = None
    bytes_per_document: float | None = None
    documents_per_second: float | None = None

    @property
    def cost(self) -> tuple[float, float]:
        """By which one is cheaper than another: models first, as each takes more than all else, then bytes. The times
        are shown and decide nothing, as they are others each time."""
        return self.models or 0, self.bytes_per_document or 0.0

    def costs(self) -> str:
        """What it takes, in words."""
        parts = [f"{self.milliseconds:.1f} ms a query"]
        if self.documents_per_second is not None:
            parts.append(f"{self.documents_per_second:,.0f} documents a second to index")
        if self.bytes_per_document is not None:
            parts.append(f"{self.bytes_per_document:,.0f} bytes a document")
        return ", ".join(parts)


class Cheaper(BaseModel):
    """A system that is cheaper than the best one, and as good on the queries that choose. ``chosen_by``: its difference
    to the best there, ``test``: on those that confirm."""

    name: str
    chosen_by: Difference
    test: Difference

    @property
    def is_confirmed(self) -> bool:
        """Whether it is as good on the other queries, too."""
        return is_near(self.test)


def is_near(difference: Difference) -> bool:
    """Whether a system is no worse than another, by its interval and p, and by no more than ``NEAR``."""
    return difference.verdict != "worse" and difference.value >= -NEAR


class Systems(BaseModel):
    """All systems, the one to serve, and its comparison with the baseline on the queries that confirm.

    ``first``: the system with the highest mean on the queries that choose, and ``lead``, its difference to the baseline
    there, with p and verdict adjusted for the number of systems (Holm), and not for the weights of BM25 that were tried
    there: those beside the best give nearly the same ranking, and a Holm that counts each would find next to nothing.
    ``best``: the same where the lead is clear, and else the baseline: of many systems some one is first on few queries
    by chance. ``cheaper``: what may be deployed in its place; None where nothing is, and in what was made before it was
    looked for. ``curves``: encoder to weight of BM25 to nDCG@10 on the queries that choose.
    """

    chosen_on: str
    queries: int
    systems: list[System]
    first: str
    lead: Difference
    best: str
    comparison: Comparison
    curves: dict[str, dict[float, float]]
    cheaper: Cheaper | None = None

    @property
    def deploy(self) -> str:
        """The name of the system to deploy: the best, or a cheaper one that is as good."""
        return self.cheaper.name if self.cheaper and self.cheaper.is_confirmed else self.best

    def named(self, name: str) -> System:
        """The system of this name."""
        return next(s for s in self.systems if s.name == name)

    def sentence(self) -> str:
        """What to deploy and what it costs, the best system and the verdict on it, in Markdown."""
        return f"{self._deploy()} {self._best()}".strip()

    def plain(self) -> str:
        """``sentence`` without the marks of Markdown."""
        return self.sentence().replace("**", "")

    def _deploy(self) -> str:
        chosen = self.named(self.deploy)
        if chosen.bytes_per_document is None:  # of an earlier version, which measured no cost
            return ""
        said = f"Deploy **{chosen.name}**: {chosen.costs()}."
        if self.cheaper is None:
            return said
        cheaper, best = self.cheaper, self.named(self.best)
        name = "It" if cheaper.is_confirmed else f"{cheaper.name} is cheaper ({self.named(cheaper.name).costs()}) and"
        said += (
            f" {name} is not distinguishable from {best.name} on the {self.chosen_on}"
            f" ({_difference(cheaper.chosen_by)}){f', and cheaper ({best.costs()})' if cheaper.is_confirmed else ''};"
        )
        if cheaper.is_confirmed:
            return f"{said} the test queries confirm that ({_difference(cheaper.test)})."
        return f"{said} the test queries do not confirm that ({_difference(cheaper.test)})."

    def _best(self) -> str:
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

    def markdown(self) -> list[str]:
        """The lines of the table, and of the curves."""
        head = ["system", f"{PRIMARY}, {self.chosen_on}", f"{PRIMARY}, test", "difference", "95 % interval"]
        head += ["p (Holm)", "verdict", "ms a query", "documents a second", "bytes a document", "to serve"]
        lines = [markdown_row(head), markdown_row(["---"] * len(head))]
        adjusted = self._adjusted()
        for s in sorted(self.systems, key=lambda s: -s.chosen_by):
            low, high = s.difference.interval
            half = (s.test.interval[1] - s.test.interval[0]) / 2
            cells = [f"**{s.name}**" if s.name == self.deploy else s.name, f"{s.chosen_by:.4f}"]
            cells += [f"{s.test.value:.4f} ± {half:.3f}", f"{s.difference.value:+.4f}", f"{low:+.4f} to {high:+.4f}"]
            cells += adjusted.get(s.name, ("", ""))
            cells += [f"{s.milliseconds:.1f}", _number(s.documents_per_second), _number(s.bytes_per_document), s.needs]
            lines.append(markdown_row(cells))
        for encoder, curve in self.curves.items():
            head = [f"weight of BM25 beside {encoder}", *(f"{w:g}" for w in curve)]
            row = [f"{PRIMARY}, {self.chosen_on}", *(f"{value:.4f}" for value in curve.values())]
            lines += ["", markdown_row(head), markdown_row(["---"] * len(head)), markdown_row(row)]
        if tried := max((len(curve) for curve in self.curves.values()), default=0):
            lines += [
                "",
                f"Each weight is the best of {tried} on the {self.chosen_on}, so that its figure there is high by"
                " chance, and the lead by which the best system is chosen does not count that; the columns of the test"
                " queries, by which nothing was chosen, are free of it.",
            ]
        return lines

    def _adjusted(self) -> dict[str, tuple[str, str]]:
        """Of each system but the baseline: p and verdict, adjusted for their number."""
        others = [s for s in self.systems if s.name != self.comparison.names[0]]
        adjusted = adjust([s.difference for s in others])
        return {s.name: (f"{d.p:.4f}", d.verdict) for s, d in zip(others, adjusted, strict=True)}


def adjust(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p and verdict adjusted for their number (Holm)."""
    found = []
    for difference, p in zip(differences, holm([d.p for d in differences]), strict=True):
        verdict: Verdict = difference.verdict if p < 1 - LEVEL else "not distinguishable"
        found.append(difference.model_copy(update={"p": p, "verdict": verdict}))
    return found


def _difference(d: Difference) -> str:
    return f"{d.value:+.4f}, 95 % interval {d.interval[0]:+.4f} to {d.interval[1]:+.4f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
