from hypothesis import given, settings
from hypothesis import strategies as st

from sharpen.evaluation.contamination import overlap


def test_copies_and_near_copies_are_counted_apart():
    train = {
        "t1": "How long must bread be kneaded by hand?",
        "t2": "vpn drops after lunch",
        "t3": "",
        "t4": "an altogether different thing",
    }
    test = {
        "a": "how long must  BREAD be kneaded by hand?",
        "b": "How long must the bread be kneaded by hand?",
        "c": "vpn is slow",
        "d": "",
        "e": "vpn drops after lunch!",
    }
    result = overlap(test, train)
    assert (result.of, result.exact, result.near) == (5, 2, 2)  # the empty one is a copy of the empty one
    assert dict(result.examples) == {"a": "t1", "d": "t3", "b": "t1", "e": "t2"}
    assert overlap(test, {}).exact == overlap({}, train).near == overlap(test, {}).near == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("abc ", max_size=12), max_size=6),
    st.lists(st.text("abc ", max_size=12), max_size=6),
    st.sampled_from([0.3, 0.8]),
)
def test_near_is_jaccard_of_runs_of_four(test, train, threshold):
    def runs(text):
        return {w[i : i + 4] for word in text.split() for w in [f" {word} "] for i in range(max(1, len(w) - 3))}

    def named(texts):
        return {str(n): text for n, text in enumerate(texts)}

    copies = {" ".join(t.split()) for t in train}
    rest = [t for t in test if " ".join(t.split()) not in copies and t.strip()]
    near = sum(
        any(runs(t) & runs(o) and len(runs(t) & runs(o)) / len(runs(t) | runs(o)) >= threshold - 1e-6 for o in train)
        for t in rest
    )
    result = overlap(named(test), named(train), threshold)
    assert result.near == near and result.exact == sum(" ".join(t.split()) in copies for t in test)
