"""How an LLM is asked about units: each prompt once, and once more where the answer could not be read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from sharpen.sdg.answers import ParsedAnswer
from sharpen.sdg.generated import StrategyStats
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.rejections import Problem, answer_problem
from sharpen.sdg.rejections import RejectionReason as Reason
from sharpen.sdg.strategies.base import Strategy, Unit

if TYPE_CHECKING:
    from sharpen.sdg.llm.client import LLMClient

MIN_CHARACTERS = 30
"""Of a text that was halved for the LLM's context; less is nothing to write from."""


@dataclass(frozen=True)
class Reply:
    """The answer to a prompt, and what could be read of it."""

    prompt_hash: str
    answer: Answer
    parsed: ParsedAnswer

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to read, whatever a strategy makes of it."""
        return self.answer.held_back or not self.answer.text.strip()

    @property
    def is_broken(self) -> bool:
        """Whether it could not be read, and another one may be."""
        return bool(self.parsed.error) and not (self.answer.held_back or self.answer.ate_budget)

    def problem(self) -> Problem:
        """Why a query that was asked for is not there."""
        if problem := answer_problem(self.answer):
            return problem
        if not self.answer.text.strip():
            return Problem(Reason.EMPTY)
        if self.parsed.error:
            return Problem(Reason.UNREADABLE, detail=self.parsed.error)
        return Problem(Reason.MISSING)


@dataclass(frozen=True)
class Asker:
    """Asks ``client``; ``seed``: of sampling; ``progress`` is given each answer as it comes."""

    client: LLMClient
    seed: int
    progress: Callable[[Answer], None] = lambda _answer: None

    def ask(self, strategy: Strategy, units: Mapping[int, Unit], stats: StrategyStats) -> dict[int, Reply]:
        """The reply for each unit, by its number; what was to be JSON and is not is asked for once more. Prompts,
        tokens and repairs are counted in ``stats``."""

        def parse(unit: Unit, request: Request, answer: Answer) -> Reply:
            stats.prompts += 1
            stats.shortened += bool(answer.shortened and not answer.error)
            stats.tokens += Counter(answer.tokens)
            self.progress(answer)
            parsed = ParsedAnswer() if answer.error else strategy.parse(answer.text, unit)
            return Reply(hashlib.sha256(request.prompt.encode()).hexdigest()[:16], answer, parsed)

        asked = list(units.items())
        if self.client.warm_up:  # one prefix cache: those that begin alike one after the other
            asked.sort(key=lambda item: strategy.group(item[1], self.seed))
        answers = self.client.ask(
            self._requests(strategy, asked), lambda place, request, answer: parse(asked[place][1], request, answer)
        )
        replies = {n: reply for (n, _), reply in zip(asked, answers, strict=True)}
        broken = [(n, unit) for n, unit in asked if strategy.json_answers and replies[n].is_broken]
        repairs = [
            (n, unit, request)
            for n, unit in broken
            if (request := self._repair(strategy, unit, replies[n])) is not None
        ]
        if repairs:
            again = self.client.ask(
                (request for _, _, request in repairs),
                lambda place, request, answer: parse(repairs[place][1], request, answer),
            )
            for (n, _, _), repaired in zip(repairs, again, strict=True):
                if repaired.parsed.queries:
                    stats.repaired += 1
                    replies[n] = repaired
        return replies

    def _repair(self, strategy: Strategy, unit: Unit, reply: Reply) -> Request | None:
        return strategy.repair(unit, reply.answer.text, reply.parsed.error, seed=self.seed, chat=self.client.chat)

    def _requests(self, strategy: Strategy, units: Sequence[tuple[int, Unit]]) -> Iterator[Request]:
        """The requests; a server with one prefix cache is brought to what the group shares, no less and no more, so
        that an answer does not hang on what was asked before."""
        cached = ""
        how = {"seed": self.seed, "chat": self.client.chat}
        for _, unit in units:
            request = strategy.request(unit, **how)
            if self.client.warm_up and self.client.known(request) is None:
                prefix = strategy.shared_prefix(unit, **how)
                # who asks ahead knows best what went before at the server
                if prefix and (self.client.ahead or not share_exactly(prefix.prompt, cached, request.prompt)):
                    request = replace(request, warm_up=prefix)
                cached = request.prompt
            yield replace(request, shorter=partial(_shorter, partial(strategy.request, **how), unit, request.prompt))


def share_exactly(prefix: str, *prompts: str) -> bool:
    """Whether both prompts begin with the prefix, and are nowhere alike beyond it.

    >>> share_exactly("Text:", "Text: one", "Text: two"), share_exactly("Text:", "Text: one", "Text: once")
    (True, False)
    """
    beyond = {prompt.removeprefix(prefix).lstrip()[:1] for prompt in prompts}
    return all(prompt.startswith(prefix) for prompt in prompts) and len(beyond) == len(prompts)


def _shorter(ask: Callable[[Unit], Request], unit: Unit, prompt: str) -> Request | None:
    """The request about a unit of which half as much is shown; None where nothing would be left to write from.

    What a unit has may be more than what a prompt shows of it, so that it may take several halvings until one shows.
    """
    while max(map(len, (unit.text, *unit.segments))) >= 2 * MIN_CHARACTERS:
        unit = replace(unit, text=_half(unit.text), notes=_half(unit.notes), segments=tuple(map(_half, unit.segments)))
        request = ask(unit)
        if len(request.prompt) < len(prompt):
            return replace(request, shorter=partial(_shorter, ask, unit, request.prompt))
    return None


def _half(text: str) -> str:
    """The first half, of whole words where they are written apart."""
    half = text[: len(text) // 2]
    blank = half.rfind(" ", len(half) * 9 // 10)
    return half if blank < 0 else half[:blank]
