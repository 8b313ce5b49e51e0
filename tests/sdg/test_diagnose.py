import numpy as np
import pytest

from sharpen.evaluation.beir import Document
from sharpen.sdg.diagnose import JudgedTexts, drift, kind_of, profile, win_rates


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("How do I knead?", "how"),
        ("is it done", "yes or no"),
        ("dough too wet?", "other question"),
        ("dough too wet", "keywords"),
        ("Wet dough makes a loaf that spreads.", "statement"),
        ("?", "other question"),
        ("", "keywords"),
    ],
)
def test_kinds(text, kind):
    assert kind_of(text) == kind


CORPUS = {
    f"d{n}": Document(f"d{n}", f"number {n} is explained with words such as alpha beta gamma delta epsilon")
    for n in range(100)
}


def _labelled(texts):
    return JudgedTexts(dict(enumerate(texts)), {n: [f"d{n % 100}"] for n, _ in enumerate(texts)})


def test_a_profile_counts_what_it_says():
    found = profile(
        JudgedTexts(
            {"a": "alpha beta zeta", "b": "Alpha, beta: zeta", "c": "how?", "d": "x"},
            {"a": ["d1"], "b": ["d2", "gone"], "c": ["d1"], "d": ["gone"]},
        ),
        CORPUS,
    )
    assert found.queries == 3 and found.coverage == 0.02 and found.duplicates == pytest.approx(1 / 3)
    assert found.lengths.tolist() == [3, 3, 1] and np.allclose(found.overlaps, [2 / 3, 2 / 3, 0])
    assert found.kinds["keywords"] == pytest.approx(2 / 3) and sum(found.kinds.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="no query has a document"):
        profile(JudgedTexts({"d": "x"}, {"d": ["gone"]}), CORPUS)


def test_drift_is_told_where_it_is_and_nowhere_else():
    rng = np.random.default_rng(1)
    common, rare = ["alpha", "beta", "gamma", "delta"], ["one", "two", "three", "four", "five", "six"]

    def draw(n, size, share):
        return [
            " ".join(["how", *rng.choice(common if rng.random() < share else rare, max(1, int(rng.normal(size, 1))))])
            for _ in range(n)
        ]

    real = profile(_labelled(draw(150, 5, 0.3)), CORPUS)
    assert drift(profile(_labelled(draw(400, 5, 0.3)), CORPUS), real) == []
    found = drift(profile(_labelled(draw(400, 9, 0.9)), CORPUS), real)
    assert [warning.split(":")[0] for warning in found] == ["length", "overlap with the document"]
    statements = profile(_labelled([f"the {t[4:]} is what it is" for t in draw(400, 5, 0.3)]), CORPUS)
    assert any(
        w.startswith("kinds: how 0% against 100%") or "how 0% against 100%" in w for w in drift(statements, real)
    )
    assert any(w.startswith("duplicates: 98%") for w in drift(profile(_labelled(["how alpha"] * 50), CORPUS), real))


def test_win_rates_are_those_of_the_paper():
    real = JudgedTexts(
        {"q1": "who wrote alpha", "q2": "when was beta built", "q3": "gamma"},
        {"q1": ["d1"], "q2": ["d2"], "q3": ["d3"]},
    )
    close = JudgedTexts(
        {"s1": "who wrote alpha then", "s2": "beta", "x": "no one"}, {"s1": ["d1"], "s2": ["d2"], "x": ["d9"]}
    )
    far = JudgedTexts(
        {"t1": "alpha", "t1b": "wrote", "t2": "when was beta built", "t9": "gamma"},
        {"t1": ["d1"], "t1b": ["d1"], "t2": ["d2"], "t9": ["d8"]},
    )
    # q1: 3/4 against 1/3; q2: 1/4 against 1; q3 has no query of either
    assert win_rates(real, {"close": close, "far": far}) == {
        ("close", "far"): {"queries": 2, "wins": 0.5, "losses": 0.5}
    }
