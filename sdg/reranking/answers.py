"""What an LLM's answers say of documents: the odds that one is relevant, or the order of several."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sharpen.sdg.answers import parse_json

YES, NO = "yes", "no"
LEAST = 1e-9
"""Least probability of a word that is not among the likeliest."""
_AROUND = " \t\r\n\"'`*.,:!(▁Ġ"
"""Blanks and signs around a word, and the marks that some tokenizers show a blank as."""


def log_odds(first_token: Mapping[str, float]) -> float | None:
    """Logarithm of p(yes) / p(no) by an answer's first token (token to logprob); None if neither is among them.

    The probabilities of all ways to write a word are added. A word that is not among these tokens has what they leave,
    and no more than the least of them.

    >>> round(log_odds({"Yes": -0.2, " yes": -2.5, "No": -3.0}), 2)
    2.9
    >>> round(log_odds({" No": -0.01, " Maybe": -5.5}), 2)
    -5.49
    >>> log_odds({"The": -0.1, "I": -3.0}) is None
    True
    """
    words = {YES: 0.0, NO: 0.0}
    for token, logprob in first_token.items():
        word = token.strip(_AROUND).lower()
        if word in words:
            words[word] += math.exp(min(0.0, logprob))
    if not any(words.values()):
        return None
    probabilities = [math.exp(min(0.0, logprob)) for logprob in first_token.values()]
    unseen = max(LEAST, min(*probabilities, 1 - sum(probabilities)))
    return math.log(words[YES] or unseen) - math.log(words[NO] or unseen)


@dataclass(frozen=True)
class Ranking:
    """Places of the documents shown, from 0, in their new order. ``mended``: the answer did not name each of them
    exactly once."""

    places: tuple[int, ...]
    mended: bool


def parse_ranking(text: str, count: int) -> Ranking | None:
    """The order in an answer: JSON, or ``[3] > [1] > [2]``; None where no document of ``count`` is named.

    As in RankGPT: of a number that is repeated the first one holds, numbers of no document are left out, and documents
    that are not named follow in their old order.

    >>> parse_ranking('{"ranking": [3, 1, 2]}', 3)
    Ranking(places=(2, 0, 1), mended=False)
    >>> parse_ranking('[1] is off-topic. {"ranking": [3, 2, 1]}', 3).places
    (2, 1, 0)
    >>> parse_ranking("The best are [2] > [2] > [9].", 3)
    Ranking(places=(1, 0, 2), mended=True)
    >>> parse_ranking("None of them.", 3) is None
    True
    """
    numbers = _numbers(text)
    named = list(dict.fromkeys(n - 1 for n in numbers if 1 <= n <= count))
    if not named:
        return None
    rest = [place for place in range(count) if place not in named]
    return Ranking((*named, *rest), mended=bool(rest) or len(numbers) != count)


def _numbers(text: str) -> list[int]:
    """The numbers of documents in the order of the answer. A number in other text (``the top 20``) is none."""
    for part in re.findall(r"\{[^{}]*\}", text):  # what was asked for, before what is said of a document by the way
        if numbers := _listed(part):
            return numbers
    if in_brackets := re.findall(r"\[\s*(\d{1,4})\s*\]", text):
        return [int(n) for n in in_brackets]
    if numbers := _listed(text):
        return numbers
    return [int(n) for n in re.findall(r"\d{1,4}", text)] if re.fullmatch(r"[\d\s>,;.\[\]]+", text) else []


def _listed(text: str) -> list[int]:
    """The numbers in JSON's list, or in an object's first one."""
    try:
        value = parse_json(text)
    except ValueError:
        return []
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), None)
    rows = value if isinstance(value, list) else []
    return [int(row) for row in rows if re.fullmatch(r"\d{1,4}", str(row).strip())]


def window_starts(count: int, window: int, step: int) -> list[int]:
    """Where the windows over ``count`` documents begin, in the order in which they are asked: from the last documents
    to the first, so that a good one can rise all the way. One document needs no window.

    >>> window_starts(30, 20, 10), window_starts(35, 20, 10), window_starts(12, 20, 10), window_starts(1, 20, 10)
    ([10, 0], [15, 5, 0], [0], [])
    """
    return [*range(count - window, 0, -step), 0] if count > 1 else []
