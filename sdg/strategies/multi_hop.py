"""Questions that take several segments to answer.

As in NVIDIA's retriever SDG toolkit: the LLM first lists the artifacts of the segments (concepts, relationships,
entities, ...), then writes questions from segments and artifacts, each with the hops that lead to its answer and the
segments of every hop. A segment is a chunk of the corpus, so the segments of a question are its positives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpen.evaluation.beir import Corpus, Document, Query
from sharpen.evaluation.files import InputError
from sharpen.evaluation.languages import LANGUAGE, first_words
from sharpen.sdg.answers import ParsedAnswer, ParsedQuery, list_schema, object_schema, parse_json
from sharpen.sdg.prompts import template
from sharpen.sdg.rejections import Problem
from sharpen.sdg.rejections import RejectionReason as Reason
from sharpen.sdg.strategies.base import Unit, titled
from sharpen.sdg.strategies.bundles import BundleSettings, QueryType, arrange, bundles
from sharpen.sdg.strategies.few_shot import StrategySettings

ReasoningType = Literal["factual", "relational", "inferential", "temporal", "procedural", "causal"]

ARTIFACTS = (
    "key_concepts",
    "relationships",
    "themes",
    "entities",
    "processes",
    "insights",
    "technical_terms",
    "contextual_factors",
)
ARTIFACTS_OF_A_KIND = 3
"""At most, so that the answer stays short enough to stand in the next prompt."""
ARTIFACTS_TOKENS = 500
"""Of an answer that lists artifacts, at most."""


@dataclass(frozen=True)
class MultiHopExample:
    """An example in a prompt, in the form that is wanted: ``artifacts`` and ``questions`` are JSON. ``texts``: the
    questions alone, so that a copy of one is recognised."""

    segments: str
    artifacts: str
    questions: str
    texts: tuple[str, ...]


def parse_multi_hop_example(row: Any) -> MultiHopExample:
    """An example of a pool: ``{segments, artifacts, pairs}``. Raises ``ValueError`` with what is wrong."""
    try:
        example = _ExampleRow.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'an example'}: {first['msg']}") from None
    for pair in example.pairs:
        if any(not 1 <= n <= len(example.segments) for hop in pair.hop_contexts for n in hop.segment_ids):
            raise ValueError(f"pairs: {pair.question!r} names a segment that is not there")
    dumped = [pair.model_dump() for pair in example.pairs]
    return MultiHopExample(
        _numbered(example.segments),
        json.dumps(example.artifacts, ensure_ascii=False),
        json.dumps({"pairs": dumped}, ensure_ascii=False),
        tuple(pair.question for pair in example.pairs),
    )


class MultiHop(StrategySettings):
    """Questions over several chunks, of one document or of several that belong together."""

    kind: Literal["multi_hop"] = "multi_hop"
    bundle: BundleSettings = Field(
        BundleSettings(), description="What is shown together, and which questions are wanted of it."
    )

    default_examples: ClassVar[int] = 2
    tokens_per_query: ClassVar[int] = 400
    pool_keys: ClassVar[str] = "segments, artifacts and pairs"
    unused: ClassVar[tuple[str, ...]] = ("task", "form")
    not_inherited: ClassVar[tuple[str, ...]] = ("task", "pool", "form", "max_tokens", "examples_per_prompt")
    schema_name: ClassVar[str] = "multi_hop"
    json_answers: ClassVar[bool] = True

    @classmethod
    def parse_example(cls, row: Any) -> MultiHopExample:
        return parse_multi_hop_example(row)

    @cached_property
    def first(self) -> Artifacts | None:
        """What asks for the artifacts."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        step = {"name": "artifacts", "max_tokens": ARTIFACTS_TOKENS, "queries": 1}
        return Artifacts.model_construct(**values | step)

    def units(
        self, documents: Sequence[Document], queries: Sequence[Query] = (), corpus: Corpus | None = None
    ) -> Iterator[Unit]:
        """Raises ``InputError`` if no bundle can be made."""
        if corpus is None:
            corpus = {document.id: document for document in documents}
        settings, any_unit = self.bundle, False
        for members, chunks in bundles(documents[: self.documents], corpus, settings):
            for number, window in self._windows(arrange(chunks, settings.order, settings.segments)):
                any_unit = True
                yield self._unit(members, number, window)
        if not any_unit:
            raise InputError(
                f"queries: strategy {self.name} finds no {settings.documents} document{'s' * (settings.documents > 1)}"
                " with two chunks to ask about; raise bundle.documents, or cut the documents (corpus.chunk.max_words)"
            )

    def _windows(self, arranged: Sequence[list[Document]]) -> Iterator[tuple[int, list[Document]]]:
        """As many as there are prompts for a bundle: those with the most documents, spread over the whole."""
        windows = list(enumerate(arranged))
        most = max((len({c.doc_id for c in window}) for _, window in windows), default=0)
        of_most = [(n, window) for n, window in windows if len({c.doc_id for c in window}) == most]
        chosen = of_most if len(of_most) >= self.per_document else windows
        for k in range(min(self.per_document, len(chosen))):
            yield chosen[k * len(chosen) // self.per_document]

    def _unit(self, members: Sequence[str], number: int, window: Sequence[Document]) -> Unit:
        # all that is shown, as one document: for what is said of a query by its words
        known = {LANGUAGE: window[0].metadata[LANGUAGE]} if LANGUAGE in window[0].metadata else {}
        shown = Document(window[0].id, "\n".join(chunk.text for chunk in window), window[0].title, known)
        return Unit(
            f"{self.prefix}{'+'.join(members)}/{number}",
            shown.text,
            shown,
            tuple(chunk.id for chunk in window),
            {"bundle": list(members)} if len(members) > 1 else {},
            tuple(titled(chunk) for chunk in window),
        )

    def expected_prompts(self, documents: Sequence[Document], corpus: Corpus) -> int:
        # bundles take long to find, and for a bar it is enough to know about how many there are
        return 2 * len(documents[: self.documents]) // self.bundle.documents

    def stop(self) -> list[str]:
        return ["\nSegments:"]

    def answer_schema(self, unit: Unit, chat: bool) -> dict[str, Any]:
        return questions_schema(len(unit.segments), self.queries, self.bundle, bounded=not chat)

    def prompt(self, unit: Unit | None, examples: Sequence[MultiHopExample], number: int, chat: bool) -> str:
        prompt = template("multi_hop.j2").render(
            segments=self._segments(unit),
            artifacts=unit.notes if unit else "",
            examples=[(e.segments, e.artifacts, e.questions) for e in examples],
            task=self.task,
            count=self.queries,
            how=self.bundle,
            chat=chat,
        )
        return prompt.strip()

    def _segments(self, unit: Unit | None) -> str:
        return _numbered([first_words(text, self.max_document_words) for text in unit.segments] if unit else [])

    def answer_of(self, example: MultiHopExample) -> str:
        return example.questions

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        return parse_questions(text, unit.positives, self.queries, self.bundle)

    def after_first(self, unit: Unit, answer: ParsedAnswer) -> Unit:
        return replace(unit, notes=answer.queries[0].query)


class Artifacts(MultiHop):
    """The first step: what the segments are about."""

    schema_name: ClassVar[str] = "artifacts"

    @property
    def first(self) -> None:
        return None

    def answer_schema(self, unit: Unit, chat: bool) -> dict[str, Any]:
        return artifacts_schema(bounded=not chat)

    def prompt(self, unit: Unit | None, examples: Sequence[MultiHopExample], number: int, chat: bool) -> str:
        prompt = template("artifacts.j2").render(
            segments=self._segments(unit),
            examples=[(e.segments, e.artifacts) for e in examples],
            task=self.task,
            kinds=ARTIFACTS,
            most=ARTIFACTS_OF_A_KIND,
            chat=chat,
        )
        return prompt.strip()

    def answer_of(self, example: MultiHopExample) -> str:
        return example.artifacts

    def parse(self, text: str, unit: Unit) -> ParsedAnswer:
        return parse_artifacts(text)


def artifacts_schema(bounded: bool) -> dict[str, Any]:
    """``bounded``: with the greatest length of each text, which small models need and some providers refuse."""
    kind = {"type": "array", "items": _text(100, bounded), "maxItems": ARTIFACTS_OF_A_KIND}
    return object_schema(dict.fromkeys(ARTIFACTS, kind))


def parse_artifacts(text: str) -> ParsedAnswer:
    """One query, whose text is the artifacts as JSON; an error where there are none."""
    try:
        value = parse_json(text)
    except ValueError as error:
        return ParsedAnswer(error=f"no artifacts: {error}")
    if not isinstance(value, dict):
        return ParsedAnswer(error="no artifacts: not a JSON object")
    artifacts = {
        kind: [str(a).strip() for a in value[kind] if isinstance(a, str) and a.strip()][:ARTIFACTS_OF_A_KIND]
        for kind in ARTIFACTS
        if isinstance(value.get(kind), list)
    }
    artifacts = {kind: items for kind, items in artifacts.items() if items}
    return (
        ParsedAnswer((ParsedQuery(query=json.dumps(artifacts, ensure_ascii=False)),))
        if artifacts
        else ParsedAnswer(error="no artifacts in it")
    )


def questions_schema(segments: int, count: int, settings: BundleSettings, bounded: bool) -> dict[str, Any]:
    """What an answer has to be: hops before the question, so that a question is written from its evidence. ``bounded``:
    as of ``artifacts_schema``."""
    numbers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": segments},
        "minItems": 1,
        "maxItems": segments,
    }
    hop = object_schema({"segment_ids": numbers, "summary": _text(200, bounded)})
    pair = {
        "hop_contexts": {
            "type": "array",
            "items": hop,
            "minItems": settings.hops[0] if set(settings.query_types) == {"multi_hop"} else 1,
            "maxItems": settings.hops[1],
        },
        "question": _text(250, bounded),
        "answer": _text(250, bounded),
        "query_type": {"type": "string", "enum": list(settings.query_types)},
        "reasoning_type": {"type": "string", "enum": list(ReasoningType.__args__)},
        "question_complexity": {"type": "integer", "minimum": 1, "maximum": 5},
    }
    return list_schema("pairs", count, object_schema(pair))


def _text(length: int, bounded: bool) -> dict[str, Any]:
    return {"type": "string"} | ({"maxLength": length} if bounded else {})


class _HopRow(BaseModel):
    segment_ids: list[int] = Field(min_length=1)
    summary: str = ""


class _PairRow(BaseModel):
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)
    hop_contexts: list[_HopRow] = Field(min_length=1)
    question: str
    answer: str = ""
    query_type: QueryType
    reasoning_type: str = "factual"
    question_complexity: int = Field(ge=1, le=5)


class _ExampleRow(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    segments: list[str] = Field(min_length=2)
    artifacts: dict[Literal[ARTIFACTS], list[str]]
    pairs: list[_PairRow] = Field(min_length=1)


def parse_questions(text: str, segment_ids: Sequence[str], count: int, settings: BundleSettings) -> ParsedAnswer:
    """At most ``count`` queries; one that contradicts itself or what was asked for has a ``problem``.

    Evidence and hops are given by the numbers of the segments in the prompt, and come back as ``segment_ids``.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        return ParsedAnswer(error=f"no JSON: {error}")
    rows = value.get("pairs") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        return ParsedAnswer(error="no JSON object with a list of pairs")
    return ParsedAnswer(tuple(_parse_pair(row, segment_ids, settings) for row in rows[:count]))


def _parse_pair(row: Any, segment_ids: Sequence[str], settings: BundleSettings) -> ParsedQuery:
    try:
        pair = _PairRow.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        text = row.get("question") if isinstance(row, dict) else row
        # the place of the error without its number in a list, so that the same reasons read the same
        place = ".".join(part for part in first["loc"] if isinstance(part, str))
        detail = f"{place}: {first['msg']}" if place else first["msg"]
        return ParsedQuery(query=str(text or ""), problem=Problem(Reason.INVALID_SCHEMA, detail=detail))
    numbers = list(dict.fromkeys(n for hop in pair.hop_contexts for n in hop.segment_ids))
    if any(not 1 <= n <= len(segment_ids) for n in numbers):
        return ParsedQuery(query=pair.question, problem=Problem(Reason.UNKNOWN_SEGMENT))
    evidence = tuple(segment_ids[n - 1] for n in numbers)
    metadata = {
        "query_type": pair.query_type,
        "reasoning_type": pair.reasoning_type,
        "question_complexity": pair.question_complexity,
        "segment_ids": list(evidence),
        "hop_count": len(pair.hop_contexts),
        "hop_contexts": [
            {"hop_number": n, "segment_ids": [segment_ids[i - 1] for i in hop.segment_ids], "summary": hop.summary}
            for n, hop in enumerate(pair.hop_contexts, start=1)
        ],
    }
    problem = _problem(pair, len(evidence), settings)
    return ParsedQuery(pair.question, pair.answer, evidence, metadata, problem)


def _problem(pair: _PairRow, segments: int, settings: BundleSettings) -> Problem | None:
    """What contradicts itself, or what was asked for. ``segments``: those that the pair rests on."""
    hops, (least, most) = len(pair.hop_contexts), settings.hops
    if pair.query_type not in settings.query_types:
        return Problem(Reason.WRONG_QUERY_TYPE, detail=pair.query_type)
    if pair.query_type == "multi_hop":
        if segments < 2 or len({tuple(sorted(set(hop.segment_ids))) for hop in pair.hop_contexts}) < hops:
            return Problem(Reason.SAME_SEGMENTS)
        if not least <= hops <= most:
            return Problem(Reason.WRONG_HOP_COUNT, hops, detail=f"{least} to {most}")
    if pair.question_complexity < settings.min_complexity:
        return Problem(Reason.TOO_SIMPLE, pair.question_complexity, settings.min_complexity)
    return None


def _numbered(segments: Sequence[str]) -> str:
    return "\n".join(f"Segment {n}: {text}" for n, text in enumerate(segments, start=1))
