import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.recipes.load import read_pool
from sharpen.sdg.llm.client import Answer
from sharpen.sdg.queries import generate_queries
from sharpen.sdg.strategies.base import Example, Strategy
from sharpen.sdg.strategies.multi_hop import (
    ARTIFACTS,
    Bundle,
    arrange,
    bundles,
    questions_schema,
    read_artifacts,
    read_example,
    read_questions,
)

from tests.sdg.recorded import Recorded

EXAMPLE = read_example(
    {
        "segments": ["The ferry ran until the harbour fell dry.", "It fell dry in 1961."],
        "artifacts": {"entities": ["ferry"]},
        "pairs": [
            {
                "hop_contexts": [{"segment_ids": [1]}, {"segment_ids": [2]}],
                "question": "When did the ferry stop?",
                "answer": "1961",
                "query_type": "multi_hop",
                "question_complexity": 2,
            }
        ],
    }
)


def _corpus(*sizes: int) -> dict[str, Document]:
    """Documents a, b, c, ... of so many chunks."""
    chunks = [
        Document(
            f"{name}#{n}", f"{name} says in part {n} what topic{ord(name) // 2} is about", metadata={"chunk_of": name}
        )
        for name, size in zip("abcdefgh", sizes, strict=False)
        for n in range(size)
    ]
    return {c.id: c for c in chunks}


def test_bundles_are_disjoint_and_by_relation_or_by_order():
    corpus = _corpus(2, 2, 2, 2, 1)
    in_order = [members for members, _ in bundles(list(corpus.values()), corpus, Bundle(documents=2, related=False))]
    assert in_order == [["a", "b"], ["c", "d"]]
    # b and c, d and e share a topic; a has no fellow, and would take what it gets
    related = [members for members, _ in bundles(list(corpus.values())[2:], corpus, Bundle(documents=2))]
    assert related == [["b", "c"], ["d", "e"]]
    assert [members for members, _ in bundles(list(corpus.values()), corpus, Bundle())] == [
        ["a"],
        ["b"],
        ["c"],
        ["d"],
    ]  # e has one chunk
    some = [corpus["c#1"]]
    assert [
        (members, [len(c) for c in chunks])
        for members, chunks in bundles(some, corpus, Bundle(documents=2, related=False))
    ] == [(["c", "d"], [2, 2])]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(2, 7),
    st.sampled_from(["sequential", "balanced", "interleaved"]),
)
def test_no_prompt_is_too_long_and_each_document_or_segment_is_where_it_should_be(sizes, limit, order):
    corpus = _corpus(*sizes)
    chunks = [[c for c in corpus.values() if c.doc_id == name] for name in "abcd"[: len(sizes)]]
    windows = arrange(chunks, order, limit)
    shown = [c.id for window in windows for c in window]
    assert set(shown) <= set(corpus) and all(2 <= len(w) <= limit and len({c.id for c in w}) == len(w) for w in windows)
    if order == "balanced" and len(sizes) <= limit:
        assert all({c.doc_id for c in w} == set("abcd"[: len(sizes)]) for w in windows)
    else:
        assert len(set(shown)) == len(shown)
    if sum(sizes) <= limit and sum(sizes) > 1:
        assert set(shown) == set(corpus)


def test_orders_of_segments():
    chunks = [[c for c in _corpus(4, 2).values() if c.doc_id == name] for name in "ab"]
    ids = lambda order: [[c.id for c in window] for window in arrange(chunks, order, 3)]  # noqa: E731
    assert ids("sequential") == [["a#0", "a#1", "a#2"], ["a#3", "b#0", "b#1"]]
    assert ids("balanced") == [["a#0", "a#1", "b#0"], ["a#2", "a#3", "b#1"]]
    assert ids("interleaved") == [["a#0", "b#0", "a#1"], ["b#1", "a#2", "a#3"]]


def _pair(hops=((1,), (2,)), **more):
    return {
        "hop_contexts": [{"segment_ids": list(h), "summary": "s"} for h in hops],
        "question": "Who did it?",
        "answer": "she",
        "query_type": "multi_hop",
        "reasoning_type": "causal",
        "question_complexity": 4,
    } | more


def test_a_question_carries_its_evidence_and_hops():
    (item,) = read_questions(json.dumps({"pairs": [_pair(((1,), (3, 2)))]}), ["x", "y", "z"], 5, Bundle()).items
    assert item.evidence == ("x", "z", "y") and item.problem == "" and item.answer == "she"
    assert item.metadata["hop_count"] == 2 and item.metadata["segment_ids"] == ["x", "z", "y"]
    assert item.metadata["hop_contexts"][1] == {"hop_number": 2, "segment_ids": ["z", "y"], "summary": "s"}


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        (_pair(((1,), (1,))), "rest on the same segments"),
        (_pair(((1, 2),)), "not of 2 to 4 hops"),
        (_pair(((1,), (9,))), "a segment that it was not shown"),
        (_pair(question_complexity=2), "complexity below 3"),
        (_pair(query_type="contextual"), "of type contextual"),
        (_pair(question_complexity=8), "not the schema: question_complexity"),
        ({"question": "x y"}, "not the schema: hop_contexts"),
        ("a question?", "not the schema"),
    ],
)
def test_what_contradicts_itself_or_the_recipe_is_named(pair, problem):
    (item,) = read_questions(json.dumps([pair]), ["x", "y", "z"], 5, Bundle(min_complexity=3)).items
    assert problem in item.problem


def test_artifacts_are_read_from_what_comes():
    (item,) = read_artifacts(
        'Sure: {"entities": ["a", "", 3, "b", "c", "d"], "other": ["x"], "themes": "no list"}'
    ).items
    assert json.loads(item.query) == {"entities": ["a", "b", "c"]}
    assert read_artifacts("none").error and read_artifacts("{}").error


def test_the_schema_holds_to_the_segments_that_are_shown():
    schema = questions_schema(3, 2, Bundle(hops=(2, 3)), bounded=True)
    pair = schema["properties"]["pairs"]
    assert (pair["minItems"], pair["maxItems"]) == (2, 2)
    hops = pair["items"]["properties"]["hop_contexts"]
    assert "maxLength" in json.dumps(schema) and "maxLength" not in json.dumps(
        questions_schema(3, 2, Bundle(), bounded=False)
    )
    assert (hops["minItems"], hops["maxItems"], hops["items"]["properties"]["segment_ids"]["items"]["maximum"]) == (
        2,
        3,
        3,
    )


def test_artifacts_first_then_questions_and_every_one_is_accounted_for():
    corpus = _corpus(1, 1, 1, 1, 1, 1)
    first = Strategy("", [EXAMPLE], kind="artifacts", name="artifacts", chat=True, examples=1)
    strategy = Strategy(
        "",
        [EXAMPLE],
        kind="multi_hop",
        name="multi_hop",
        count=2,
        examples=1,
        bundle=Bundle(documents=2, related=False),
        first=first,
    )
    good = {"pairs": [_pair(), _pair(question="When did the ferry stop?")]}
    llm = Recorded(
        [Answer('{"entities": ["topic"]}'), Answer("nothing"), Answer('{"themes": ["x"]}')],
        [Answer("still nothing")],  # the second attempt of the one without artifacts
        [Answer(json.dumps(good)), Answer(json.dumps({"pairs": [_pair(((1,), (1,)))]}))],
    )
    generated = generate_queries(list(corpus.values()), llm, [strategy], 1, corpus=corpus)
    assert generated.counts()["asked"] == 6 and generated.counts()["kept"] == 1
    assert generated.tallies["multi_hop"].rejected == {
        "not readable: no artifacts: not a JSON object": 2,
        "copied from an example of the prompt": 1,
        "not multi-hop: its hops rest on the same segments": 1,
        "missing from the answer": 1,
    }
    (query,) = generated.kept
    assert (
        query.metadata["positives"] == ["a#0", "b#0"]
        and query.metadata["bundle"] == ["a", "b"]
        and query.metadata["hop_count"] == 2
    )
    assert [row["artifacts"] for row in generated.first_steps] == ['{"entities": ["topic"]}', '{"themes": ["x"]}']
    assert 'Artifacts: {"entities": ["topic"]}\nQuestions:' in llm.asked[2][0].prompt
    assert all(name in llm.asked[0][0].prompt for name in ARTIFACTS)


def test_a_short_document_is_in_the_prompt_that_is_asked_and_none_without_two_segments():
    corpus = _corpus(1, 9)
    strategy = Strategy(
        "", [EXAMPLE], kind="multi_hop", name="multi_hop", bundle=Bundle(documents=2, related=False, order="sequential")
    )
    (unit,) = strategy.units(list(corpus.values()), corpus=corpus)
    assert unit.positives[0] == "a#0" and len(unit.positives) == 4
    with pytest.raises(InputError, match=r"no 1 document with two chunks.*raise bundle\.documents"):
        list(replace(strategy, bundle=Bundle()).units(list(_corpus(1, 1).values())))


def test_back_translation_goes_there_and_back_without_sight_of_the_first():
    there = [Example("How long?", ("Wie lange?",))]
    back = [Example("Wie lange?", ("How long?",))]
    strategy = Strategy(
        "Translated.",
        back,
        kind="back_translation",
        name="back",
        examples=1,
        first=Strategy("Translated.", there, kind="back_translation", name="translation", examples=1),
    )
    real = Query("labelled-1", "when does the ferry leave", {"positives": ["a#0"], "strategy": "labelled"})
    llm = Recorded([Answer("Wann fährt die Fähre ab?")], [Answer("what time does the boat go")])
    corpus = _corpus(1)
    generated = generate_queries(list(corpus.values()), llm, [strategy], 1, corpus=corpus, given=[real])
    (query,) = generated.kept
    assert (query.text, query.metadata["positives"], query.metadata["of"]) == (
        "what time does the boat go",
        ["a#0"],
        "labelled-1",
    )
    assert generated.first_steps[0]["translation"] == "Wann fährt die Fähre ab?"
    nothing = Recorded([Answer(" "), Answer("Wann fährt die Fä", "length")], [])
    again = generate_queries(
        list(corpus.values()),
        nothing,
        [strategy],
        1,
        corpus=corpus,
        given=[real, replace(real, id="labelled-2", text="is there a boat")],
    )
    assert again.tallies["back"].rejected == {"empty": 1, "not readable: translation cut off at max_tokens": 1}
    assert "Wann fährt" in llm.asked[1][0].prompt and "ferry leave" not in llm.asked[1][0].prompt


def test_a_pool_of_multi_hop_examples_is_checked_by_line(tmp_path: Path):
    path = tmp_path / "pool.yaml"
    path.write_text(
        "- segments: [a b, c d]\n  artifacts: {entities: [x]}\n  pairs:\n    - {question: q r, query_type: multi_hop,"
        " question_complexity: 3, hop_contexts: [{segment_ids: [3]}]}\n"
    )
    with pytest.raises(InputError, match=r"pool\.yaml, line 1: pairs: 'q r' names a segment that is not there"):
        read_pool(path, multi_hop=True)
    path.write_text("- {document: a, query: b}\n")
    with pytest.raises(InputError, match=r"pool\.yaml, line 1: segments: Field required"):
        read_pool(path, multi_hop=True)
