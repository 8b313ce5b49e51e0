"""Metadata that documents do not have and an LLM reads out of their text: topic, location, or whatever is named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from sharpen.evaluation.languages import first_words, words
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery, object_schema, parse_json
from sharpen.sdg.filters.text import one_line
from sharpen.sdg.llm.messages import Request
from sharpen.sdg.prompts import template
from sharpen.sdg.strategies.base import Unit
from sharpen.sdg.strategies.few_shot import StrategySettings
from sharpen.sdg.strategies.pools import Example

VALUE_WORDS = 8
"""Of an attribute's value at most; more is a sentence that no query can name."""
VALUE_CHARACTERS = 80
VALUE_TOKENS = 24
"""Of an answer, for each attribute."""
_NOTHING = frozenset(
    ["", "n a", "none", "null", "unknown", "not mentioned", "not specified", "not stated", "not given"]
)
"""What models say of what a text does not have, as ``words`` has it."""
_TASK = (
    "Each document stands with attributes of what it is about, in a few words each, as JSON; an attribute that cannot"
    " be told from the document is empty."
)


@dataclass(frozen=True)
class AttributesExample:
    """A document with its attributes, and queries that name its topic, its location, or both."""

    document: str
    attributes: Mapping[str, str]
    queries: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The queries, so that a copy of one is recognised."""
        return self.queries

    def shown(self, wanted: Sequence[str]) -> dict[str, str]:
        """Those of the attributes that are wanted; all, where it has none of these, to show the form alone."""
        return {name: self.attributes[name] for name in wanted if name in self.attributes} or dict(self.attributes)


EXAMPLES = (
    AttributesExample(
        "Floods along the Rhine have closed the ferries between Bingen and Koblenz for a second week, and barges with"
        " grain wait in the harbours. The shipping office expects the river to fall below the mark by Sunday.",
        {"topic": "shipping", "location": "Rhine", "organization": "shipping office", "person": ""},
        (
            "when is shipping on the Rhine possible again",
            "shipping stopped by high water between Bingen and Koblenz",
            "grain stuck in harbours on the Rhine",
        ),
    ),
    AttributesExample(
        "The nurses of Leeds voted for a strike in March. Their union asks for eight percent and for wards with one"
        " more colleague at night; Helen Brandt, who leads the hospital trust, calls the sum out of reach.",
        {"topic": "labour dispute", "location": "Leeds", "organization": "hospital trust", "person": "Helen Brandt"},
        (
            "Leeds labour dispute over night staff in hospitals",
            "labour dispute of nurses about eight percent more pay",
            "what does the hospital trust in Leeds say to the strike",
        ),
    ),
    AttributesExample(
        "A start-up in Nairobi lends solar pumps to farmers who pay by the litre. After two dry years its customers"
        " harvest three times in twelve months, says its founder Amina Otieno.",
        {"topic": "farming", "location": "Nairobi", "organization": "", "person": "Amina Otieno"},
        (
            "solar pumps for farming near Nairobi",
            "farming with water that is paid by the litre",
            "which start-up from Nairobi has tripled harvests",
        ),
    ),
    AttributesExample(
        "Glass loses its strength at scratches too fine to see. A film of silica only a few atoms thick closes them,"
        " and bottles can then be made a third lighter.",
        {"topic": "materials science", "location": "", "organization": "", "person": ""},
        (
            "materials science of how thin coatings make bottles stronger",
            "why does glass break at tiny scratches, in materials science",
            "lighter bottles thanks to materials science",
        ),
    ),
    AttributesExample(
        "Osaka's orchestra opens its season with a concert for children. Conductor Kenji Mori talks about each"
        " instrument before it is heard, and seats cost no more than a bus ticket.",
        {"topic": "music", "location": "Osaka", "organization": "Osaka's orchestra", "person": "Kenji Mori"},
        (
            "music for children in Osaka",
            "concert in Osaka where instruments are explained",
            "live music for the price of a bus ticket",
        ),
    ),
)


def constraint_pool(wanted: Sequence[str]) -> tuple[Example, ...]:
    """Examples of queries that name attributes, with the attributes in brackets before the text.

    >>> constraint_pool(["topic"])[4].document[:30]
    "[topic: music] Osaka's orchest"
    """
    pool = []
    for example in EXAMPLES:
        shown = {name: value for name in wanted if (value := example.attributes.get(name))}
        if not shown.keys() & {"topic", "location"}:  # which the queries name
            shown = {"topic": example.attributes["topic"]} | shown
        queries = tuple(query for query in example.queries if named_metadata(query, shown))
        pool.append(Example(with_constraints(example.document, shown), queries))
    return tuple(pool)


def with_constraints(text: str, named: Mapping[str, str]) -> str:
    """The text below its metadata, in brackets."""
    return "".join(f"[{name}: {value}] " for name, value in named.items() if value) + text


def named_metadata(text: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Those of the metadata whose value the text has, in these words or all but one of them.

    >>> named_metadata("what does Ito say on firing", {"author": "M. Ito", "year": "1998"})
    {}
    >>> named_metadata("firing in 1998", {"author": "M. Ito", "year": "1998"})
    {'year': '1998'}
    """
    text_words = set(words(text))
    return {
        name: value
        for name, value in metadata.items()
        if (wanted := set(words(value))) and len(wanted - text_words) <= (len(wanted) > 2)
    }


class Extraction(StrategySettings):
    """The first step of ``Metadata`` where ``extract`` names attributes: what they are in the document (as Wen et al.
    2025 had topic and location of AGNews extracted). Asked once for each document, without chance."""

    kind: Literal["extraction"] = "extraction"
    extract: tuple[str, ...]

    schema_name: ClassVar[str] = "attributes"

    @classmethod
    def of(cls, strategy: StrategySettings, extract: tuple[str, ...]) -> Extraction:
        """What asks for the attributes, of the texts and with the sampling of a strategy."""
        values = {name: getattr(strategy, name) for name in StrategySettings.model_fields if name != "kind"}
        step = {
            "kind": "extraction",
            "name": "attributes",
            "task": _TASK,
            "pool": EXAMPLES,
            "form": "json",
            "queries": 1,
            "examples_per_prompt": len(EXAMPLES),
            "example_draws": 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 16 + VALUE_TOKENS * len(extract),
        }
        return cls.model_construct(**values | step | {"extract": extract})

    @cached_property
    def examples(self) -> Sequence[AttributesExample]:
        return EXAMPLES

    @property
    def answer_label(self) -> str:
        return "Attributes"

    def request(self, unit: Unit, *, seed: int = 13, chat: bool = True) -> Request:
        # by the document: for all of its prompts the answer is one
        return super().request(replace(unit, key=f"attributes:{unit.document.id}"), seed=seed, chat=chat)

    def prompt(self, unit: Unit | None, examples: Sequence[AttributesExample], number: int, chat: bool) -> str:
        prompt = template("few_shot.j2").render(
            task=self.task.strip(),
            instruction=f"Of the last one say {', '.join(self.extract)}." if chat else "",
            examples=[(self.text_of_example(example), self.answer_of(example)) for example in examples],
            text_label=self.label,
            label=self.answer_label,
            number=number,
            text=self.text_of(unit) if unit else "",
        )
        return prompt.strip()

    def answer_schema(self, unit: Unit, chat: bool) -> dict[str, Any]:
        bound = {} if chat else {"maxLength": VALUE_CHARACTERS}  # which small models need and some providers refuse
        return object_schema(dict.fromkeys(self.extract, {"type": "string"} | bound))

    def text_of(self, unit: Unit) -> str:
        return _asked(super().text_of(unit), self.extract)

    def text_of_example(self, example: AttributesExample) -> str:
        return _asked(example.document, list(example.shown(self.extract)))

    def answer_of(self, example: AttributesExample) -> str:
        return " " + json.dumps(example.shown(self.extract), ensure_ascii=False)

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        """One query, whose text is the attributes as JSON; an error where there are none and nothing else that a query
        could name."""
        found = parse_attributes(text, self.extract)
        if not found and not unit.metadata.get("constraints"):
            return ParsedAnswer(error=f"no {', '.join(self.extract)} in it")
        return ParsedAnswer((ParsedQuery(json.dumps(found, ensure_ascii=False)),))


def parse_attributes(text: str, wanted: Sequence[str]) -> dict[str, str]:
    """Attributes by name, from JSON or from lines of ``name: value``; those that a text does not have are left out.

    >>> parse_attributes('{"Topic": "soft eggs", "location": "unknown"}', ["topic", "location"])
    {'topic': 'soft eggs'}
    >>> parse_attributes("- **topic**: soft eggs", ["topic"])
    {'topic': 'soft eggs'}
    """
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    if not isinstance(value, dict):
        lines = (re.sub(r"[*`\"]", "", line).lstrip("-• \t").partition(":") for line in text.splitlines())
        value = {name.strip(): rest for name, colon, rest in lines if colon}
    given = {_key(name): rest for name, rest in value.items()}
    found = {}
    for name in wanted:
        rest = given.get(_key(name))
        if isinstance(rest, list):
            rest = ", ".join(str(item) for item in rest if isinstance(item, str))
        rest = one_line(str(rest)) if isinstance(rest, str | int | float) else ""
        if " ".join(words(rest)) not in _NOTHING and words(rest):
            found[name] = first_words(rest.strip(" .,;"), VALUE_WORDS, in_prompt=False)
    return found


def _key(name: Any) -> str:
    return " ".join(words(str(name).replace("_", " ")))


def _asked(text: str, wanted: Sequence[str]) -> str:
    return f"{one_line(text)}\nWanted: {', '.join(wanted)}"
