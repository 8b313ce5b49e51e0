"""What the verbs of this package share, and would otherwise open twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models, ProgressBar, no_progress
from sharpen.sdg.llm.budget import Purse, Spending
from sharpen.sdg.llm.client import LLMClient, Refused
from sharpen.sdg.llm.settings import JOURNAL, LLM, LLMSettings, open_llm
from sharpen.sdg.llm.workers import asking_ahead


@dataclass
class Resources:
    """Models, LLMs, and how to tell the person what goes on.

    ``models``: encoders and cross-encoders. ``llm``: who is asked where a part names no LLM of its own (None: whatever
    asks for it is an ``InputError``); an ``LLM`` brings its journal. ``journal``: the SQLite file that keeps every
    answer. ``warn``: is given a sentence that a person should read. ``purses``: what each LLM has taken, and is gone
    of its budget, which all that ask it share.
    """

    models: Models = field(default_factory=Models)
    llm: LLMSettings | LLM | None = None
    journal: Path = Path(JOURNAL)
    progress: ProgressBar = no_progress
    warn: Callable[[str], None] = lambda _sentence: None
    purses: dict[str, Purse] = field(default_factory=dict, repr=False)

    _refused: dict[str, Refused] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.llm, LLM):
            self.llm, self.journal = self.llm.settings, self.llm.journal

    def llm_settings(self, other: LLMSettings | None = None) -> LLMSettings:
        """The LLM of a part, or that of all. Raises ``InputError`` if there is neither."""
        if (chosen := other or self.llm) is None:
            raise InputError("no LLM is given, and a strategy, miner or filter asks one; give llm")
        return chosen

    def open_llm(self, other: LLMSettings | None = None) -> AbstractContextManager[LLMClient]:
        """A block that yields the LLM with its journal; on the first process only, so that nothing is asked twice."""
        settings = self.llm_settings(other)
        ahead = asking_ahead(settings, self.models.partitions)
        return open_llm(settings, self.journal, self.spending(settings), self.warn, self._refused, ahead)

    def spending(self, settings: LLMSettings) -> Spending:
        """Where one use of an LLM is counted, within what all uses have left of its budget."""
        purse = self.purses.setdefault(settings.purse, Purse())
        purse.llm = settings.embedded or settings.model  # one that count_spent has made has no names yet
        purse.currency = settings.prices.currency if settings.prices else ""
        return Spending(settings.prices, settings.budget, purse)

    def taken(self) -> dict[str, Counter[str]]:
        """Of each purse: the tokens of all answers so far, each counted once, and the money, which with a budget is
        also that of earlier programs."""
        return {name: purse.taken() for name, purse in self.purses.items()}

    def count_spent(self, amounts: Mapping[str, str]) -> None:
        """Take what was spent before, by this or another program, from the budgets."""
        for name, amount in amounts.items():
            self.purses.setdefault(name, Purse()).spent += Decimal(amount)
