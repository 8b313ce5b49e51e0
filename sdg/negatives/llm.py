"""Hard negatives that an LLM writes from the query and its positive, or from the query alone (Sinha 2025)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sharpen.evaluation.beir import Corpus, Document, Query, text_key
from sharpen.sdg.answers import held_to_schema, list_schema, parse_json
from sharpen.sdg.filters.text import first_words, words
from sharpen.sdg.llm.client import LLM, Answer, Request
from sharpen.sdg.negatives.candidates import Found
from sharpen.sdg.prompts import template

MIN_WORDS = 5
"""Less is no passage."""
SAME = 0.8
"""Jaccard similarity of three-word shingles from which a passage is a copy of another one."""


@dataclass(frozen=True)
class Example:
    """Of the few-shot pool: a query, a passage that answers it, and passages that do not."""

    query: str
    document: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class Writing:
    """How negatives are asked for. ``count`` a query in one prompt; ``sees_positive``: the LLM is shown the passage
    that answers it (of several the first); ``examples`` of ``pool`` in a prompt, drawn once for all; ``words`` of a
    passage. The sampling is that of Sinha 2025."""

    pool: Sequence[Example] = ()
    count: int = 5
    sees_positive: bool = True
    examples: int = 3
    words: int = 100
    chat: bool = True
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"temperature": 0.6, "top_p": 0.95, "max_tokens": 1024, "extra_body": {"top_k": 20}}
    )


def mine(
    queries: Sequence[Query],
    corpus: Corpus,
    depth: int,
    seed: int = 0,
    *,
    llm: LLM,
    writing: Writing,
    name: str = "llm",
    warm_up: bool = False,
    progress: Callable[[Answer], None] | None = None,
) -> tuple[Found, list[dict[str, Any]]]:
    """At most ``writing.count`` passages of each query, in the order in which the LLM wrote them, and a row with the
    reason for each that is of no use: too short, said before for this query, a copy of the positive, or a document of
    the corpus.

    The passages' IDs are made of the miner's ``name`` and the query's ID, and they stand in ``Found.written``.
    ``warm_up``: as for queries, the beginning that all prompts share is sent ahead. Raises ``InputError`` as
    ``LLM.ask`` does.
    """
    drawn = random.Random(f"{seed}/negatives").sample(list(writing.pool), min(writing.examples, len(writing.pool)))
    shared = _prompt(writing, drawn, "", "")
    requests = []
    for query in queries:
        positive = corpus[query.metadata["positives"][0]].content if writing.sees_positive else ""
        request = Request(
            _prompt(writing, drawn, query.text, positive), writing.chat, _parameters(writing, f"{seed}/{query.id}")
        )
        if warm_up and not writing.chat:
            request = Request(
                request.prompt, False, request.parameters, Request(shared, False, {"max_tokens": 1, "temperature": 0.0})
            )
        requests.append(request)
    answers = llm.ask(requests, lambda _n, _r, answer: (progress and progress(answer), answer)[1])
    known = {document.copy_key for document in corpus.values()}
    run: dict[str, dict[str, float]] = {}
    written: Corpus = {}
    rejected: list[dict[str, Any]] = []
    for query, answer in zip(queries, answers, strict=True):
        reject = lambda reason, text, query=query: rejected.append({"query": query.id, "text": text, "reason": reason})  # noqa: E731
        passages = (
            [] if answer.error else passages_of(answer.text, writing.count, cut_off=answer.finish_reason == "length")
        )
        positives = [corpus[i] for i in query.metadata["positives"]]
        kept: list[str] = []
        for text in passages:
            if reason := _useless(text, kept, positives, known):
                reject(reason, text)
            else:
                kept.append(text)
        for _ in range(writing.count - len(passages)):
            reject(
                f"LLM error: {answer.error.partition(':')[0]}" if answer.error else "not written", answer.text[-200:]
            )
        ids = [f"written:{name}:{query.id}:{n}" for n in range(1, len(kept) + 1)]
        run[query.id] = {i: 1.0 / rank for rank, i in enumerate(ids, start=1)}
        written |= {
            i: Document(i, text, metadata={"written_for": query.id, "model": llm.identity})
            for i, text in zip(ids, kept, strict=True)
        }
    return Found(run, written), rejected


def passages_of(text: str, count: int, cut_off: bool = False) -> list[str]:
    """The passages in an answer: of a JSON list or object, or one on each line after a dash. ``cut_off``: the last one
    of several was not written to its end, and is left out."""
    found: list[str] = []
    if text.lstrip().startswith(("{", "[", "```")):
        try:
            value = parse_json(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            value = next((v for v in value.values() if isinstance(v, list)), None)
        found = [" ".join(v.split()) for v in value or () if isinstance(v, str) and v.strip()]
    else:
        for line in text.strip().splitlines():
            if line.strip().startswith(("Query:", "Answered by:")):  # of a model that goes on with the next example
                break
            if stripped := line.strip().lstrip("-*•").strip():
                found.append(stripped)
    if cut_off and len(found) > 1:
        found = found[:-1]
    return found[:count]


def _useless(text: str, kept: Sequence[str], positives: Sequence[Document], known: set[str]) -> str:
    if len(text.split()) < MIN_WORDS:
        return "too short"
    if any(_alike(text, other) for other in kept):
        return "said before"
    if any(_alike(text, p.text) for p in positives):
        return "copy of a positive"
    return "document of the corpus" if text_key(text) in known else ""


def _alike(text: str, other: str) -> bool:
    if text_key(text) == text_key(other):
        return True
    one, two = (_shingles(t) for t in (text, other))
    return bool(one and two) and (len(one & two) / len(one | two) >= SAME or len(one & two) / len(one) >= SAME)


def _shingles(text: str) -> set[tuple[str, ...]]:
    own = words(text)
    return set(zip(own, own[1:], own[2:], strict=False))


def _prompt(writing: Writing, drawn: Sequence[Example], query: str, positive: str) -> str:
    cut = lambda text: first_words(text, writing.words)  # noqa: E731
    examples = [
        asdict(e)
        | {
            "document": cut(e.document),
            "negatives": [cut(n) for n in e.negatives[: writing.count]],
            "json": json.dumps({"negatives": list(e.negatives[: writing.count])}, ensure_ascii=False),
        }
        for e in drawn
    ]
    # without a query it is the beginning that all share, which says "with a passage that answers it" like them
    return (
        template("negatives.j2")
        .render(
            examples=examples,
            query=query,
            positive=cut(positive) or writing.sees_positive,
            count=writing.count,
            words=writing.words,
            chat=writing.chat,
        )
        .strip()
    )


def _parameters(writing: Writing, seed: str) -> dict[str, Any]:
    parameters = dict(writing.parameters) | {"seed": random.Random(seed).getrandbits(31)}
    if not writing.chat:
        return parameters | {"stop": ["\n\n", "\nQuery:"]}
    return held_to_schema(parameters, "negatives", list_schema("negatives", writing.count, {"type": "string"}), True)
