"""An LLM judges answers, and the documents that they were to be found in: by the four measures that most evaluations of
retrieval-augmented generation share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sharpen.evaluation.beir import Document
from sharpen.sdg.answering.asking import MAX_WORDS, MIN_WORDS, raise_if_unpaid, request_parameters, shown_texts
from sharpen.sdg.answering.questions import AnsweredQuestion
from sharpen.sdg.answers import held_to_schema, object_schema, parse_json
from sharpen.sdg.filters.text import one_line
from sharpen.sdg.llm.client import LLMClient
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.prompts import template

FAITHFULNESS, CORRECTNESS = "faithfulness", "answer correctness"
RELEVANCE, RECALL = "context relevance", "context recall"
OF_ANSWER = {
    FAITHFULNESS: "everything that the answer says stands in the documents, whether it is right or not; 0 if nothing of"
    " it does",
    CORRECTNESS: "the answer says the same as the right answer, in whatever words; 0 if it says something else or"
    " nothing",
}
OF_CONTEXT = {
    RELEVANCE: "what the documents say is of use to answer the question; 0 if all of them are about something else",
    RECALL: "the right answer can be found in the documents; 0 if no part of it can",
}
MEASURES = (*OF_ANSWER, *OF_CONTEXT)
BEST = 10
TOKENS_OF_SCORES = 60


@dataclass(frozen=True)
class Judgement:
    """What is to be judged: ``answer`` None is a judgement of the documents. ``documents`` None: there were none, so
    that an answer is only right or wrong."""

    question: AnsweredQuestion
    documents: Sequence[Document] | None
    answer: str | None = None

    @property
    def criteria(self) -> dict[str, str]:
        """Name of each measure to what it means."""
        if self.answer is None:
            return OF_CONTEXT
        return OF_ANSWER if self.documents is not None else {CORRECTNESS: OF_ANSWER[CORRECTNESS]}

    def request(self, chat: bool, embedded: bool, max_words: int = MAX_WORDS) -> Request:
        """The prompt, held to its schema."""
        names = {name.replace(" ", "_"): meaning for name, meaning in self.criteria.items()}
        prompt = template("judge_answer.j2").render(
            question=one_line(self.question.text),
            references=[one_line(text) for text in self.question.answers],
            documents=shown_texts(self.documents or (), max_words),
            answer=None if self.answer is None else one_line(self.answer),
            criteria=names,
            form=json.dumps(dict.fromkeys(names, BEST // 2)),
            chat=chat,
        )
        score = {"type": "integer", "minimum": 0, "maximum": BEST}
        parameters = request_parameters(TOKENS_OF_SCORES, embedded, chat)
        parameters.pop("stop", None)  # JSON may go over several lines
        less = max_words // 2
        return Request(
            prompt.strip(),
            chat,
            held_to_schema(parameters, "scores", object_schema(dict.fromkeys(names, score)), chat),
            shorter=partial(self.request, chat, embedded, less) if self.documents and less >= MIN_WORDS else None,
        )

    def read(self, answer: Answer) -> dict[str, float]:
        """Measure to a score from 0 to 1; empty where the answer has not all of them."""
        try:
            value = parse_json(answer.text)
        except ValueError:
            return {}
        scores = {}
        for name in self.criteria:
            given = value.get(name.replace(" ", "_")) if isinstance(value, dict) else None
            if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= BEST:
                return {}
            scores[name] = given / BEST
        return scores


def ask_judge(
    client: LLMClient, judgements: Sequence[Judgement], progress: Callable[[], None] = lambda: None
) -> list[Mapping[str, float]]:
    """The scores of each; empty where the judge's answer cannot be read. The same question is asked once.

    Raises ``InputError`` for a budget that does not suffice and for an outage; what was answered is in the journal.
    """

    def use(_number: int, _request: Request, answer: Answer) -> Answer:
        progress()
        return answer

    answers = client.ask((each.request(client.chat, client.warm_up) for each in judgements), use)
    raise_if_unpaid(client, answers, "judgements")
    return [{} if a.error else each.read(a) for each, a in zip(judgements, answers, strict=True)]
