"""What the verbs of this package share, and would otherwise open twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from sharpen.evaluation.files import InputError
from sharpen.evaluation.models import Models, ProgressBar, no_progress
from sharpen.sdg.llm.client import LLM
from sharpen.sdg.llm.settings import LLMSettings, open_llm


@dataclass
class Resources:
    """Models, LLMs, and how to tell the person what goes on.

    ``models``: encoders and cross-encoders. ``llm``: who is asked where a part names no LLM of its own (None: whatever
    asks for it is an ``InputError``). ``journal``: the SQLite file that keeps every answer. ``warn``: is given a sentence
    that a person should read.
    """

    models: Models = field(default_factory=Models)
    llm: LLMSettings | None = None
    journal: Path = Path("llm_answers.sqlite")
    progress: ProgressBar = no_progress
    warn: Callable[[str], None] = lambda _sentence: None

    def llm_settings(self, other: LLMSettings | None = None) -> LLMSettings:
        """The LLM of a part, or that of all. Raises ``InputError`` if there is neither."""
        if (chosen := other or self.llm) is None:
            raise InputError("no LLM is given, and a strategy, miner or filter asks one; give llm")
        return chosen

    def open_llm(self, other: LLMSettings | None = None) -> AbstractContextManager[LLM]:
        """A block that yields the LLM with its journal; on the first process only, so that nothing is asked twice."""
        return open_llm(self.llm_settings(other), self.journal)
