"""The page of a null result names the cause that the data were made to have."""

import pytest

from sharpen.evaluation.null_result import Cause, Measurements, explain, measurements_table
from sharpen.evaluation.report.comparison import make_comparison


def _comparison(differences):
    before = {f"q{n}": 0.4 for n in range(len(differences))}
    after = {f"q{n}": 0.4 + d for n, d in enumerate(differences)}
    return make_comparison({"ndcg@10": before}, {"ndcg@10": after}, seed=1, queries_of="queries of a test")


NOISE = [0.1, -0.1] * 60
GAIN = [0.2, -0.1, 0.05, 0.1, -0.05, 0.05]
SOUND = {
    "document_cosine": 0.95, "query_cosine": 0.93, "easy": 0.5, "teacher": 0.6, "base": 0.5, "tuned": 0.52,
    "choosing": "100 dev queries", "false_negatives": 0.05, "steps": 300, "learning_rate": 2e-5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "differences", "cause", "said"),
    [
        ({"document_cosine": 0.99995, "query_cosine": 0.99999}, NOISE, Cause.nothing_moved, "0.99995"),
        ({"document_cosine": None, "query_cosine": 0.99999}, NOISE, Cause.nothing_moved, "0.99999"),
        ({"teacher": 0.49}, NOISE, Cause.teacher_not_better, "0.4900, and the base 0.5000"),
        ({"easy": 0.97}, NOISE, Cause.queries_too_easy, "0.9700 on the queries"),
        ({"false_negatives": 0.3}, NOISE, Cause.false_negatives, "30%"),
        ({"steps": 9}, NOISE, Cause.few_steps, "9 optimizer steps"),
        ({}, GAIN, Cause.few_test_queries, "6 queries show"),
        ({}, NOISE, Cause.unknown, "120 queries"),
        # what comes first makes the rest idle
        (
            {"document_cosine": 1.0, "query_cosine": 1.0, "teacher": 0.4, "steps": 9},
            GAIN,
            Cause.nothing_moved,
            "9 steps",
        ),
    ],
)
def test_the_first_cause_that_holds_is_named_with_its_number_and_one_thing_to_do(changes, differences, cause, said):
    measured, comparison = Measurements(**SOUND | changes), _comparison(differences)
    assert comparison.verdict == "not distinguishable"
    explanation = explain(measured, comparison)
    assert explanation.cause == cause and said in explanation.says
    assert explanation.do and explanation.expect and explanation.says in explanation.markdown()


def test_documents_that_moved_alone_are_a_movement():
    measured = Measurements(**SOUND | {"document_cosine": 0.98, "query_cosine": 0.9999})
    assert explain(measured, _comparison(NOISE)).cause != Cause.nothing_moved


def test_the_table_has_what_was_measured_and_nothing_else():
    comparison = _comparison(NOISE)
    lines = measurements_table(Measurements(**SOUND | {"easy": None}), comparison)
    assert any("of the teacher on 100 dev queries | 0.6000" in line for line in lines)
    assert not any("queries trained on" in line for line in lines) and any("| 300 |" in line for line in lines)
