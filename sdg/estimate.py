"""What queries will cost, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean as mean

from evaluation.data import Document
from sdg.answers import written
from sdg.llm import Answer, Request
from sdg.money import Prices
from sdg.queries import prompt
from sdg.strategies import Strategy


@dataclass(frozen=True)
class Estimate:
    """Of one strategy: ``calls``, the tokens of prompt and answer in the mean of a call, and ``max_tokens`` of an answer."""

    strategy: str
    calls: int
    prompt_tokens: float
    completion_tokens: float
    max_tokens: int = 0
    seconds: float | None = None
    """Of an answer, in the mean; None where none was measured."""
    measured: int = 0
    """Answers in the journal that the means are from; with none, tokens are counted by the tokenizer given."""

    def cost(self, prices: Prices) -> Decimal:
        """What is to be expected."""
        return prices.cost(round(self.calls * self.prompt_tokens), round(self.calls * self.completion_tokens))

    def cost_at_most(self, prices: Prices) -> Decimal:
        """If every answer is as long as it may be."""
        return prices.cost(round(self.calls * self.prompt_tokens), self.calls * max(self.max_tokens, round(self.completion_tokens)))


def estimate(
    strategies: Sequence[Strategy],
    documents: Sequence[Document],
    seed: int,
    count_tokens: Callable[[str], int],
    known: Callable[[Request], Answer | None] = lambda _request: None,
    sample: int = 100,
) -> list[Estimate]:
    """Count the calls of each strategy, and the tokens of ``sample`` of its prompts, evenly spaced.

    ``known`` looks an answer up in the journal: where a preview or an earlier run has asked some of the same prompts, the
    means are those of the server's own counts. Else an answer is taken to be as long as the pool's examples, since they
    set its form. Strategies that work on the queries of earlier ones are taken to get one for each that was asked for.
    """
    result: list[Estimate] = []
    asked = 0
    for strategy in strategies:
        if strategy.kind == "paraphrase":
            calls = asked * strategy.samples
            head = strategy.request(None, strategy.draw(seed, 0), strategy.examples).prompt
            requests = [Request(f"{head} {example.document}") for example in strategy.pool]
        else:
            units = list(strategy.units(documents))
            calls = len(units)
            # the first ones are what a preview has asked
            chosen = sorted({*range(min(sample, calls)), *range(0, calls, max(1, calls // sample))})
            requests = [prompt(strategy, units[n], n, seed) for n in chosen]
        asked += calls * strategy.count
        answers = [answer for request in requests if (answer := known(request))]
        seconds = None
        if len(answers) >= 5:
            prompt_tokens, completion_tokens = (mean(getattr(a, kind) for a in answers) for kind in ("prompt_tokens", "completion_tokens"))
            timed = [a.seconds for a in answers if a.seconds]
            seconds = mean(timed) if timed else None
        else:
            prompt_tokens = mean(count_tokens(request.prompt) for request in requests) if requests else 0.0
            completion_tokens = _of_an_example(strategy, count_tokens)
            answers = []
        result.append(Estimate(strategy.name, calls, prompt_tokens, completion_tokens, strategy.parameters.get("max_tokens", 0), seconds, len(answers)))
    return result


def _of_an_example(strategy: Strategy, count_tokens: Callable[[str], int]) -> float:
    lengths = [count_tokens(written(strategy.form, e.queries, e.answers if strategy.kind == "question_answer" else ())) for e in strategy.pool]
    # of several queries, an example of the pool may show but one
    shown = 1.0 if strategy.form == "line" else mean(len(e.queries) for e in strategy.pool)
    return mean(lengths) * max(1.0, strategy.count / shown)
