"""Answers beside their references, refusals, and what a judge's scores are worth."""

from itertools import chain

import numpy as np
import pytest
from scipy import stats

from sharpen.evaluation.answer_metrics import (
    answer_tokens,
    are_short,
    exact_match,
    is_refusal,
    judge_agreement,
    stands_in,
    token_f1,
)


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1),
        ("Denver", ["Denver Broncos", "The Broncos"], 0, 2 / 3),
        ("in 1961", ["1961"], 0, 2 / 3),
        ("1961 1961", ["1961"], 0, 2 / 3),
        ("$5,000", ["5000"], 1, 1),
        ("New-York", ["new york"], 0, 0),  # as SQuAD's script has it: a hyphen goes, and leaves no blank
        ("a", ["the"], 0, 0),
        ("A.", ["A"], 1, 1),  # without articles nothing is left of either
        ("", ["A"], 0, 0),
        ("", ["+"], 0, 0),
        ("+", ["+"], 1, 1),
        ("the", ["Denver"], 0, 0),
        ("", ["Denver"], 0, 0),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(answer, references, exact, f1):
    assert (exact_match(answer, references), token_f1(answer, references)) == (exact, pytest.approx(f1))


def test_articles_are_those_of_the_language_and_scripts_without_blanks_are_compared_by_character():
    assert answer_tokens("Der Turm der Stadt", "de") == ["turm", "stadt"]
    assert answer_tokens("Der Turm", "en") == ["der", "turm"]
    assert token_f1("埃菲尔铁塔", ["铁塔"]) == pytest.approx(2 * 2 / 7)


@pytest.mark.parametrize(
    ("reference", "text", "stands"),
    [
        ("6", "built in 1961", False),
        ("46 metres", "It is 46\nmetres, high.", True),
        ("46 metres", "46 high metres", False),
        ("the Eiffel Tower", "Eiffel tower", True),
        ("铁塔", "埃菲尔铁塔", True),
        ("A", "of group A, as", True),
        ("A", "of groups as", False),
        ("+", "a + b", True),
        ("", "anything", False),
    ],
)
def test_a_reference_stands_in_a_text_by_its_words_one_after_the_other(reference, text, stands):
    assert stands_in([reference], ["other", text]) is stands


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I don't know", True),
        ("i don’t know.", True),
        ("I do not know the answer", True),
        ("", True),
        ("  .", True),
        ("Not mentioned in the documents", True),
        ("unknown", True),
        ("The context does not say", True),
        ("Unknown Pleasures", False),
        ("the documents of 1961", False),
        ("notes", False),
        ("no", False),
        ("Idaho", False),
    ],
)
def test_refusals_are_told_from_answers(answer, refused):
    assert is_refusal(answer) is refused


def test_references_are_short_if_every_second_one_is():
    assert are_short([["one"], ["word " * 30], ["two words"]]) and not are_short([["word " * 30], ["word " * 11]])


def test_a_judge_that_sees_what_is_right_is_trusted_and_one_that_guesses_is_not():
    rng = np.random.default_rng(1)
    f1 = {f"q{n}": list(rng.choice([0.0, 0.5, 1.0], 2)) for n in range(60)}
    match = {q: [float(v == 1) for v in values] for q, values in f1.items()}
    good = {q: [min(1.0, max(0.0, v + rng.normal(0, 0.1))) for v in values] for q, values in f1.items()}
    blind = {q: list(rng.random(2)) for q in f1}
    seeing = judge_agreement(good, f1, match, resamples=200)
    columns = [list(chain(*side.values())) for side in (good, f1)]
    assert seeing.spearman.value == pytest.approx(stats.spearmanr(*columns).statistic)
    assert seeing.kendall.value == pytest.approx(stats.kendalltau(*columns).statistic)
    assert seeing.is_trusted and seeing.spearman.interval[0] < seeing.spearman.value < seeing.spearman.interval[1]
    guessing = judge_agreement(blind, f1, match, resamples=200)
    assert not guessing.is_trusted and "cannot be trusted" in guessing.sentence()
    assert guessing.kappa.interval[0] < 0 < guessing.kappa.interval[1]
    always = judge_agreement({q: [1.0, 1.0] for q in f1}, f1, match, resamples=50)
    assert always.spearman is None and not always.is_trusted and "the same for every answer" in always.sentence()
    assert always.agreement.value == pytest.approx(np.mean(list(chain(*match.values())))) and always.kappa.value == 0


def test_answers_of_one_question_are_resampled_together():
    values = {f"q{n}": [float(n % 3 == 0)] * 5 for n in range(12)}
    noisy = {q: [abs(v[0] - (n % 4 == 0))] * 5 for n, (q, v) in enumerate(values.items())}
    apart = [{f"{q}-{i}": [v] for q, of in side.items() for i, v in enumerate(of)} for side in (noisy, values)]
    together = judge_agreement(noisy, values, values, resamples=300).agreement.interval
    alone = judge_agreement(apart[0], apart[1], apart[1], resamples=300).agreement.interval
    assert together[1] - together[0] > alone[1] - alone[0]
