"""An LLM answers questions from documents that it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sharpen.evaluation.answer_metrics import REFUSAL, stands_in
from sharpen.evaluation.beir import Document
from sharpen.evaluation.languages import first_words
from sharpen.sdg.answering.questions import AnsweredQuestion
from sharpen.sdg.filters.text import one_line
from sharpen.sdg.llm.client import LLMClient, raise_if_unanswered
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.prompts import template

MAX_WORDS = 200
"""Of a document in a prompt."""
MIN_WORDS = 10
MAX_TOKENS = 48
"""Of an answer."""

Shown = Sequence[Document] | None
"""The documents that stand with a question; None: there are none, and it is to be answered without."""
Asked = tuple[AnsweredQuestion, Shown]


@dataclass(frozen=True)
class GivenAnswer:
    """``text``: the first line of what came. ``prompt_tokens``, ``completion_tokens``, ``seconds``: as the server
    counted them."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def of(cls, answer: Answer) -> GivenAnswer:
        text = next((line.strip() for line in answer.text.splitlines() if line.strip()), "")
        return cls(
            text.removeprefix("Answer:").strip(),
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.seconds,
            answer.error,
        )


def answer_request(question: str, documents: Shown, client: LLMClient | None = None, **how) -> Request:
    """The prompt for an answer. ``how``: ``chat`` and ``embedded`` in place of a client's."""
    how = {"chat": client.chat, "embedded": client.warm_up} if client else how
    return _answer_request(question, documents, MAX_WORDS, **how)


def ask_answers(
    client: LLMClient, asked: Sequence[Asked], progress: Callable[[], None] = lambda: None
) -> list[GivenAnswer]:
    """An answer to each question from the documents that stand with it, in their order; the same prompt is asked once.

    Raises ``InputError`` for a budget that does not suffice and for an outage; what was answered is in the journal.
    """

    def use(_number: int, _request: Request, answer: Answer) -> Answer:
        progress()
        return answer

    answers = client.ask((answer_request(q.text, documents, client) for q, documents in asked), use)
    raise_if_unpaid(client, answers, "questions")
    return [GivenAnswer.of(answer) for answer in answers]


def raise_if_unpaid(client: LLMClient, answers: Sequence[Answer], what: str) -> None:
    """Raise ``InputError`` where the budget ended before the last answer, and for an outage."""
    raise_if_unanswered(client, answers, what, "take fewer questions (-n)")


def shown_texts(documents: Sequence[Document], max_words: int) -> list[str]:
    """The documents as they stand in a prompt."""
    return [one_line(first_words(document.content, max_words)) for document in documents]


def shows_answer(question: AnsweredQuestion, documents: Sequence[Document], language: str) -> bool:
    """Whether an answer stands in what an LLM is shown of the documents."""
    shown = [first_words(document.content, MAX_WORDS, in_prompt=False) for document in documents]
    return stands_in(question.answers, shown, language)


def request_parameters(max_tokens: int, embedded: bool, chat: bool) -> dict:
    """Of the likeliest answer. What an embedded server makes of a prompt that begins like the one before is not quite
    what it makes of it anew, and which one was before depends on where an earlier run was killed."""
    parameters: dict = {"temperature": 0.0, "max_tokens": max_tokens}
    if not chat:
        parameters["stop"] = ["\n"]
    if embedded:
        parameters["extra_body"] = {"cache_prompt": False}
    return parameters


def _answer_request(question: str, documents: Shown, max_words: int, chat: bool, embedded: bool) -> Request:
    texts = None if documents is None else shown_texts(documents, max_words)
    prompt = template("answer.j2").render(question=one_line(question), documents=texts, chat=chat, refusal=REFUSAL)
    shorter = partial(_answer_request, question, documents, max_words // 2, chat, embedded)
    return Request(
        prompt.strip(),
        chat,
        request_parameters(MAX_TOKENS, embedded, chat),
        shorter=shorter if documents and max_words >= 2 * MIN_WORDS else None,
    )
