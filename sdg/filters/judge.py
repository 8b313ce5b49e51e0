"""An LLM that scores queries against their document, as in NVIDIA's retriever SDG toolkit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, Field

from sharpen.evaluation.beir import Corpus, Query
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.answers import held_to_schema, list_schema, object_schema, parse_json
from sharpen.sdg.filters.base import FilterResult
from sharpen.sdg.llm.client import LLMClient, raise_if_unanswered
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.llm.settings import LLMSettings
from sharpen.sdg.prompts import template
from sharpen.sdg.rejections import Problem, Rejection, answer_problem
from sharpen.sdg.rejections import RejectionReason as Reason

if TYPE_CHECKING:
    from sharpen.sdg.resources import Resources

MIN_WORDS = 5
"""Of a document in the prompt, where the LLM's context has no room for more."""
Score = Annotated[float, Field(ge=0, le=10)]


class JudgeScores(BaseModel):
    """From 0 (worst) to 10 (best)."""

    relevance: Score = Field(description="somebody who types the query wants this document")
    factual_accuracy: Score = Field(
        description="neither the query nor its answer says anything that the document contradicts"
    )
    context_support: Score = Field(description="the document alone is enough to answer it")
    clarity: Score = Field(description="the query can be understood by itself, and in one way")
    overall: Score = Field(description="how much you would like to have this pair for training a search engine")


class Judge(Settings):
    """An LLM that gives each query points, from 0 to 10.

    Queries of the same documents are judged together, ``per_prompt`` at once. The scores go into the kept queries'
    metadata and stand with the rejected ones. An answer without exactly one set of scores for each of its pairs drops
    them all, as nobody can say which is whose.
    """

    name: ClassVar[str] = "judge"
    first_process_only: ClassVar[bool] = True
    """An LLM is to be asked once."""

    threshold: Annotated[float, Field(ge=0, le=10)] = Field(
        7.0, description="Overall score that is enough (7.0 in NVIDIA's toolkit)."
    )
    per_prompt: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Queries of one document judged together.")
    max_document_words: Count = Field(400, description="Words of the document in the prompt.")
    llm: LLMSettings | None = Field(None, description="The judge, if it is another than the recipe's llm.")

    def apply(self, queries: Sequence[Query], corpus: Corpus, resources: Resources) -> FilterResult:
        """Raises ``InputError`` if there is no LLM to ask, where the budget does not suffice, for an outage, and as
        ``LLMClient.ask`` does; what was answered is in the journal."""
        with resources.progress("judging", 0) as advance, resources.open_llm(self.llm) as client:
            return self.judge(queries, corpus, client, lambda _answer: advance())

    def judge(
        self,
        queries: Sequence[Query],
        corpus: Corpus,
        client: LLMClient,
        progress: Callable[[Answer], None] = lambda _answer: None,
    ) -> FilterResult:
        """As ``apply``, by an LLM that is open already. ``progress`` is given each answer."""

        def use(_number: int, _request: Request, answer: Answer) -> Answer:
            progress(answer)
            return answer

        batches = list(_batches(queries, self.per_prompt))
        answers = client.ask(self.requests(queries, corpus, client.chat), use)
        raise_if_unanswered(client, answers, "judgements of queries", "take filters.judge out")
        result = FilterResult(spending=[client.spending])
        for batch, answer in zip(batches, answers, strict=True):
            self._sort(batch, answer, result)
        return result

    def requests(self, queries: Sequence[Query], corpus: Corpus, chat: bool) -> Iterator[Request]:
        """A prompt for each ``per_prompt`` queries of a document."""
        for batch in _batches(queries, self.per_prompt):
            yield _request(batch, corpus, self.max_document_words, chat)

    def _sort(self, batch: Sequence[Query], answer: Answer, result: FilterResult) -> None:
        if problem := answer_problem(answer):
            pass
        elif (scores := _parse(answer.text, len(batch))) is None:
            problem = Problem(Reason.JUDGE_MISMATCH)
        else:
            for query, score in zip(batch, scores, strict=True):
                if score.overall >= self.threshold:
                    metadata = query.metadata | {"scores": score.model_dump()}
                    result.kept.append(Query(query.id, query.text, metadata))
                else:
                    low = Problem(Reason.LOW_JUDGE_SCORE, score.overall, self.threshold)
                    result.rejected.append(Rejection.of(query, self.name, low, scores=score.model_dump()))
            return
        result.rejected += [Rejection.of(query, self.name, problem, answer=answer.text[:500]) for query in batch]


def _batches(queries: Sequence[Query], per_prompt: int) -> Iterator[list[Query]]:
    by_document: dict[tuple[str, ...], list[Query]] = {}
    for query in queries:
        by_document.setdefault(tuple(query.metadata["positives"]), []).append(query)
    for group in by_document.values():
        for start in range(0, len(group), per_prompt):
            yield group[start : start + per_prompt]


def _request(batch: list[Query], corpus: Corpus, max_words: int, chat: bool) -> Request:
    documents = [first_words(corpus[doc_id].content, max_words) for doc_id in batch[0].metadata["positives"]]
    criteria = {name: field.description for name, field in JudgeScores.model_fields.items()}
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
        shorter=partial(_request, batch, corpus, max_words // 2, chat) if max_words >= 2 * MIN_WORDS else None,
    )


def _parse(text: str, count: int) -> list[JudgeScores] | None:
    try:
        value = parse_json(text)
        rows = value.get("scores") if isinstance(value, dict) else value
        scores = [JudgeScores.model_validate(row) for row in rows] if isinstance(rows, list) else []
    except ValueError:  # pydantic's ValidationError is one, too
        return None
    return scores if len(scores) == count else None
