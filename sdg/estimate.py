"""What queries will cost, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import fmean

from sharpen.evaluation.beir import Corpus, Document
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.messages import Answer, Request
from sharpen.sdg.strategies.base import Strategy, Unit
from sharpen.sdg.strategies.mixed import members_of

MIN_MEASURED = 5
"""Answers in the journal from which their means are used."""


@dataclass(frozen=True)
class CostEstimate:
    """Of one strategy: ``calls``, the mean tokens of prompt and answer in a call, and ``max_tokens`` of an answer.

    ``seconds``: mean time of an answer; None where none was measured. ``measured``: answers in the journal that the
    means are from; with none, tokens are counted by the tokenizer given.

    >>> prices = Prices(input=Decimal("1.5"), output=Decimal(2))
    >>> CostEstimate("document", calls=50_000, prompt_tokens=700, completion_tokens=25).cost(prices)
    Decimal('55.0')
    """

    strategy: str
    calls: int
    prompt_tokens: float
    completion_tokens: float
    max_tokens: int = 0
    seconds: float | None = None
    measured: int = 0

    def cost(self, prices: Prices) -> Decimal:
        """What is to be expected."""
        return prices.cost(round(self.calls * self.prompt_tokens), round(self.calls * self.completion_tokens))

    def cost_at_most(self, prices: Prices) -> Decimal:
        """If every answer is as long as it may be."""
        most = max(self.max_tokens, round(self.completion_tokens))
        return prices.cost(round(self.calls * self.prompt_tokens), self.calls * most)

    def hours(self, concurrency: int) -> float | None:
        """With so many requests under way; None where no answer was measured."""
        return None if self.seconds is None else self.calls * self.seconds / concurrency / 3600


@dataclass(frozen=True)
class CostEstimator:
    """How calls and tokens are counted.

    ``count_tokens``: tokens of a text. ``known`` looks an answer up in the journal: where a preview or an earlier run
    has asked some of the same prompts, the means are those of the server's own counts. Else an answer is taken to be as
    long as the pool's examples, since they set its form, or half as long as it may be. ``sample``: prompts of a
    strategy that are looked at, evenly spaced. ``chat``, ``seed``: as of ``Strategy.request``.
    """

    count_tokens: Callable[[str], int]
    known: Callable[[Request], Answer | None] = lambda _request: None
    seed: int = 13
    chat: bool = True
    sample: int = 100

    def estimate(
        self, strategies: Sequence[Strategy], documents: Sequence[Document], corpus: Corpus, labelled: int = 0
    ) -> list[CostEstimate]:
        """A row for each strategy (of a mixture, for each type of queries), and one for each other step of those of
        several steps.

        Strategies that rewrite queries are taken to get one for each that was asked for, and each of ``labelled``. What
        is asked only if need be (a simulated user's other queries) is counted as if it were always asked.
        """
        rows: list[CostEstimate] = []
        asked = labelled
        for strategy in (member for each in strategies for member in members_of(each, self.seed)):
            if strategy.rewrites:
                calls = asked * getattr(strategy, "per_document", 1)
                units = dict(enumerate(strategy.sample_units()))  # as if each query were one of the pool's
            else:
                every = list(strategy.units(documents, (), corpus))
                calls = len(every)
                units = {n: every[n] for n in self._places(calls)}
            before = len(rows)
            if strategy.first:
                rows.append(self._first_step(strategy, calls, units))
            row = self._row(strategy, strategy.name, calls, units)
            if len(rows) > before and not strategy.rewrites and not row.measured:
                # what the first step brings stands in the prompt
                row = replace(row, prompt_tokens=row.prompt_tokens + rows[-1].completion_tokens)
            rows.append(row)
            asked += calls * strategy.queries
            if strategy.then and strategy.follow_ups:
                calls *= strategy.follow_ups
                units = dict(enumerate(strategy.then.sample_units()))  # as if the sessions were those of the pool
                rows.append(self._row(strategy.then, f"{strategy.name}: {strategy.then.name}", calls, units))
                asked += calls * strategy.queries
        return rows

    def _places(self, calls: int) -> list[int]:
        """The first ones are what a preview has asked."""
        return sorted({*range(min(self.sample, calls)), *range(0, calls, max(1, calls // self.sample))})

    def _first_step(self, strategy: Strategy, calls: int, units: dict[int, Unit]) -> CostEstimate:
        """The first step's row; what it has brought before goes into ``units``."""
        first = strategy.first
        row = self._row(first, f"{strategy.name}: {first.name}", calls, units)
        for n, unit in units.items():
            answer = self.known(self._request(first, unit))
            if answer and (parsed := first.parse(answer.text, unit)).queries:
                units[n] = strategy.after_first(unit, parsed)
        return row

    def _request(self, strategy: Strategy, unit: Unit) -> Request:
        return strategy.request(unit, seed=self.seed, chat=self.chat)

    def _row(self, strategy: Strategy, name: str, calls: int, units: dict[int, Unit]) -> CostEstimate:
        requests = [self._request(strategy, unit) for unit in units.values()]
        answers = [answer for request in requests if (answer := self.known(request))]
        if len(answers) >= MIN_MEASURED:
            timed = [answer.seconds for answer in answers if answer.seconds]
            return CostEstimate(
                name,
                calls,
                fmean(answer.prompt_tokens for answer in answers),
                fmean(answer.completion_tokens for answer in answers),
                strategy.max_tokens,
                fmean(timed) if timed else None,
                len(answers),
            )
        prompt_tokens = fmean(self.count_tokens(request.prompt) for request in requests) if requests else 0.0
        return CostEstimate(name, calls, prompt_tokens, self._answer_tokens(strategy), strategy.max_tokens)

    def _answer_tokens(self, strategy: Strategy) -> float:
        examples = strategy.example_answers()
        if not examples:
            return strategy.max_tokens / 2
        # of several queries, an example of the pool may show but one
        factor = max(1.0, strategy.queries / fmean(queries for _, queries in examples))
        return factor * fmean(self.count_tokens(answer) for answer, _ in examples)
