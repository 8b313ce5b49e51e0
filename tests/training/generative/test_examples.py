import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.identifiers import Identifier, prompt_tokens
from sharpen.training.generative.examples import (
    Example,
    combine,
    context_examples,
    pieces,
    query_examples,
    replay,
)
from tests.support.tiny_models import tokenizer

WORDS = tokenizer(special=False)
IDENTIFIERS = {"d": Identifier("d", "bread flour", "keywords"), "e": Identifier("e", "ice", "keywords")}


def _of(names, kind="query"):
    return [Example(name, name, kind, name) for name in names]


@given(st.text(alphabet="ab \n", max_size=80), st.integers(1, 9))
def test_pieces_fit_and_are_the_whole_text(text, room):
    parts = pieces(text, WORDS, room)
    assert "".join(parts) == text
    assert all(len(WORDS.encode(part, add_special_tokens=False)) <= room for part in parts)


def test_long_texts_come_in_pieces_and_chunks_stand_for_their_document():
    corpus = {
        "d/1": Document("d/1", "bread is made of flour water and salt", metadata={"chunk_of": "d"}),
        "e": Document("e", "the ice melts", "ice"),
    }
    found = context_examples(corpus, IDENTIFIERS, WORDS, max_tokens=8)
    assert [e.document for e in found] == ["d"] * (len(found) - 1) + ["e"] and len(found) > 2
    assert len({e.key for e in found}) == len(found) and found[-1].text == "ice the ice melts"
    assert "".join(e.text for e in found[:-1]) == corpus["d/1"].content
    # not cut again where the prompt is made
    assert all(len(prompt_tokens(e.text, WORDS, 99)) <= 8 for e in found)
    queries = [Query("q", "what", {"positives": ["d/1"]}), Query("r", "melts", {"positives": ["e", "d/1"]})]
    assert [(e.key, e.document) for e in query_examples(queries, corpus, IDENTIFIERS)] == [
        ("q", "d"),
        ("r", "e"),
        ("r", "d"),
    ]


def test_what_cannot_be_trained_on_is_named():
    with pytest.raises(InputError, match="'x' has no identifier"):
        context_examples({"x": Document("x", "salt")}, IDENTIFIERS, WORDS, 20)
    with pytest.raises(InputError, match="'x' has no identifier"):
        query_examples([Query("q", "salt", {"positives": ["x"]})], {}, IDENTIFIERS)
    with pytest.raises(InputError, match="d: the document is empty"):
        context_examples({"d": Document("d", " ")}, IDENTIFIERS, WORDS, 20)


def test_interleaving_takes_turns_and_repeats_the_fewer_in_other_orders():
    few, many = _of("abc", "context"), _of("0123456789")
    found = combine(few, many, "interleaved", seed=1)
    assert [e.kind for e in found] == ["context", "query"] * 10
    assert sorted(e.text for e in found[1::2]) == sorted("0123456789")
    texts = [e.text for e in found[::2]]
    turns = [texts[n : n + 3] for n in (0, 3, 6)]
    assert all(sorted(turn) == list("abc") for turn in turns) and len({tuple(turn) for turn in turns}) > 1
    assert combine(many, few, "interleaved", seed=1) != combine(many, few, "interleaved", seed=2)
    assert combine(few, many, "interleaved", seed=1) == found


def test_concatenation_has_each_once_and_one_kind_alone_is_itself():
    few, many = _of("abc", "context"), _of("0123456789")
    found = combine(few, many, "concatenated")
    assert sorted(e.text for e in found) == sorted("abc0123456789") and found != [*few, *many]
    assert sorted(e.text for e in combine([], many)) == sorted("0123456789")


def test_a_replay_takes_the_same_number_of_each_old_document():
    old = [Example(f"{d}{n}", d, "query", f"{d}{n}") for d in "abcde" for n in range(4 if d != "a" else 1)]
    new = [Example(f"n{n}", "n", "query", f"n{n}") for n in range(5)]
    found = replay(old, new, fraction=0.5, seed=3)
    assert found[:5] == new and sorted(e.document for e in found[5:]) == list("abcde")
    assert replay(old, new, 0.5, seed=3) == found != replay(old, new, 0.5, seed=4)
    assert len(replay(old, new, fraction=0.9)) == len(old) + 5 and replay(old, new, fraction=0) == new
    with pytest.raises(InputError, match="fraction"):
        replay(old, new, fraction=1)
