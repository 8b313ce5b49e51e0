"""An LLM that scores queries against their document, as in NVIDIA's retriever SDG toolkit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sharpen.evaluation.beir import Corpus, Query
from sharpen.sdg.answers import held_to_schema, list_schema, object_schema, parse_json
from sharpen.sdg.filters import rejection
from sharpen.sdg.filters.text import first_words
from sharpen.sdg.llm.client import LLM, Answer, Request
from sharpen.sdg.prompts import template

Score = Annotated[float, Field(ge=0, le=10)]
MISMATCH = "judge: its answer does not match its pairs"


class Scores(BaseModel):
    """From 0 (worst) to 10 (best)."""

    relevance: Score = Field(description="somebody who types the query wants this document")
    factual_accuracy: Score = Field(
        description="neither the query nor its answer says anything that the document contradicts"
    )
    context_support: Score = Field(description="the document alone is enough to answer it")
    clarity: Score = Field(description="the query can be understood by itself, and in one way")
    overall: Score = Field(description="how much you would like to have this pair for training a search engine")


def judge(
    queries: Sequence[Query],
    corpus: Corpus,
    llm: LLM,
    *,
    threshold: float = 7.0,
    per_prompt: int = 5,
    max_words: int = 400,
    chat: bool = True,
    progress: Callable[[Answer], None] | None = None,
) -> tuple[list[Query], list[dict[str, Any]]]:
    """Keep the queries whose overall score is ``threshold`` or more (7.0, as in NVIDIA's toolkit).

    Queries of the same documents are judged together, ``per_prompt`` at once. The scores go into the kept queries'
    metadata and into the rejected ones. An answer without exactly one set of scores for each of its pairs drops them
    all, as nobody can say which is whose. Raises ``InputError`` as ``LLM.ask`` does.
    """
    batches = list(_batches(queries, per_prompt))
    answers = llm.ask(
        (_request(batch, corpus, max_words, chat) for batch in batches),
        lambda _n, _r, answer: (progress and progress(answer), answer)[1],
    )
    kept, rejected = [], []
    for batch, answer in zip(batches, answers, strict=True):
        scores = None if answer.error else _read(answer.text, len(batch))
        for n, query in enumerate(batch):
            if scores is None:
                reason = f"judge: LLM error: {answer.error.partition(':')[0]}" if answer.error else MISMATCH
                rejected.append(rejection(query, reason, judge_said=answer.text[:500]))
            elif scores[n].overall < threshold:
                rejected.append(rejection(query, f"judge: overall below {threshold:g}", scores=scores[n].model_dump()))
            else:
                kept.append(Query(query.id, query.text, query.metadata | {"scores": scores[n].model_dump()}))
    return kept, rejected


def _batches(queries: Sequence[Query], per_prompt: int) -> Iterator[list[Query]]:
    by_document: dict[tuple[str, ...], list[Query]] = {}
    for query in queries:
        by_document.setdefault(tuple(query.metadata["positives"]), []).append(query)
    for group in by_document.values():
        for start in range(0, len(group), per_prompt):
            yield group[start : start + per_prompt]


def _request(batch: list[Query], corpus: Corpus, max_words: int, chat: bool) -> Request:
    documents = [first_words(corpus[doc_id].content, max_words) for doc_id in batch[0].metadata["positives"]]
    criteria = {name: field.description for name, field in Scores.model_fields.items()}
    prompt = template("judge.j2").render(
        documents=documents,
        queries=[(q.text, q.metadata.get("answer", "")) for q in batch],
        criteria=criteria,
        form=json.dumps({"scores": [dict.fromkeys(criteria, 0)]}),
    )
    score = {"type": "number", "minimum": 0, "maximum": 10}
    schema = list_schema("scores", len(batch), object_schema(dict.fromkeys(criteria, score)))
    return Request(
        prompt.strip(),
        chat,
        held_to_schema({"temperature": 0.0, "max_tokens": 80 * len(batch) + 20}, "scores", schema, chat),
    )


def _read(text: str, count: int) -> list[Scores] | None:
    try:
        value = parse_json(text)
        rows = value.get("scores") if isinstance(value, dict) else value
        scores = [Scores.model_validate(row) for row in rows] if isinstance(rows, list) else []
    except ValueError:  # pydantic's ValidationError is one, too
        return None
    return scores if len(scores) == count else None
