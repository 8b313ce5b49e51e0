"""What the answers of an LLM cost, and a budget that is never exceeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import Field

from sharpen.evaluation.settings import Settings

MILLION = Decimal(1_000_000)


class Prices(Settings):
    """Money for a million tokens.

    >>> Prices(input=Decimal("0.10"), output=Decimal("0.40")).cost(1_000_000, 500_000)
    Decimal('0.30')
    """

    input: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    output: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    cached_input: Annotated[Decimal, Field(ge=0)] | None = Field(
        None, description="Of prompts in the provider's cache. Default: as input."
    )
    batch: Annotated[Decimal, Field(gt=0, le=1)] = Field(
        Decimal(1), description="What an answer by batch costs, as a fraction of these prices: 0.5 where it is half."
    )
    currency: str = "USD"

    def in_batches(self) -> Prices:
        """The prices of answers by batch.

        >>> Prices(input=Decimal("0.10"), output=Decimal("0.40"), batch=Decimal("0.5")).in_batches().output
        Decimal('0.200')
        """
        cached = None if self.cached_input is None else self.cached_input * self.batch
        return Prices(
            input=self.input * self.batch,
            output=self.output * self.batch,
            cached_input=cached,
            currency=self.currency,
        )

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Decimal:
        """Of ``prompt_tokens``, ``cached_tokens`` came from the cache."""
        cached = self.input if self.cached_input is None else self.cached_input
        return (
            (prompt_tokens - cached_tokens) * self.input + cached_tokens * cached + completion_tokens * self.output
        ) / MILLION

    def show(self, amount: Decimal) -> str:
        """As people read it: to the cent, and finer below one."""
        places = Decimal("0.01") if amount == 0 or amount >= Decimal("0.01") else Decimal("0.000001")
        return f"{amount.quantize(places, ROUND_HALF_UP):,} {self.currency}"


class Purse:
    """What is gone of one budget, by all who share it: ``spent``, and ``reserved`` for what is under way. ``tokens``:
    those of the answers, each counted once. ``llm`` and ``currency``: for people; no currency, no prices."""

    def __init__(self) -> None:
        self.llm = self.currency = ""
        self.spent = Decimal(0)
        self.reserved = Decimal(0)
        self.tokens: Counter[str] = Counter()
        self.counted: set[bytes] = set()
        """Keys of the answers in it: one that is used again, as when negatives are mined again, was paid once."""

    def taken(self) -> Counter[str]:
        """Tokens by kind, and ``money``, so far."""
        return self.tokens + Counter(money=self.spent)

    def row(self, taken: Counter[str]) -> dict[str, Any]:
        """A part of what was taken, for a manifest."""
        tokens = {f"{kind}_tokens": taken[kind] for kind in ("prompt", "cached", "completion")}
        money = {"money": f"{Decimal(taken['money']):f}", "currency": self.currency} if self.currency else {}
        return {"llm": self.llm} | tokens | money


class Spending:
    """What one use of an LLM has spent so far. With a ``budget``, no request may be sent that could go over it.

    ``purse``: what the budget is spent from, shared with other uses (default: one of its own). A request is counted at
    its worst case while it is under way, and at what the server says when it is answered. Answers from the journal
    count, too: the budget is that of the whole run, however often it was started.
    """

    def __init__(self, prices: Prices | None = None, budget: Decimal | None = None, purse: Purse | None = None) -> None:
        self.prices = prices or Prices()
        self.budget = budget
        self.purse = purse or Purse()
        self.spent = Decimal(0)
        self.tokens: Counter[str] = Counter()
        self._reserved = Decimal(0)

    def reserve(self, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> bool | None:
        """Whether a request of at most so many tokens may be sent: True, and it is counted; None, ask again when
        another one has been answered; False, never. ``batch``: at the price of batches."""
        cost = self._prices(batch).cost(prompt_tokens, completion_tokens)
        if self.budget is not None and self.purse.spent + self.purse.reserved + cost > self.budget:
            return None if self._reserved else False
        self._reserved += cost
        self.purse.reserved += cost
        return True

    def release(self, prompt_tokens: int, completion_tokens: int, batch: bool = False) -> None:
        """Take back a reservation, with its numbers."""
        cost = self._prices(batch).cost(prompt_tokens, completion_tokens)
        self._reserved -= cost
        self.purse.reserved -= cost

    def add(
        self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, batch: bool = False, key: str = ""
    ) -> None:
        """Count an answer. ``key``: the journal's, by which the budget counts it once."""
        cost = self._prices(batch).cost(prompt_tokens, completion_tokens, cached_tokens)
        tokens = Counter(prompt=prompt_tokens, completion=completion_tokens, cached=cached_tokens)
        self.spent += cost
        self.tokens += tokens
        if not self.is_counted(key):
            self.purse.spent += cost
            self.purse.tokens += tokens
            if key:
                self.purse.counted.add(_short(key))

    def is_counted(self, key: str) -> bool:
        """Whether the budget has been charged with the answer of this key."""
        return bool(key) and _short(key) in self.purse.counted

    def lose(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Count a request that was sent and not answered in time, at its worst case: most servers bill what they have
        written until then. Whether it may be sent again, at the reservation that it has."""
        cost = self.prices.cost(prompt_tokens, completion_tokens)
        self.spent += cost
        self.purse.spent += cost
        return self.budget is None or self.purse.spent + self.purse.reserved <= self.budget

    def _prices(self, batch: bool) -> Prices:
        return self.prices.in_batches() if batch else self.prices

    def __str__(self) -> str:
        spent = f"{self.prices.show(self.spent)} spent"
        if self.budget is None:
            return spent
        if self.purse.spent == self.spent:
            return f"{spent} of {self.prices.show(self.budget)}"
        return f"{spent} here, {self.prices.show(self.purse.spent)} of {self.prices.show(self.budget)} in all"


def spending_counts(spending: Sequence[Spending]) -> dict[str, Any]:
    """Tokens and money of several uses of LLMs, for a manifest; empty where there was none."""
    tokens = sum((s.tokens for s in spending), Counter())
    counts: dict[str, Any] = {f"{kind}_tokens": n for kind, n in tokens.items()}
    if any(s.spent for s in spending):
        counts["money"] = ", ".join(str(s) for s in spending)
    return counts


def paid_in_all(rows: Iterable[Mapping[str, Any]]) -> str:
    """The money of rows of manifests (``Purse.row``), currency by currency; empty where nothing has a price.

    >>> paid_in_all([{"money": "0.5", "currency": "USD"}, {}, {"money": "0.25", "currency": "USD"}])
    '0.75 USD'
    """
    money: dict[str, Decimal] = {}
    for row in rows:
        if "money" in row:
            money[row["currency"]] = money.get(row["currency"], Decimal(0)) + Decimal(row["money"])
    return " and ".join(Prices(currency=currency).show(amount) for currency, amount in money.items())


def _short(key: str) -> bytes:
    return key[:32].encode()
