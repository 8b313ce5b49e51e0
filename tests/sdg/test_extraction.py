"""Metadata that an LLM reads out of documents before it writes queries that name it."""

from __future__ import annotations

import re

import pytest

from sharpen.evaluation.beir import Document
from sharpen.evaluation.files import InputError
from sharpen.sdg.estimate import CostEstimator
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.queries import Generation
from sharpen.sdg.strategies.extraction import constraint_pool, parse_attributes
from sharpen.sdg.strategies.few_shot import AskingSettings
from sharpen.sdg.strategies.metadata import Metadata, named_metadata
from sharpen.sdg.strategies.settings import QueriesSettings
from tests.sdg.recorded import Recorded

FLOOD = Document("flood", "The levee of Drenova broke on Monday, and two thousand people were brought to schools.")
BEANS = Document("beans", "Soaked beans keep for a day.", "Beans", {"source": "Kitchen Weekly"})


def test_attributes_are_asked_for_first_and_queries_must_name_them():
    strategy = Metadata(extract=["topic", "location"], fields=["source"], queries=2).resolve()
    client = Recorded(
        [Answer('{"topic": "flood", "location": "Drenova"}'), Answer('{"topic": "", "location": "unknown"}')],
        [
            Answer("- how many fled the Drenova flood\n- what broke on a Monday"),
            Answer("- what says Kitchen Weekly on beans\n- how long do beans keep"),
        ],
    )
    generation = Generation([FLOOD, BEANS], client, seed=1)
    generation.run(strategy)
    first, second = client.asked
    assert first[0].prompt.endswith("to schools.\nWanted: topic, location\nAttributes 6:")
    schema = first[0].parameters["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["topic", "location"] and first[0].parameters["temperature"] == 0
    assert "[topic: flood] [location: Drenova] The levee" in second[0].prompt
    assert "[source: Kitchen Weekly] Soaked beans" in second[1].prompt and "[topic: shipping]" in second[1].prompt
    assert [(q.text, q.metadata["constraints"]) for q in generation.result.kept] == [
        ("how many fled the Drenova flood", {"topic": "flood", "location": "Drenova"}),
        ("what says Kitchen Weekly on beans", {"source": "Kitchen Weekly"}),
    ]
    assert [row.reason for row in generation.result.rejected] == ["no_metadata"] * 2
    assert [row["attributes"] for row in generation.result.first_steps] == [
        '{"topic": "flood", "location": "Drenova"}',
        "{}",
    ]


def test_a_document_without_any_of_the_attributes_is_not_asked_about_further():
    client = Recorded([Answer('{"location": "none"}')], [Answer("no location here")], [])
    generation = Generation([FLOOD], client, seed=1)
    generation.run(Metadata(extract=["location"]).resolve())
    (row,) = generation.result.rejected
    assert row.reason == "unreadable" and row.problem.detail == "no location in it"


def test_the_extraction_depends_on_the_document_alone_and_continues_for_base_models():
    strategy = Metadata(extract=["topic"], per_document=2).resolve()
    one, other = strategy.units([FLOOD])
    ask = strategy.first.request
    assert ask(one, seed=1, chat=False) == ask(other, seed=1, chat=False)
    request = ask(one, seed=1, chat=False)
    assert request.prompt.startswith(strategy.first.shared_prefix(one, seed=1, chat=False).prompt)
    assert request.prompt.count("Attributes") == 6 and '"topic": "music"' in request.prompt
    assert request.parameters["extra_body"]["json_schema"]["required"] == ["topic"]
    german = Metadata(extract=["topic"], language="de").resolve().first.request(one, seed=1, chat=True)
    assert "Answer in German." in german.prompt


def test_attributes_that_no_example_has_are_shown_by_the_form_of_others():
    strategy = Metadata(extract=["polarity"]).resolve()
    prompt = strategy.first.request(next(strategy.units([FLOOD]))).prompt
    assert "Wanted: topic, location, organization, person" in prompt
    assert prompt.endswith("Wanted: polarity\nAttributes 6:")


@pytest.mark.parametrize("wanted", [["topic"], ["location"], ["topic", "location"], ["person"], ["polarity"]])
def test_every_example_names_an_attribute_that_is_shown_with_it(wanted):
    for example in constraint_pool(wanted):
        shown = dict(re.findall(r"\[(\w+): ([^]]+)\]", example.document))
        assert len(example.queries) >= 2 and all(named_metadata(query, shown) for query in example.queries), example


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n{"political polarity": "left"}\n```', {"political_polarity": "left"}),
        ("political polarity: left-wing.\ntopic: x", {"political_polarity": "left-wing"}),
        ('{"political_polarity": ["left", "green"]}', {"political_polarity": "left, green"}),
        ('{"political_polarity": null}', {}),
        ('{"political_polarity": {"a": 1}}', {}),
        ('{"political_polarity": "N/A"}', {}),
        ("it does not say", {}),
        ("[" * 3000, {}),
        ("", {}),
        (f'{{"political_polarity": "{"very " * 20}left"}}', {"political_polarity": "very " * 7 + "very"}),
    ],
)
def test_attributes_are_read_from_whatever_form_they_come_in(text, expected):
    assert parse_attributes(text, ["political_polarity"]) == expected


def test_without_extraction_nothing_is_other_than_before():
    pool = [{"document": "[author: A] x", "query": "A on x"}]
    plain = Metadata(fields=["source"], pool=pool).resolve()
    assert plain.first is None and "extract" not in plain.fingerprint()
    assert "extract" in Metadata(fields=["source"], extract=["topic"], pool=pool).resolve().fingerprint()
    (unit,) = plain.units([FLOOD, BEANS])
    assert unit.text == "[source: Kitchen Weekly] Soaked beans keep for a day."


def test_what_is_named_and_which_examples_are_shown_is_checked():
    with pytest.raises(ValueError, match="give fields, of the documents' metadata, or extract"):
        Metadata()
    with pytest.raises(ValueError, match="topic is in fields and in extract"):
        Metadata(fields=["topic"], extract=["topic"])
    with pytest.raises(InputError, match="no document has any of the metadata fields topic"):
        list(Metadata(fields=["topic"], pool=[{"document": "x", "query": "y"}]).resolve().units([FLOOD]))
    general = [{"document": "Boil eggs for six minutes.", "query": "time for soft eggs"}]
    (strategy,) = QueriesSettings(
        pool=general, strategies=[{"kind": "metadata", "extract": ["topic"]}]
    ).all_strategies()
    assert "[topic: shipping]" in strategy.examples[0].document  # its own, and not those without brackets
    own = Metadata(extract=["topic"], pool=general).resolve(AskingSettings(pool="x.yaml"))
    assert own.examples[0].queries == ("time for soft eggs",)


def test_the_first_step_has_its_costs():
    first, second = CostEstimator(lambda text: len(text.split())).estimate(
        [Metadata(extract=["topic"]).resolve()], [FLOOD, BEANS], {}
    )
    assert (first.strategy, first.calls, second.calls) == ("metadata: attributes", 2, 2)
    assert first.prompt_tokens > 100 and first.completion_tokens < 30
