from decimal import Decimal

import pytest

from sharpen.evaluation.beir import Document
from sharpen.sdg.estimate import CostEstimate, CostEstimator
from sharpen.sdg.llm.budget import Prices, Purse, Spending
from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.strategies.document import Document as DocumentStrategy
from sharpen.sdg.strategies.pools import Example
from sharpen.sdg.strategies.rewrite import BackTranslation, Paraphrase

GPT_3_5 = Prices(input=Decimal("1.5"), output=Decimal("2"))
POOL = [
    Example("a document of six words here", ("a query of six words here",)),
    Example("another document of the same length", ("four words are enough",)),
]
DOCUMENTS = [Document(f"d{n}", "some ten words about one thing and another, number " + str(n)) for n in range(300)]


def test_fifty_thousand_documents_for_fifty_five_dollars():
    """The computation of the Promptagator guide: 700 tokens of prompt and 25 of answer for each of 50,000 documents."""
    asked = CostEstimate("document", calls=50_000, prompt_tokens=700, completion_tokens=25, max_tokens=48)
    assert asked.cost(GPT_3_5) == Decimal("55.00") and GPT_3_5.show(asked.cost(GPT_3_5)) == "55.00 USD"
    assert asked.cost_at_most(GPT_3_5) == Decimal("57.30")


def test_what_comes_from_the_providers_cache_has_its_own_price():
    prices = Prices(input=Decimal(2), output=Decimal(8), cached_input=Decimal("0.5"))
    assert prices.cost(1_000_000, 0, 400_000) == Decimal("1.4")
    assert Prices(input=Decimal(2), output=Decimal(8)).cost(1_000_000, 500_000, 400_000) == 6
    assert (prices.show(Decimal("0.000123")), prices.show(Decimal(0)), prices.show(Decimal("1234.567"))) == (
        "0.000123 USD",
        "0.00 USD",
        "1,234.57 USD",
    )


def test_a_budget_counts_what_is_under_way_at_its_worst():
    spending = Spending(Prices(input=Decimal(1), output=Decimal(1)), budget=Decimal(3))
    assert spending.reserve(1_000_000, 1_000_000) is True
    assert spending.reserve(1_000_000, 1_000_000) is None  # perhaps, when the first one turns out cheaper
    spending.add(500_000, 0)
    spending.release(1_000_000, 1_000_000)
    assert spending.reserve(1_000_000, 1_000_000) is True
    spending.add(1_000_000, 1_000_000)
    spending.release(1_000_000, 1_000_000)
    assert (
        spending.spent == Decimal("2.5")
        and spending.reserve(500_001, 0) is False
        and spending.reserve(500_000, 0) is True
    )
    assert str(spending) == "2.50 USD spent of 3.00 USD"


def test_who_shares_a_purse_shares_the_budget_and_an_answer_is_paid_once():
    prices, purse = Prices(input=Decimal(1), output=Decimal(1)), Purse()
    first, second = (Spending(prices, Decimal(3), purse) for _ in range(2))
    first.add(1_000_000, 0, key="a" * 64)
    second.add(1_000_000, 0, key="a" * 64)  # it is used again
    second.add(500_000, 0, key="b" * 64)
    assert (first.spent, second.spent, purse.spent) == (1, Decimal("1.5"), Decimal("1.5"))
    assert purse.tokens == {"prompt": 1_500_000} and second.tokens == {"prompt": 1_500_000}
    assert purse.row(purse.taken() - first.tokens) == {
        "llm": "",
        "prompt_tokens": 500_000,
        "cached_tokens": 0,
        "completion_tokens": 0,
    }
    assert first.is_counted("b" * 64) and not first.is_counted("c" * 64)
    assert first.reserve(1_500_001, 0) is False and second.reserve(1_500_000, 0) is True
    assert first.reserve(1, 0) is False  # what is under way is not its own: there is nothing to wait for
    second.release(1_500_000, 0)
    assert purse.reserved == 0 and str(first) == "1.00 USD spent here, 1.50 USD of 3.00 USD in all"


def test_a_request_that_was_sent_in_vain_is_counted_and_sent_again_only_within_the_budget():
    spending = Spending(Prices(input=Decimal(1), output=Decimal(1)), budget=Decimal(3))
    assert spending.reserve(1_000_000, 0) and spending.lose(1_000_000, 0) and spending.lose(1_000_000, 0)
    assert not spending.lose(1_000_000, 0)
    spending.release(1_000_000, 0)
    assert spending.spent == spending.purse.spent == 3


def _words(text: str) -> int:
    return len(text.split())


def _estimate(*strategies, count_tokens=_words, **settings):
    estimator = CostEstimator(count_tokens, seed=1, chat=False, **settings)
    return estimator.estimate([s.resolve() for s in strategies], DOCUMENTS, {d.id: d for d in DOCUMENTS})


def test_an_estimate_counts_real_prompts_and_takes_answers_to_be_as_long_as_the_examples():
    one = DocumentStrategy(task="Write.", pool=POOL, examples_per_prompt=2, per_document=2)
    again = Paraphrase(task="Rewrite.", pool=POOL, examples_per_prompt=1)
    rows = _estimate(one, again)
    assert [(r.strategy, r.calls, r.measured) for r in rows] == [("document", 600, 0), ("paraphrase", 600, 0)]
    assert rows[0].completion_tokens == 5
    # "Write.", two examples with their labels (2 words each for text and query), and the document with its labels
    assert rows[0].prompt_tokens == pytest.approx(1 + (6 + 6 + 4) + (6 + 4 + 4) + (10 + 4), abs=0.5)
    assert rows[0].hours(concurrency=1) is None


def test_an_estimate_prefers_what_was_measured():
    def known(request):
        return Answer("x", "stop", 120, 0, 12, seconds=0.5) if "number 1" in request.prompt else None

    (row,) = _estimate(DocumentStrategy(task="Write.", pool=POOL, examples_per_prompt=2), count_tokens=len, known=known)
    assert (row.prompt_tokens, row.completion_tokens, row.seconds) == (120, 12, 0.5) and row.measured >= 10
    assert row.hours(concurrency=2) == pytest.approx(300 * 0.5 / 2 / 3600)


def test_a_first_step_has_a_row_of_its_own_and_what_it_brings_is_in_the_second_prompt():
    back = BackTranslation(
        name="back", pool=[{"document": "one two three", "query": "eins zwei"}], examples_per_prompt=1
    )
    rows = _estimate(DocumentStrategy(task="Write.", pool=POOL, examples_per_prompt=2), back)
    assert [(r.strategy, r.calls, r.completion_tokens) for r in rows] == [
        ("document", 300, 5),
        ("back: translation", 300, 2),
        ("back", 300, 3),
    ]
