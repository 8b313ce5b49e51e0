"""How good answers are: exact match and token F1 as SQuAD has them, refusals, and how far a judge agrees with these."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel
from scipy import stats

from sharpen.evaluation.significance import LEVEL, Estimate

EXACT, F1 = "exact match", "token F1"
ANSWERED = "answered"
"""Not refused."""
IN_CONTEXT = "answer in context"
"""A reference stands in what was shown, by its words one after the other."""
REFUSAL = "I don't know"
"""What a model is told to say where it finds no answer, in whatever language it is asked."""
SHORT = 10
"""Words of a reference answer up to which a comparison word by word says something."""
MIN_CORRELATION = 0.4
"""Rank correlation from which it is called moderate; a judge whose interval reaches below is not to be trusted."""
RESAMPLES = 1_000

_ARTICLES = {
    "en": ("a", "an", "the"),
    "de": ("ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"),
    "es": ("un", "una", "unos", "unas", "el", "la", "los", "las"),
}
"""Left out, by language: SQuAD's, and those of MLQA for the others."""
_CHARACTERS = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])")
"""Of scripts without blanks between words: each is a token, as in MLQA."""
_REFUSED = re.compile(
    r"i ?(?:do not|don ?t|dont|did not|can ?not|cannot|can ?t) (?:know|answer|find|say|tell)|unknown$|unanswerable|"
    r"no answer|not (?:mentioned|stated|given|specified|provided|known|found|available)\b|"
    r"the (?:documents?|contexts?|texts?|passages?) (?:do|does) not"
)


def answer_tokens(text: str, language: str = "en") -> list[str]:
    """The words that two answers are compared by: lower case, without punctuation and articles, unless there is nothing
    else.

    >>> answer_tokens("The 'Eiffel Tower', Paris."), answer_tokens("A."), answer_tokens("+")
    (['eiffel', 'tower', 'paris'], ['a'], ['+'])
    """
    return next(filter(None, _readings(text, language)), [])


def stands_in(references: Sequence[str], texts: Sequence[str], language: str = "en") -> bool:
    """Whether the words of one of the references stand in one of the texts, one after the other.

    >>> stands_in(["6"], ["built in 1961"]), stands_in(["46 metres"], ["It is 46 metres high."])
    (False, True)
    """
    read = [_readings(text, language) for text in texts]
    return any(_stands_in(_readings(reference, language), of_text) for reference in references for of_text in read)


def exact_match(answer: str, references: Sequence[str], language: str = "en") -> float:
    """1 if the answer has the words of one of the references, else 0; an answer without a word has none.

    >>> exact_match("the 46 metres.", ["46 metres", "46 m"])
    1.0
    """
    tokens = answer_tokens(answer, language)
    return float(bool(tokens) and any(tokens == answer_tokens(reference, language) for reference in references))


def token_f1(answer: str, references: Sequence[str], language: str = "en") -> float:
    """The harmonic mean of precision and recall of words, 0 to 1, by the reference for which it is largest.

    >>> round(token_f1("46 metres tall", ["46 metres"]), 3)
    0.8
    """
    return max((_f1(answer_tokens(answer, language), answer_tokens(r, language)) for r in references), default=0.0)


def is_refusal(answer: str) -> bool:
    """Whether an answer says that it is none: it is empty, or begins with ``REFUSAL`` or the like.

    >>> is_refusal("I don't know."), is_refusal("The documents do not say."), is_refusal("1961")
    (True, True, False)
    """
    words = " ".join(re.sub(r"[^\w\s]", " ", answer.lower()).split())
    return not words or _REFUSED.match(words) is not None


def are_short(references: Sequence[Sequence[str]]) -> bool:
    """Whether of the shortest reference of each question every second one has ``SHORT`` words at most.

    >>> are_short([["46 metres", "It is 46 metres tall"], ["Skagen"]])
    True
    """
    lengths = [min(len(answer_tokens(text)) for text in texts) for texts in references]
    return float(np.median(lengths)) <= SHORT


class Agreement(BaseModel):
    """How far a judge's scores of answers (0 to 1) go with token F1 and with exact match, with 95 % intervals over
    questions.

    ``spearman``, ``kendall`` (tau-b): of the scores with F1; None where one of the two is always the same.
    ``agreement``: fraction of answers of which the judge says right (0.5 and more) where they match, or wrong where
    they do not; ``chance``: what one would have who always says the more frequent of the two. ``kappa``: Cohen's.
    """

    answers: int
    spearman: Estimate | None
    kendall: Estimate | None
    agreement: Estimate
    chance: float
    kappa: Estimate | None

    @property
    def is_trusted(self) -> bool:
        """Whether the correlation with F1 is clearly moderate, at least."""
        return self.spearman is not None and self.spearman.interval[0] > MIN_CORRELATION

    def sentence(self) -> str:
        """What the judge's scores are worth here, in Markdown."""
        if self.spearman is None:
            return (
                "**The judge cannot be trusted here**: its scores, or token F1, are the same for every answer, so that"
                " they tell nothing apart."
            )
        low, high = self.spearman.interval
        facts = (
            f"Spearman's correlation of its correctness with token F1 is {self.spearman.value:.2f}, 95 % interval"
            f" {low:.2f} to {high:.2f}, {self.answers:,} answers"
        )
        if self.is_trusted:
            return f"The judge goes with the references: {facts}."
        return (
            f"**The judge cannot be trusted here**: {facts}; that may be less than {MIN_CORRELATION:g}, which is"
            " moderate. Its scores are no ground for a decision; take a larger model as a judge."
        )


def judge_agreement(
    judged: Mapping[str, Sequence[float]],
    f1: Mapping[str, Sequence[float]],
    matches: Mapping[str, Sequence[float]],
    seed: int = 13,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Compare a judge's scores with what the references say of the same answers.

    Each argument has, by question, the values of its answers by several systems, in the same order; the answers of a
    question are resampled together. Raises ``ValueError`` if there is no answer.

    >>> right = {f"q{n}": [1.0, 0.0] for n in range(20)}
    >>> found = judge_agreement({q: [0.9, 0.1] for q in right}, right, right)
    >>> found.spearman.value, found.agreement.value, found.chance, found.is_trusted
    (1.0, 1.0, 0.5, True)
    """
    questions = sorted(judged)
    columns = [[np.asarray(side[q], dtype=float) for q in questions] for side in (judged, f1, matches)]
    if not any(map(len, columns[0])):
        raise ValueError("no answer to compare on")
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(questions), len(questions)) for _ in range(resamples)]

    def of(measure: Callable[[np.ndarray, np.ndarray], float], other: int) -> Estimate | None:
        def value(rows: Sequence[int]) -> float:
            return measure(*(np.concatenate([columns[side][n] for n in rows]) for side in (0, other)))

        found = value(range(len(questions)))
        if np.isnan(found):
            return None
        drawn = [v for rows in draws if not np.isnan(v := value(rows))] or [found]
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return Estimate(value=found, interval=(float(low), float(high)))

    right = np.concatenate(columns[2]) > 0.5
    return Agreement(
        answers=len(right),
        spearman=of(_correlation(stats.spearmanr), 1),
        kendall=of(_correlation(stats.kendalltau), 1),
        agreement=of(lambda scores, match: float(((scores >= 0.5) == (match > 0.5)).mean()), 2),
        chance=float(max(right.mean(), 1 - right.mean())),
        kappa=of(_kappa, 2),
    )


def _readings(text: str, language: str) -> tuple[list[str], list[str], list[str]]:
    """A text's words without signs and articles, with articles, and with both: of an answer that is an article or a
    sign, as "A" or "+", something must be left, or no answer would be right."""
    text = unicodedata.normalize("NFC", text).lower()
    without = "".join(c for c in text if unicodedata.category(c)[0] not in "PS")
    words = _CHARACTERS.sub(r" \1 ", without).split()
    return [word for word in words if word not in _ARTICLES.get(language, ())], words, text.split()


def _stands_in(reference: Sequence[list[str]], text: Sequence[list[str]]) -> bool:
    """As the first reading has it that leaves anything of the reference."""
    words, others = next((both for both in zip(reference, text, strict=True) if both[0]), ([], []))
    return bool(words) and f" {' '.join(words)} " in f" {' '.join(others)} "


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return 0.0
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference))


def _correlation(measure: Callable) -> Callable[[np.ndarray, np.ndarray], float]:
    def value(first: np.ndarray, second: np.ndarray) -> float:
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            return float("nan")
        return float(measure(first, second).statistic)

    return value


def _kappa(scores: np.ndarray, match: np.ndarray) -> float:
    first, second = scores >= 0.5, match > 0.5
    by_chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return float("nan") if by_chance == 1 else float(((first == second).mean() - by_chance) / (1 - by_chance))
