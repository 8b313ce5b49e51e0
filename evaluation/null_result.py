"""Why nothing was won: the cause that the measurements point to, and the one thing to do about it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from pydantic import BaseModel

from sharpen.evaluation.metrics import PRIMARY
from sharpen.evaluation.report.comparison import MAX_QUERIES_NEEDED, Comparison, markdown_row

UNMOVED = 0.999
"""Mean cosine between the base's and the tuned model's vectors from which on the model is the base."""
NO_BETTER = 0.005
"""nDCG@10 by which a teacher must be better than the base to be one."""
EASY = 0.9
"""nDCG@10 of the untrained base on the queries that are trained on, from which on they teach it little."""
FALSE_NEGATIVES = 0.2
"""Fraction of the candidates that were taken for relevant: 20 to 32 % of mined negatives were, in CustomIR."""
FEW_STEPS = 50
MOSTLY_BASE = 0.9
MORE_QUERIES = 50
"""Times as many queries as there are: what nobody will collect is no advice."""


class Cause(StrEnum):
    """What may be behind a null result, in the order in which they are looked for: each makes those after it idle."""

    nothing_moved = "nothing moved"
    teacher_not_better = "the teacher is not better than the base"
    queries_too_easy = "the queries are too easy"
    false_negatives = "false negatives"
    few_steps = "few steps"
    few_test_queries = "too few queries to compare on"
    unknown = "no measurement points to a cause"


class Measurements(BaseModel):
    """What a run measured of itself. All cosines and metrics are means, 0 to 1; None: not measured.

    ``document_cosine``, ``query_cosine``: between the base's and the tuned model's vectors of the same texts (None for
    documents whose vectors are kept). ``easy``: nDCG@10 of the base on generated queries that were trained on.
    ``teacher``, ``base``, ``tuned``: nDCG@10 on the same queries, ``choosing``. ``false_negatives``: fraction of the
    mined candidates that filters took for relevant. ``base_weight``: of the base in the model.
    """

    document_cosine: float | None = None
    query_cosine: float | None = None
    easy: float | None = None
    teacher: float | None = None
    base: float | None = None
    tuned: float | None = None
    choosing: str = ""
    false_negatives: float | None = None
    steps: int
    learning_rate: float
    kept_step: int | None = None
    base_weight: float = 0.0


class Explanation(BaseModel):
    """``says``: the measurement that the cause rests on. ``do``: one thing. ``expect``: what that would bring."""

    cause: Cause
    says: str
    do: str
    expect: str

    def markdown(self) -> str:
        """One paragraph."""
        return f"**{self.cause[0].upper() + self.cause[1:]}.** {self.says} {self.do} {self.expect}"

    def plain(self) -> str:
        """``markdown`` without its marks."""
        return self.markdown().replace("**", "").replace("`", "")


def explain(measured: Measurements, comparison: Comparison) -> Explanation:
    """The first cause that holds.

    >>> from sharpen.evaluation.report.comparison import make_comparison
    >>> scores = {"ndcg@10": {f"q{n}": n % 2 for n in range(40)}}
    >>> comparison = make_comparison(scores, scores, seed=1, queries_of="queries")
    >>> measured = Measurements(query_cosine=0.99999, document_cosine=0.99999, steps=3, learning_rate=1e-7)
    >>> explain(measured, comparison).cause
    <Cause.nothing_moved: 'nothing moved'>
    """
    for rule in _RULES:
        if explanation := rule(measured, comparison):
            return explanation
    return Explanation(
        cause=Cause.unknown,
        says=f"The model moved, the teacher is better than the base, and {comparison.queries:,} queries were compared.",
        do="Try another kind of queries or another teacher; `sharpen teachers` shows what each is worth.",
        expect="What that would bring cannot be said from this run.",
    )


def _nothing_moved(m: Measurements, _comparison: Comparison) -> Explanation | None:
    cosines = [c for c in (m.document_cosine, m.query_cosine) if c is not None]
    if not cosines or min(cosines) < UNMOVED:
        return None
    if m.base_weight == 1:
        return Explanation(
            cause=Cause.nothing_moved,
            says="On validation nothing was better than the base, so the model is the base.",
            do="Try another teacher or other queries; `sharpen teachers` shows what each is worth.",
            expect=f"Nothing is known of what these bring{_headroom(m)}.",
        )
    return Explanation(
        cause=Cause.nothing_moved,
        says=(
            f"After {m.steps:,} steps at a rate of {m.learning_rate:g}, the tuned model's vectors have a mean cosine of"
            f" {min(cosines):.5f} to the base's: it is the base."
        ),
        do=(
            "Lower `training.base_weight`: the result is mostly the base."
            if m.base_weight > MOSTLY_BASE
            else f"Raise `training.learning_rate` to {_rounded(10 * m.learning_rate)}."
        ),
        expect=f"Nothing has been tried yet{_headroom(m)}.",
    )


def _teacher_not_better(m: Measurements, _comparison: Comparison) -> Explanation | None:
    if m.teacher is None or m.base is None or m.teacher - m.base > NO_BETTER:
        return None
    return Explanation(
        cause=Cause.teacher_not_better,
        says=(
            f"On {m.choosing} the teacher has {PRIMARY} {m.teacher:.4f}, and the base {m.base:.4f}: a student does not"
            " pass its teacher."
        ),
        do="Run `sharpen teachers` with more scorers, and take the mixture that it prints as `training.teacher`.",
        expect="The gain is at most what the new teacher has over the base there.",
    )


def _queries_too_easy(m: Measurements, comparison: Comparison) -> Explanation | None:
    if m.easy is None or m.easy < EASY:
        return None
    real = comparison.before[comparison.primary].value
    return Explanation(
        cause=Cause.queries_too_easy,
        says=(
            f"The untrained base has {PRIMARY} {m.easy:.4f} on the queries that it was trained on, and {real:.4f} on"
            " those that were compared: the loss had nothing left to learn."
        ),
        do=(
            "Write harder ones: examples of what people really ask in `queries.pool`, `filters.copying`, a larger"
            " `llm`; or learn a teacher's scores (`training.teacher`), which needs no hard query."
        ),
        expect=f"Queries on which the base has about {real:.2f} would be like those that were compared{_headroom(m)}.",
    )


def _false_negatives(m: Measurements, _comparison: Comparison) -> Explanation | None:
    if m.false_negatives is None or m.false_negatives < FALSE_NEGATIVES:
        return None
    return Explanation(
        cause=Cause.false_negatives,
        says=f"{m.false_negatives:.0%} of the mined documents were taken for relevant by the filters.",
        do="Mine further down (`ranks` of `negatives.miners`), or learn a teacher's scores (`training.teacher`).",
        expect=f"Published gains of denoised over raw negatives are 1 to 3 points of nDCG@10{_headroom(m)}.",
    )


def _few_steps(m: Measurements, _comparison: Comparison) -> Explanation | None:
    if m.steps >= FEW_STEPS:
        return None
    return Explanation(
        cause=Cause.few_steps,
        says=f"There were {m.steps:,} optimizer steps.",
        do=(
            "Train on more rows: the part `training/queries_alone` takes tens of thousands of texts from the documents"
            " without an LLM, and `queries.documents` gives more generated ones."
        ),
        expect=f"What more steps bring is not known{_headroom(m)}.",
    )


def _few_test_queries(_m: Measurements, comparison: Comparison) -> Explanation | None:
    d = comparison.delta[comparison.primary]
    if d.value <= 0 or not d.needed or d.needed > min(MAX_QUERIES_NEEDED, MORE_QUERIES * comparison.queries):
        return None
    return Explanation(
        cause=Cause.few_test_queries,
        says=(
            f"The difference of {d.value:+.4f} may be real: {comparison.queries:,} queries show one of"
            f" {d.detectable:.4f} and more only."
        ),
        do=f"Compare on about {d.needed:,} queries like these (`evaluation.data`).",
        expect="If the gain is what it seems, it is then found four times of five.",
    )


_RULES: tuple[Callable[[Measurements, Comparison], Explanation | None], ...] = (
    _nothing_moved,
    _teacher_not_better,
    _queries_too_easy,
    _false_negatives,
    _few_steps,
    _few_test_queries,
)


def measurements_table(m: Measurements, comparison: Comparison) -> list[str]:
    """The lines of a table with everything that was measured."""
    d = comparison.delta[comparison.primary]
    rows = [
        ("mean cosine to the base, documents", _number(m.document_cosine)),
        ("mean cosine to the base, queries", _number(m.query_cosine)),
        (f"{PRIMARY} of the base on queries trained on", _number(m.easy)),
        (f"{PRIMARY} of the base on those compared", _number(comparison.before[comparison.primary].value)),
        *(
            (f"{PRIMARY} of the {who} on {m.choosing}", _number(getattr(m, who)))
            for who in ("teacher", "base", "tuned")
        ),
        ("mined documents taken for relevant", "" if m.false_negatives is None else f"{m.false_negatives:.0%}"),
        ("optimizer steps", f"{m.steps:,}"),
        ("step that was kept", "" if m.kept_step in (None, m.steps) else f"{m.kept_step:,}"),
        ("learning rate", f"{m.learning_rate:g}"),
        ("queries compared on", f"{comparison.queries:,}"),
        ("difference that they would show", _number(d.detectable)),
    ]
    lines = [markdown_row(["measured", ""]), markdown_row(["---"] * 2)]
    return lines + [markdown_row([what, value]) for what, value in rows if value]


def _headroom(m: Measurements) -> str:
    if m.teacher is None or m.base is None:
        return ""
    return f"; the teacher has {m.teacher - m.base:+.4f} over the base, which is the most that can be won"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _rounded(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")
