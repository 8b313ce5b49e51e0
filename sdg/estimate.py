"""What queries will cost, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import fmean as mean

from sharpen.evaluation.beir import Corpus, Document
from sharpen.sdg.llm.budget import Prices
from sharpen.sdg.llm.client import Answer, Request
from sharpen.sdg.queries import prompt
from sharpen.sdg.strategies.base import OF_QUERIES, Strategy, Unit


@dataclass(frozen=True)
class Estimate:
    """Of one strategy: ``calls``, the tokens of prompt and answer in the mean of a call, and ``max_tokens`` of an
    answer."""

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
        return prices.cost(
            round(self.calls * self.prompt_tokens), self.calls * max(self.max_tokens, round(self.completion_tokens))
        )


def estimate(
    strategies: Sequence[Strategy],
    documents: Sequence[Document],
    seed: int,
    count_tokens: Callable[[str], int],
    known: Callable[[Request], Answer | None] = lambda _request: None,
    sample: int = 100,
    corpus: Corpus | None = None,
    given: int = 0,
) -> list[Estimate]:
    """Count the calls of each strategy, and the tokens of ``sample`` of its prompts, evenly spaced.

    ``known`` looks an answer up in the journal: where a preview or an earlier run has asked some of the same prompts,
    the means are those of the server's own counts. Else an answer is taken to be as long as the pool's examples, since
    they set its form, or half as long as it may be. Strategies that work on the queries of earlier ones are taken to
    get one for each that was asked for and each of ``given``. The first step of a strategy of two has a row of its own.
    """
    result: list[Estimate] = []
    asked = given
    for strategy in strategies:
        if strategy.kind in OF_QUERIES:
            calls = asked * strategy.samples
            # as if each query were one of the pool's
            shown = {
                n: Unit(str(n), example.document, Document(str(n), ""), ())
                for n, example in enumerate((strategy.first or strategy).pool)
            }
        else:
            units = list(strategy.units(documents, corpus=corpus))
            calls = len(units)
            # the first ones are what a preview has asked
            shown = {
                n: units[n] for n in sorted({*range(min(sample, calls)), *range(0, calls, max(1, calls // sample))})
            }
        if strategy.first:
            told = {n: prompt(strategy.first, unit, n, seed) for n, unit in shown.items()}
            result.append(
                _row(
                    strategy.first,
                    f"{strategy.name}: {strategy.first.name}",
                    calls,
                    list(told.values()),
                    count_tokens,
                    known,
                )
            )
            for n, request in told.items():
                if (answer := known(request)) and (read := strategy.first.read(answer.text, shown[n])).items:
                    shown[n] = strategy.after_first(shown[n], read)
        row = _row(
            strategy,
            strategy.name,
            calls,
            [prompt(strategy, unit, n, seed) for n, unit in shown.items()],
            count_tokens,
            known,
        )
        if (
            strategy.first and strategy.kind == "multi_hop" and not row.measured
        ):  # what the first step brings stands in the prompt
            row = replace(row, prompt_tokens=row.prompt_tokens + result[-1].completion_tokens)
        result.append(row)
        asked += calls * strategy.count
    return result


def _row(
    strategy: Strategy,
    name: str,
    calls: int,
    requests: Sequence[Request],
    count_tokens: Callable[[str], int],
    known: Callable[[Request], Answer | None],
) -> Estimate:
    answers = [answer for request in requests if (answer := known(request))]
    most = strategy.parameters.get("max_tokens", 0)
    if len(answers) >= 5:
        timed = [a.seconds for a in answers if a.seconds]
        prompt_tokens, completion_tokens = (
            mean(getattr(a, kind) for a in answers) for kind in ("prompt_tokens", "completion_tokens")
        )
        return Estimate(
            name, calls, prompt_tokens, completion_tokens, most, mean(timed) if timed else None, len(answers)
        )
    prompt_tokens = mean(count_tokens(request.prompt) for request in requests) if requests else 0.0
    return Estimate(name, calls, prompt_tokens, _of_an_example(strategy, count_tokens), most)


def _of_an_example(strategy: Strategy, count_tokens: Callable[[str], int]) -> float:
    if not strategy.pool:
        return strategy.parameters.get("max_tokens", 0) / 2
    lengths = [count_tokens(strategy.answer_of(example)) for example in strategy.pool]
    # of several queries, an example of the pool may show but one
    wanted = 1 if strategy.form == "line" or strategy.kind == "artifacts" else strategy.count
    return mean(lengths) * max(1.0, wanted / mean(len(example.texts) for example in strategy.pool))
