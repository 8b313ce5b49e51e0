"""What answers with different contexts are worth, as numbers, a Markdown page and an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from pydantic.dataclasses import dataclass

from sharpen.evaluation.answer_metrics import ANSWERED, EXACT, F1, Agreement, judge_agreement
from sharpen.evaluation.files import InputError, write_text
from sharpen.evaluation.metrics import PRIMARY, PerQuery
from sharpen.evaluation.report.by_query import QueryChange, query_changes
from sharpen.evaluation.report.comparison import (
    BEFORE_AFTER,
    Comparison,
    code,
    difference_table,
    markdown,
    markdown_row,
)
from sharpen.evaluation.report.page import page
from sharpen.evaluation.significance import Estimate, Groups, document_groups, estimate, paired_difference
from sharpen.sdg.answering.judging import CORRECTNESS, FAITHFULNESS, MEASURES

if TYPE_CHECKING:
    from sharpen.recipes.asked_questions import Asking

NAMES = {
    "base": "base",
    "tuned": "tuned model",
    "bm25": "BM25",
    "none": "no documents",
    "gold": "right documents",
}
SHOWN = 40
"""Questions of which the answers stand in the report."""
LEADING = ("Answers by context", "Against the first", "The judge")


@dataclass
class Cost:
    """What was asked, whether now or earlier: calls, tokens, mean seconds of an answer (None: not measured), and the
    money spent on all until then, where the recipe has prices."""

    what: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None = None
    money: str = ""


class AnswersReport(BaseModel):
    """The content of ``answers/metrics.json``.

    ``comparison``: of the first two systems, None where there is one. ``systems``: system to measure to its mean.
    ``against``: the first system and each of the others. ``agreement``: of the judge with the references; None where
    nothing was judged, or these are long. ``left_out``: questions of which the document is not known. ``unread``:
    answers of the judge that say nothing. ``llms``: who answered, and who judged.
    """

    queries_of: str
    questions: int
    left_out: int
    comparison: Comparison | None
    systems: dict[str, dict[str, Estimate]]
    against: dict[str, Comparison]
    agreement: Agreement | None
    unread: int = 0
    costs: list[Cost] = []
    llms: list[str] = []

    def lines(self) -> list[str]:
        """What is printed: the table, what it cost, and whether the judge can be trusted."""
        said = [*self.table(), ""]
        if self.left_out:
            said.append(f"{self.left_out:,} questions were left out, as the document that answers is not known.")
        said += [*self.cost_table(), ""]
        if self.agreement:
            said.append(self.agreement.sentence().replace("**", ""))
        return [*said, ""]

    def table(self) -> list[str]:
        """The lines of a table: systems by measures, means with half of their 95 % intervals."""
        measures = list(dict.fromkeys(m for of_system in self.systems.values() for m in of_system))
        lines = [markdown_row(["context", *measures]), markdown_row(["---"] * (1 + len(measures)))]
        for system, means in self.systems.items():
            lines.append(markdown_row([NAMES[system], *(_cell(means.get(measure)) for measure in measures)]))
        return lines

    def cost_table(self) -> list[str]:
        """The lines of a table: calls, tokens, seconds and money."""
        lines = [markdown_row(["", "calls", "tokens read", "written", "seconds an answer", "money"])]
        lines.append(markdown_row(["---"] * 6))
        for cost in self.costs:
            cells = [cost.what, f"{cost.calls:,}", f"{cost.prompt_tokens:,}", f"{cost.completion_tokens:,}"]
            cells += ["" if cost.seconds is None else f"{cost.seconds:.2f}", cost.money]
            lines.append(markdown_row(cells))
        return lines


def make_report(asking: Asking, scores: Mapping[str, PerQuery], primary: str, seed: int) -> AnswersReport:
    """Compare the first system with each of the others, paired by question.

    Questions about the same document are resampled together. A measure that not every answer has, as a refusal is not
    faithful or unfaithful, is compared on the questions that both sides have it of.
    """
    qrels = {q.id: dict.fromkeys(q.documents, 1) for q in asking.questions if q.documents}
    groups = document_groups(qrels, asking.corpus)
    first, *others = scores
    against = {
        other: _compare(
            (scores[first], scores[other]),
            (NAMES[first], NAMES[other]),
            primary,
            seed,
            asking.queries_of,
            groups,
        )
        for other in others
    }
    return AnswersReport(
        queries_of=asking.queries_of,
        questions=len(asking.questions),
        left_out=asking.left_out,
        comparison=against[others[0]] if others else None,
        systems={
            system: {measure: estimate(values, seed, groups) for measure, values in of_system.items()}
            for system, of_system in scores.items()
        },
        against=against,
        agreement=_agreement(scores, seed) if asking.is_short else None,
    )


def _compare(
    sides: tuple[PerQuery, PerQuery],
    names: tuple[str, str],
    primary: str,
    seed: int,
    queries_of: str,
    groups: Groups,
) -> Comparison:
    both: list[dict[str, Mapping[str, float]]] = [{}, {}]
    for measure in sides[0]:
        if common := [q for q in sides[0][measure] if q in sides[1].get(measure, {})]:
            for into, side in zip(both, sides, strict=True):
                into[measure] = {q: side[measure][q] for q in common}
    if primary not in both[0]:
        raise InputError(
            f"no answer of both {names[0]} and {names[1]} has the measure {primary}: the judge says nothing"
        )
    delta = {m: paired_difference(both[0][m], both[1][m], seed, groups) for m in both[0]}
    before, after = ({m: estimate(values, seed, groups) for m, values in side.items()} for side in both)
    return Comparison(
        primary=primary,
        verdict=delta[primary].verdict,
        queries=len(both[0][primary]),
        queries_of=queries_of,
        before=before,
        after=after,
        delta=delta,
        names=BEFORE_AFTER if names == BEFORE_AFTER else names,
    )


def _agreement(scores: Mapping[str, PerQuery], seed: int) -> Agreement | None:
    """Over the answers that the judge was asked about: of refusals nobody doubts that they are wrong."""
    columns: list[dict[str, list[float]]] = [{}, {}, {}]
    for of_system in scores.values():
        for question, score in of_system.get(CORRECTNESS, {}).items():
            if of_system[ANSWERED][question]:
                values = (score, of_system[F1][question], of_system[EXACT][question])
                for column, value in zip(columns, values, strict=True):
                    column.setdefault(question, []).append(value)
    return judge_agreement(*columns, seed=seed) if columns[0] else None


def write_pages(folder: Path, report: AnswersReport, asking: Asking, scores: Mapping[str, PerQuery], name: str) -> None:
    """``report.md`` and ``report.html``, in the look of a run's report."""
    title = f"{name}: answers"
    sections = _sections(report, asking, scores)
    if report.comparison is None:
        lines = [f"# {title}", ""]
        for heading, paragraphs in sections.items():
            lines += [f"## {heading}", "", *paragraphs, ""]
        write_text(folder / "report.md", "\n".join(lines))
        return
    write_text(folder / "report.md", markdown(title, report.comparison, sections))
    changes = _changes(report.comparison, asking, scores)
    html = page(title, report.comparison, changes, {}, sections, leading=[h for h in LEADING if h in sections])
    write_text(folder / "report.html", html)


def _sections(report: AnswersReport, asking: Asking, scores: Mapping[str, PerQuery]) -> dict[str, list[str]]:
    first = next(iter(scores))
    notes = [
        f"{report.questions:,} {report.queries_of}, answered by {code(report.llms[0])}. *Answered*: not refused; a"
        " refusal counts as wrong. *Answer in context*: a reference stands word for word in what was shown.",
    ]
    if report.left_out:
        notes.append(f"{report.left_out:,} further questions name no document that is known.")
    if any(measure in MEASURES for of_system in scores.values() for measure in of_system):
        judged = sum(len(of_system.get(FAITHFULNESS, {})) for of_system in scores.values())
        notes.append(
            f"The last measures are those of a judge, {_named(report.llms)}, 0 to 1; *{FAITHFULNESS}* is of the"
            f" {judged:,} answers from documents that are no refusals. {report.unread:,} of the judge's answers could"
            " not be read."
        )
    sections = {"Answers by context": [*report.table(), "", " ".join(notes)]}
    if report.against:
        named = {NAMES[other]: c for other, c in report.against.items()}
        # one heading for all rows: each is the first system and the one that the row names
        shown = {other: c.model_copy(update={"names": (NAMES[first], "this one")}) for other, c in named.items()}
        primary = next(iter(shown.values())).primary
        sections["Against the first"] = [f"By {primary}:", "", *difference_table("context", shown)]
    if report.agreement:
        sections["The judge"] = _judge_lines(report.agreement)
    sections["Cost"] = report.cost_table()
    sections["Questions and answers"] = _examples(asking, scores)
    return sections


def _named(llms: Sequence[str]) -> str:
    first, last = llms[0], llms[-1]
    return code(last) if last != first else "the same model, which may favour what it writes itself"


def _judge_lines(agreement: Agreement) -> list[str]:
    rows = {
        "Spearman's correlation with token F1": agreement.spearman,
        "Kendall's tau-b with token F1": agreement.kendall,
        "says right where exact match does": agreement.agreement,
        "Cohen's kappa with exact match": agreement.kappa,
    }
    return [
        agreement.sentence(),
        "",
        markdown_row([f"answer correctness, {agreement.answers:,} answers", "value", "95 % interval"]),
        markdown_row(["---"] * 3),
        *(
            markdown_row(
                [name, f"{e.value:.2f}", f"{e.interval[0]:.2f} to {e.interval[1]:.2f}"] if e else [name, "", ""]
            )
            for name, e in rows.items()
        ),
        "",
        f"Who always says the more frequent of right and wrong agrees with exact match in {agreement.chance:.2f}.",
    ]


def _examples(asking: Asking, scores: Mapping[str, PerQuery]) -> list[str]:
    """Those first on which the systems differ most."""
    measure = next((m for m in (F1, CORRECTNESS) if all(m in of for of in scores.values())), None)

    def spread(question_id: str) -> float:
        values = [of[measure].get(question_id, 0.0) for of in scores.values()] if measure else [0.0]
        return max(values) - min(values)

    order = sorted(range(len(asking.questions)), key=lambda n: (-spread(asking.questions[n].id), n))[:SHOWN]
    lines = [
        markdown_row(["question", "reference", *(NAMES[s] for s in asking.answers)]),
        markdown_row(["---"] * (2 + len(asking.answers))),
    ]
    for n in order:
        question = asking.questions[n]
        cells = [code(question.text), code(" / ".join(question.answers))]
        lines.append(markdown_row([*cells, *(code(given[n].text) for given in asking.answers.values())]))
    return lines


def _changes(comparison: Comparison, asking: Asking, scores: Mapping[str, PerQuery]) -> list[QueryChange]:
    """Question by question, with the ranks of what answers it among the documents shown."""
    first, second = list(scores)[:2]
    sides = tuple({PRIMARY: scores[system][comparison.primary]} for system in (first, second))
    known = sides[0][PRIMARY].keys() & sides[1][PRIMARY].keys()
    if not any(q.documents for q in asking.questions):
        return []
    task = asking.task()
    runs = tuple(
        {
            q.id: {d.doc_id: -float(n) for n, d in reversed([*enumerate(shown or ())])}
            for q, shown in asking.asked[system]
        }
        for system in (first, second)
    )
    kept = {q: query for q, query in task.queries.items() if q in known}
    task = replace(task, queries=kept, qrels={q: task.qrels[q] for q in kept})
    return [replace(change, left=(), entered=()) for change in query_changes(task, runs, sides)]


def _cell(mean: Estimate | None) -> str:
    return f"{mean.value:.3f} ± {(mean.interval[1] - mean.interval[0]) / 2:.3f}" if mean else ""
