"""The two ways of asking an LLM about the documents of a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from sharpen.evaluation.beir import Document
from sharpen.evaluation.languages import first_words
from sharpen.evaluation.scorers import LLM_LISTWISE, LLM_POINTWISE
from sharpen.sdg.answers import held_to_schema, list_schema
from sharpen.sdg.filters.text import one_line
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.prompts import template
from sharpen.sdg.reranking.answers import Ranking, log_odds, parse_ranking
from sharpen.sdg.reranking.settings import LLMRerankerSettings

T = TypeVar("T", covariant=True)


class Question(Protocol[T]):
    """``wanted``: what an answer must have to say anything. ``unread``: what becomes of documents where it has not."""

    name: ClassVar[str]
    wanted: ClassVar[str]
    unread: ClassVar[str]

    def request(self, query: str, documents: Sequence[Document], chat: bool, embedded: bool) -> Request:
        """The prompt, with all that is sent. ``embedded``: to a server of this program."""
        ...

    def read(self, answer: Answer, shown: int) -> T | None:
        """What an answer about ``shown`` documents says; None: nothing."""
        ...

    def usual_answer(self, shown: int) -> str:
        """An answer as it is to be, to count its tokens."""
        ...


@dataclass(frozen=True)
class RelevanceQuestion:
    """Whether a document answers the query: the logarithm of p(yes) / p(no)."""

    settings: LLMRerankerSettings
    name: ClassVar[str] = LLM_POINTWISE
    wanted: ClassVar[str] = "begins with yes or no"
    unread: ClassVar[str] = "these documents have the mean of their query's others"

    def request(self, query: str, documents: Sequence[Document], chat: bool, embedded: bool) -> Request:
        (text,) = _texts(documents, self.settings)
        prompt = template("relevance.j2").render(query=one_line(query), document=text, chat=chat)
        number = self.settings.top_logprobs
        logprobs = {"logprobs": True, "top_logprobs": number} if chat else {"logprobs": number}
        return Request(prompt.strip(), chat, _parameters(1, embedded) | logprobs)

    def read(self, answer: Answer, shown: int) -> float | None:
        return log_odds(answer.first_token or {})

    def usual_answer(self, shown: int) -> str:
        return "Yes"


@dataclass(frozen=True)
class OrderQuestion:
    """In which order several documents answer the query best."""

    settings: LLMRerankerSettings
    name: ClassVar[str] = LLM_LISTWISE
    wanted: ClassVar[str] = "has an order"
    unread: ClassVar[str] = "these documents stay in their order"

    def request(self, query: str, documents: Sequence[Document], chat: bool, embedded: bool) -> Request:
        shown = len(documents)
        prompt = template("ranking.j2").render(
            query=one_line(query), documents=_texts(documents, self.settings), chat=chat
        )
        schema = list_schema("ranking", shown, {"type": "integer", "minimum": 1, "maximum": shown})
        parameters = held_to_schema(_parameters(8 * shown + 40, embedded), "ranking", schema, chat)
        return Request(prompt.strip(), chat, parameters)

    def read(self, answer: Answer, shown: int) -> Ranking | None:
        return parse_ranking(answer.text, shown)

    def usual_answer(self, shown: int) -> str:
        return f'{{"ranking": {[*range(1, shown + 1)]}}}'


def _parameters(max_tokens: int, embedded: bool) -> dict[str, Any]:
    parameters: dict[str, Any] = {"temperature": 0.0, "max_tokens": max_tokens}
    if embedded:
        # what a server makes of a prompt that begins like the one before is not quite what it makes of it anew (the
        # log-odds differ by a tenth), and which one was before depends on where an earlier run was killed
        parameters["extra_body"] = {"cache_prompt": False}
    return parameters


def _texts(documents: Sequence[Document], settings: LLMRerankerSettings) -> list[str]:
    return [first_words(document.content, settings.max_document_words) for document in documents]
