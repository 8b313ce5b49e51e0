import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpen.evaluation.beir import Document, Query
from sharpen.evaluation.files import InputError
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.queries import Generation
from sharpen.sdg.strategies.bundles import BundleSettings, arrange, bundles
from sharpen.sdg.strategies.multi_hop import (
    ARTIFACTS,
    MultiHop,
    parse_artifacts,
    parse_multi_hop_example,
    parse_questions,
    questions_schema,
)
from sharpen.sdg.strategies.rewrite import BackTranslation
from tests.sdg.recorded import Recorded
from tests.sdg.support import MULTI_HOP_EXAMPLE

EXAMPLE = parse_multi_hop_example(MULTI_HOP_EXAMPLE)


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
    in_order = [
        members for members, _ in bundles(list(corpus.values()), corpus, BundleSettings(documents=2, related=False))
    ]
    assert in_order == [["a", "b"], ["c", "d"]]
    # b and c, d and e share a topic; a has no fellow, and would take what it gets
    related = [members for members, _ in bundles(list(corpus.values())[2:], corpus, BundleSettings(documents=2))]
    assert related == [["b", "c"], ["d", "e"]]
    assert [members for members, _ in bundles(list(corpus.values()), corpus, BundleSettings())] == [
        ["a"],
        ["b"],
        ["c"],
        ["d"],
    ]  # e has one chunk
    up_to = BundleSettings(documents=3, related=False)
    assert [members for members, _ in bundles(list(corpus.values()), corpus, up_to)] == [["a", "b", "c"], ["d", "e"]]
    some = [corpus["c#1"]]
    assert [
        (members, [len(c) for c in chunks])
        for members, chunks in bundles(some, corpus, BundleSettings(documents=2, related=False))
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

    def ids(order):
        return [[c.id for c in window] for window in arrange(chunks, order, 3)]

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
    (item,) = parse_questions(
        json.dumps({"pairs": [_pair(((1,), (3, 2)))]}), ["x", "y", "z"], 5, BundleSettings()
    ).queries
    assert item.evidence == ("x", "z", "y") and item.problem is None and item.answer == "she"
    assert item.metadata["hop_count"] == 2 and item.metadata["segment_ids"] == ["x", "z", "y"]
    assert item.metadata["hop_contexts"][1] == {"hop_number": 2, "segment_ids": ["z", "y"], "summary": "s"}


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        (_pair(((1,), (1,))), ("same_segments", None, "")),
        (_pair(((1, 2),)), ("wrong_hop_count", 1, "2 to 4")),
        (_pair(((1,), (9,))), ("unknown_segment", None, "")),
        (_pair(question_complexity=2), ("too_simple", 2, "")),
        (_pair(query_type="contextual"), ("wrong_query_type", None, "contextual")),
        (_pair(question_complexity=8), ("invalid_schema", None, "question_complexity: Input should be less than")),
        ({"question": "x y"}, ("invalid_schema", None, "hop_contexts: Field required")),
        ("a question?", ("invalid_schema", None, "Input should be")),
    ],
)
def test_what_contradicts_itself_or_the_recipe_is_named(pair, problem):
    settings = BundleSettings(min_complexity=3)
    (query,) = parse_questions(json.dumps([pair]), ["x", "y", "z"], 5, settings).queries
    reason, value, detail = problem
    assert (query.problem.reason, query.problem.value) == (reason, value) and query.problem.detail.startswith(detail)


def test_artifacts_are_read_from_what_comes():
    (item,) = parse_artifacts(
        'Sure: {"entities": ["a", "", 3, "b", "c", "d"], "other": ["x"], "themes": "no list"}'
    ).queries
    assert json.loads(item.query) == {"entities": ["a", "b", "c"]}
    assert parse_artifacts("none").error and parse_artifacts("{}").error


def test_the_schema_holds_to_the_segments_that_are_shown():
    schema = questions_schema(3, 2, BundleSettings(hops=(2, 3)), bounded=True)
    pair = schema["properties"]["pairs"]
    assert (pair["minItems"], pair["maxItems"]) == (2, 2)
    hops = pair["items"]["properties"]["hop_contexts"]
    assert "maxLength" in json.dumps(schema) and "maxLength" not in json.dumps(
        questions_schema(3, 2, BundleSettings(), bounded=False)
    )
    assert (hops["minItems"], hops["maxItems"], hops["items"]["properties"]["segment_ids"]["items"]["maximum"]) == (
        2,
        3,
        3,
    )


def test_artifacts_first_then_questions_and_every_one_is_accounted_for():
    corpus = _corpus(1, 1, 1, 1, 1, 1)
    strategy = MultiHop(
        pool=[EXAMPLE], queries=2, examples_per_prompt=1, bundle={"documents": 2, "related": False}
    ).resolve()
    good = {"pairs": [_pair(), _pair(question="When did the ferry stop?")]}
    llm = Recorded(
        [Answer('{"entities": ["topic"]}'), Answer("nothing"), Answer('{"themes": ["x"]}')],
        [Answer("still nothing")],  # the second attempt of the one without artifacts
        [Answer(json.dumps(good)), Answer(json.dumps({"pairs": [_pair(((1,), (1,)))]}))],
    )
    generation = Generation(list(corpus.values()), llm, 1, corpus)
    generation.run(strategy)
    generated = generation.result
    assert generated.counts()["asked"] == 6 and generated.counts()["kept"] == 1
    assert generated.stats["multi_hop"].rejected == {
        "unreadable": 2,
        "copied_from_example": 1,
        "same_segments": 1,
        "missing": 1,
    }
    assert generated.rejected[2].message == "not readable: no artifacts: not a JSON object"
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
    strategy = MultiHop(pool=[EXAMPLE], bundle={"documents": 2, "related": False, "order": "sequential"}).resolve()
    (unit,) = strategy.units(list(corpus.values()), corpus=corpus)
    assert unit.positives[0] == "a#0" and len(unit.positives) == 4
    with pytest.raises(InputError, match=r"no 1 document with two chunks.*raise bundle\.documents"):
        list(MultiHop(pool=[EXAMPLE]).resolve().units(list(_corpus(1, 1).values())))


def test_back_translation_goes_there_and_back_without_sight_of_the_first():
    there = [{"document": "How long?", "query": "Wie lange?"}]
    strategy = BackTranslation(name="back", pool=there, examples_per_prompt=1).resolve()
    real = Query("labelled-1", "when does the ferry leave", {"positives": ["a#0"], "strategy": "labelled"})
    llm = Recorded([Answer("Wann fährt die Fähre ab?")], [Answer("what time does the boat go")])
    corpus = _corpus(1)
    generation = Generation(list(corpus.values()), llm, 1, corpus, [real])
    generation.run(strategy)
    generated = generation.result
    (query,) = generated.kept
    assert (query.text, query.metadata["positives"], query.metadata["of"]) == (
        "what time does the boat go",
        ["a#0"],
        "labelled-1",
    )
    assert generated.first_steps[0]["translation"] == "Wann fährt die Fähre ab?"
    assert "Question 1: Wie lange?\nQuery 1: How long?" in llm.asked[1][0].prompt
    nothing = Recorded([Answer(" "), Answer("Wann fährt die Fä", "length")], [])
    other = Query("labelled-2", "is there a boat", real.metadata)
    again = Generation(list(corpus.values()), nothing, 1, corpus, [real, other])
    again.run(strategy)
    assert [row.message for row in again.result.rejected] == [
        "empty",
        "not readable: translation cut off at max_tokens",
    ]
    assert "Wann fährt" in llm.asked[1][0].prompt and "ferry leave" not in llm.asked[1][0].prompt


def test_a_pool_of_multi_hop_examples_is_checked_by_line(tmp_path: Path):
    path = tmp_path / "pool.yaml"
    strategy = MultiHop(pool=str(path))
    path.write_text(
        "- segments: [a b, c d]\n  artifacts: {entities: [x]}\n  pairs:\n    - {question: q r, query_type: multi_hop,"
        " question_complexity: 3, hop_contexts: [{segment_ids: [3]}]}\n"
    )
    with pytest.raises(InputError, match=r"pool\.yaml, line 1: pairs: 'q r' names a segment that is not there"):
        strategy.resolve().example_texts()
    path.write_text("- {document: a, query: b}\n")
    with pytest.raises(InputError, match=r"pool\.yaml, line 1: segments: Field required"):
        strategy.resolve().example_texts()
