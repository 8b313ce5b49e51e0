"""Questions that take several segments to answer: bundles of documents, what is extracted from them first, and what is
asked.

As in NVIDIA's retriever SDG toolkit: the LLM first lists the artifacts of the segments (concepts, relationships,
entities, ...), then writes questions from segments and artifacts, each with the hops that lead to its answer and the
segments of every hop. A segment is a chunk of the corpus, so the segments of a question are its positives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sharpen.evaluation.beir import Corpus, Document, chunks_by_document
from sharpen.evaluation.retrievers.bm25 import BM25
from sharpen.evaluation.runs import ranking
from sharpen.sdg.answers import Item, Read, list_schema, object_schema, parse_json
from sharpen.sdg.filters.text import first_words
from sharpen.sdg.prompts import template

Order = Literal["sequential", "balanced", "interleaved"]
QueryType = Literal["multi_hop", "structural", "contextual"]
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


@dataclass(frozen=True)
class Bundle:
    """What is shown together: the chunks of ``documents`` documents (1: of each document by itself), at most
    ``segments`` in one prompt.

    ``related``: a document is put together with those that BM25 finds for it, and not with its neighbours in the
    corpus. ``order``: one document's segments after the other's (sequential), a part of each document in every prompt
    (balanced), or in turns (interleaved). ``hops``: least and most that a question may take. ``min_complexity``: 1 to
    5, as the LLM rates its own question.
    """

    documents: int = 1
    related: bool = True
    order: Order = "balanced"
    segments: int = 4
    hops: tuple[int, int] = (2, 4)
    min_complexity: int = 1
    query_types: tuple[QueryType, ...] = ("multi_hop",)


@dataclass(frozen=True)
class Shown:
    """An example in a prompt, in the form that is wanted: ``artifacts`` and ``questions`` are JSON."""

    segments: str
    artifacts: str
    questions: str
    texts: tuple[str, ...]
    """The questions alone, so that a copy of one is recognised."""


def read_example(row: Any) -> Shown:
    """An example of a pool: ``{segments, artifacts, pairs}``. Raises ``ValueError`` with what is wrong."""
    example = _Example.model_validate(row)
    for pair in example.pairs:
        if any(not 1 <= n <= len(example.segments) for hop in pair.hop_contexts for n in hop.segment_ids):
            raise ValueError(f"pairs: {pair.question!r} names a segment that is not there")
    dumped = [p.model_dump() for p in example.pairs]
    return Shown(
        _numbered(example.segments),
        json.dumps(example.artifacts, ensure_ascii=False),
        json.dumps({"pairs": dumped}, ensure_ascii=False),
        tuple(p.question for p in example.pairs),
    )


def bundles(
    documents: Sequence[Document], corpus: Corpus, how: Bundle
) -> Iterator[tuple[list[str], list[list[Document]]]]:
    """Document IDs of each bundle, and for each of them its chunks. Each document is in one bundle at most, so that a
    split can keep bundles whole. Documents whose neighbours are all in other bundles are left out, as are bundles of
    one segment."""
    chunks = chunks_by_document(corpus)
    first = list(dict.fromkeys(d.doc_id for d in documents))
    others = _neighbours(first, chunks, how) if how.documents > 1 else {}
    used: set[str] = set()
    for doc_id in first:
        if doc_id in used:
            continue
        members, texts = [doc_id], {_copy_key(chunks[doc_id])}
        for other in others.get(doc_id, []):
            if len(members) == how.documents:
                break
            if other not in used and other != doc_id and (key := _copy_key(chunks[other])) not in texts:
                members.append(other)
                texts.add(key)
        if len(members) == how.documents and sum(len(chunks[m]) for m in members) > 1:
            used.update(members)
            yield members, [chunks[m] for m in members]


def arrange(chunks: Sequence[Sequence[Document]], order: Order, size: int) -> list[list[Document]]:
    """The segments of each prompt, at most ``size``: all chunks of a bundle's documents, in that ``order``; of more
    documents than ``size``, balanced is in turns."""
    if order == "balanced" and len(chunks) <= size:
        prompts = -(-sum(map(len, chunks)) // size)
        while True:  # rounding up each document's share may make a prompt too long
            # of a document with fewer chunks than there are prompts, one is shown several times
            windows = [
                [
                    c
                    for own in chunks
                    for c in own[
                        n * len(own) // prompts : max((n + 1) * len(own) // prompts, n * len(own) // prompts + 1)
                    ]
                ]
                for n in range(prompts)
            ]
            if max(map(len, windows)) <= size:
                break
            prompts += 1
    else:
        line = (
            [c for own in chunks for c in own]
            if order == "sequential"
            else [c for row in zip_longest(*chunks) for c in row if c is not None]
        )
        windows = [line[start : start + size] for start in range(0, len(line), size)]
    return [window for window in windows if len(window) > 1]


def artifacts_prompt(segments: Sequence[str], examples: Sequence[Shown], chat: bool) -> str:
    """The prompt for what to take from the ``segments``; without any, only what all prompts with these examples
    share."""
    return (
        template("artifacts.j2")
        .render(
            segments=_numbered(segments),
            examples=[(e.segments, e.artifacts) for e in examples],
            kinds=ARTIFACTS,
            most=ARTIFACTS_OF_A_KIND,
            chat=chat,
        )
        .strip()
    )


def artifacts_schema(bounded: bool) -> dict[str, Any]:
    """``bounded``: with the greatest length of each text, which small models need and some providers refuse."""
    kind = {"type": "array", "items": _text(100, bounded), "maxItems": ARTIFACTS_OF_A_KIND}
    return object_schema(dict.fromkeys(ARTIFACTS, kind))


def read_artifacts(text: str) -> Read:
    """One item, whose text is the artifacts as JSON; an error where there are none."""
    try:
        value = parse_json(text)
    except ValueError as error:
        return Read(error=f"no artifacts: {error}")
    if not isinstance(value, dict):
        return Read(error="no artifacts: not a JSON object")
    found = {
        kind: [str(a).strip() for a in value[kind] if isinstance(a, str) and a.strip()][:ARTIFACTS_OF_A_KIND]
        for kind in ARTIFACTS
        if isinstance(value.get(kind), list)
    }
    found = {kind: items for kind, items in found.items() if items}
    return Read((Item(query=json.dumps(found, ensure_ascii=False)),)) if found else Read(error="no artifacts in it")


def questions_prompt(
    segments: Sequence[str], artifacts: str, examples: Sequence[Shown], count: int, how: Bundle, chat: bool
) -> str:
    """The prompt for ``count`` questions; without segments, only what all prompts with these examples share."""
    return (
        template("multi_hop.j2")
        .render(
            segments=_numbered(segments),
            artifacts=artifacts,
            examples=[(e.segments, e.artifacts, e.questions) for e in examples],
            count=count,
            how=how,
            chat=chat,
        )
        .strip()
    )


def questions_schema(segments: int, count: int, how: Bundle, bounded: bool) -> dict[str, Any]:
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
            "minItems": how.hops[0] if set(how.query_types) == {"multi_hop"} else 1,
            "maxItems": how.hops[1],
        },
        "question": _text(250, bounded),
        "answer": _text(250, bounded),
        "query_type": {"type": "string", "enum": list(how.query_types)},
        "reasoning_type": {"type": "string", "enum": list(ReasoningType.__args__)},
        "question_complexity": {"type": "integer", "minimum": 1, "maximum": 5},
    }
    return list_schema("pairs", count, object_schema(pair))


def _text(length: int, bounded: bool) -> dict[str, Any]:
    return {"type": "string"} | ({"maxLength": length} if bounded else {})


class _Hop(BaseModel):
    segment_ids: list[int] = Field(min_length=1)
    summary: str = ""


class _Pair(BaseModel):
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)
    hop_contexts: list[_Hop] = Field(min_length=1)
    question: str
    answer: str = ""
    query_type: QueryType
    reasoning_type: str = "factual"
    question_complexity: int = Field(ge=1, le=5)


class _Example(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    segments: list[str] = Field(min_length=2)
    artifacts: dict[Literal[ARTIFACTS], list[str]]
    pairs: list[_Pair] = Field(min_length=1)


def read_questions(text: str, segment_ids: Sequence[str], count: int, how: Bundle) -> Read:
    """At most ``count`` items; one that contradicts itself or what was asked for has a ``problem``.

    Evidence and hops are given by the numbers of the segments in the prompt, and come back as ``segment_ids``.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        return Read(error=f"no JSON: {error}")
    rows = value.get("pairs") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        return Read(error="no JSON object with a list of pairs")
    return Read(tuple(_item(row, segment_ids, how) for row in rows[:count]))


def _item(row: Any, segment_ids: Sequence[str], how: Bundle) -> Item:
    try:
        pair = _Pair.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        text = row.get("question") if isinstance(row, dict) else row
        # the place of the error without its number in a list, so that the same reasons are counted together
        place = ".".join(part for part in first["loc"] if isinstance(part, str))
        return Item(
            query=str(text or ""), problem=f"not the schema: {place}: {first['msg']}" if place else "not the schema"
        )
    numbers = list(dict.fromkeys(n for hop in pair.hop_contexts for n in hop.segment_ids))
    if any(not 1 <= n <= len(segment_ids) for n in numbers):
        return Item(query=pair.question, problem="names a segment that it was not shown")
    hops = len(pair.hop_contexts)
    evidence = tuple(segment_ids[n - 1] for n in numbers)
    metadata = {
        "query_type": pair.query_type,
        "reasoning_type": pair.reasoning_type,
        "question_complexity": pair.question_complexity,
        "segment_ids": list(evidence),
        "hop_count": hops,
        "hop_contexts": [
            {"hop_number": n, "segment_ids": [segment_ids[i - 1] for i in hop.segment_ids], "summary": hop.summary}
            for n, hop in enumerate(pair.hop_contexts, start=1)
        ],
    }
    problem = ""
    if pair.query_type not in how.query_types:
        problem = f"of type {pair.query_type}, which was not asked for"
    elif pair.query_type == "multi_hop" and (
        len(evidence) < 2 or len({tuple(sorted(set(hop.segment_ids))) for hop in pair.hop_contexts}) < hops
    ):
        problem = "not multi-hop: its hops rest on the same segments"
    elif pair.query_type == "multi_hop" and not how.hops[0] <= hops <= how.hops[1]:
        problem = f"not of {how.hops[0]} to {how.hops[1]} hops"
    elif pair.question_complexity < how.min_complexity:
        problem = f"complexity below {how.min_complexity}"
    return Item(query=pair.question, answer=pair.answer, evidence=evidence, metadata=metadata, problem=problem)


def _numbered(segments: Sequence[str]) -> str:
    return "\n".join(f"Segment {n}: {text}" for n, text in enumerate(segments, start=1))


def _neighbours(first: Sequence[str], chunks: dict[str, list[Document]], how: Bundle) -> dict[str, list[str]]:
    """For each document, those that may be put together with it, the best first."""
    if not how.related:
        order = list(chunks)
        place = {doc_id: n for n, doc_id in enumerate(order)}
        return {doc_id: order[place[doc_id] + 1 : place[doc_id] + 1 + 4 * how.documents] for doc_id in first}
    whole = {doc_id: Document(doc_id, " ".join(c.text for c in own), own[0].title) for doc_id, own in chunks.items()}
    # the beginning says what a document is about, and BM25 grows slow with long queries
    texts = {doc_id: first_words(whole[doc_id].content, 60) for doc_id in first}
    found = BM25(whole).search(texts, min(len(whole), 10 * how.documents))
    return {doc_id: ranking(found[doc_id]) for doc_id in first}


def _copy_key(chunks: Sequence[Document]) -> tuple[str, ...]:
    return tuple(c.copy_key for c in chunks)
